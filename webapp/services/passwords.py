"""What a new password must be, and the hasher of this process."""

import re
from functools import cache
from typing import cast

from flask import current_app

from webapp.config import ROOT, current_settings
from webapp.crypto.hashing import PasswordHashes
from webapp.services.errors import InvalidInput

MIN_LENGTH = 12
MAX_LENGTH = 256
_LEAST_DISTINCT = 5
_PRODUCT = "keystay"
_LIST = ROOT / "webapp" / "data" / "common_passwords.txt"
# What people put before and behind a word to satisfy a rule.
_TRIMMINGS = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_REPEATED = re.compile(r"(.+?)\1+")


class UnacceptablePassword(InvalidInput):
    """The password may not be used; the message says why."""

    field = "password"


def check_new_password(password: str, *, username: str) -> None:
    """Raise UnacceptablePassword for a password that may not be chosen.

    12 to 256 characters of any kind, compared as they are: nothing is trimmed, nothing has to
    occur. Refused is what stands in the bundled list of common passwords, also repeated or with
    digits and signs around it, and what contains the product's or the person's name (ASVS 6.2.1,
    6.2.4, 6.2.5, 6.2.8, 6.2.9, 6.2.11, 6.2.12).
    """
    if len(password) < MIN_LENGTH:
        raise UnacceptablePassword(f"Use at least {MIN_LENGTH} characters.")
    if len(password) > MAX_LENGTH:
        raise UnacceptablePassword(f"Use at most {MAX_LENGTH} characters.")
    if "\0" in password:
        raise UnacceptablePassword("This holds a character that is not allowed.")
    folded = password.casefold()
    if len(set(folded)) < _LEAST_DISTINCT:
        raise UnacceptablePassword("Use more different characters.")
    for word in (_PRODUCT, username.casefold()):
        if _is_about(folded, word):
            raise UnacceptablePassword(
                "Do not use your username or the name of this application in it."
            )
    if any(form in _common_passwords() for form in _forms(folded)):
        raise UnacceptablePassword("This is a common password; choose another.")


def password_hashes() -> PasswordHashes:
    """Return the hasher of this process, at the cost that the settings name."""
    made = current_app.extensions.get("keystay_password_hashes")
    if made is None:
        cost = current_settings().password_cost
        made = PasswordHashes(cost.memory_kib, cost.passes, cost.lanes)
        current_app.extensions["keystay_password_hashes"] = made
    return cast("PasswordHashes", made)


def _is_about(folded: str, word: str) -> bool:
    # A name of three letters occurs in many words; as the whole password it does not pass either.
    return word in folded if len(word) > 3 else word in _forms(folded)


def _forms(folded: str) -> set[str]:
    """Return the password as it is, without its trimmings, and what it repeats."""
    forms = {folded, _TRIMMINGS.sub("", folded)}
    repeated = (_REPEATED.fullmatch(form) for form in tuple(forms))
    return forms | {match[1] for match in repeated if match}


@cache
def _common_passwords() -> frozenset[str]:
    lines = _LIST.read_text(encoding="ascii").splitlines()
    return frozenset(line for line in lines if not line.startswith("# "))
