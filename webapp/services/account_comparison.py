"""Comparing accounts of the predecessor with the database's, a batch at a time.

What goes in and what comes out is plain data and nothing else is read, so that a helper can do it
(webapp/parallel.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

from webapp.crypto.keyring import Keyring
from webapp.legacy.accounts import AccountParser, Unparsed
from webapp.legacy.compare import Difference, Kind, StoredUser, differences
from webapp.legacy.records import DuplicateName, LegacyUser, RejectedRecord, printable
from webapp.models.users import fold
from webapp.services import stored_accounts
from webapp.services.legacy_rows import password_state
from webapp.services.stored_accounts import Account, StoredRows
from webapp.services.vault import TOTP_SECRET, Locked


class Batch(NamedTuple):
    """What the sources say, and what the database has under those names."""

    unparsed: Sequence[Unparsed]
    stored: StoredRows


class Finding(NamedTuple):
    """The differences of the account at `position` of the batch.

    `user_id` is None where they are no comparison of two sides.
    """

    position: int
    user_id: int | None
    differences: Sequence[Difference]

    def without(self, kind: Kind) -> "Finding":
        """Return it without the differences of one kind."""
        return self._replace(differences=[one for one in self.differences if one.kind != kind])


class Outcome(NamedTuple):
    """How many accounts of a batch are equal, and what there is about the others."""

    equal: int
    findings: Sequence[Finding]


class Comparison:
    """Compares batches, with the keys of both sides at hand."""

    def __init__(
        self, parse: AccountParser, keyring: Keyring, *, knows_second_factors: bool = True
    ) -> None:
        """Where two_fa.json is missing nothing is said about second factors."""
        self._parse = parse
        self._keyring = keyring
        self._knows_second_factors = knows_second_factors

    def __call__(self, batch: Batch) -> Outcome:
        """Raises LegacyUnreadable like `AccountParser`."""
        stored = stored_accounts.opened(batch.stored, self._keyring)
        findings = []
        for position, found in enumerate(batch.unparsed):
            account = self._parse(found)
            finding = _compare(position, account.user, found.username, stored)
            if not self._knows_second_factors:
                finding = finding.without(Kind.SECOND_FACTOR_DIFFERS)
            if finding.differences:
                findings.append(finding)
        return Outcome(len(batch.unparsed) - len(findings), findings)

    def sides(self, batch: Batch, finding: Finding) -> tuple[LegacyUser, Account]:
        """Return both sides of an account that has both."""
        assert finding.user_id is not None  # noqa: S101 - that is what it says
        (stored,) = stored_accounts.opened(batch.stored.of(finding.user_id), self._keyring).values()
        user = self._parse(batch.unparsed[finding.position]).user
        assert isinstance(user, LegacyUser)  # noqa: S101 - it was compared
        return user, stored


def _compare(
    position: int,
    user: LegacyUser | RejectedRecord,
    username: str,
    stored: dict[str, Account],
) -> Finding:
    account = stored.get(fold(username))
    if account is not None and isinstance(user, LegacyUser):
        return Finding(position, account.id, differences(user, stored_side(account, user)))
    if isinstance(user, DuplicateName):
        kind = Kind.DUPLICATE_USERNAME
    elif isinstance(user, RejectedRecord):
        kind = Kind.REJECTED_RECORD
    else:
        kind = Kind.ONLY_IN_LEGACY
    return Finding(position, None, [Difference(kind, printable(username))])


def stored_side(account: stored_accounts.Account, legacy: LegacyUser) -> StoredUser:
    """Return the database's side of an account, to compare it with `legacy`."""
    keys = {
        name: stored_accounts.as_legacy(name, key.payload) if key.payload else None
        for name, key in account.keys.items()
        if not key.is_deleted
    }
    return StoredUser(
        account.username,
        account.is_admin,
        keys,
        same_password=_same_password(account, legacy),
        same_second_factor=_same_second_factor(account, legacy),
    )


def _same_password(account: stored_accounts.Account, legacy: LegacyUser) -> bool | None:
    if not account.legacy_password:
        return None if account.legacy_password is None else False
    try:
        known = account.vault.fingerprint(password_state(legacy.password_hash))
    except Locked:
        return None
    return known == account.legacy_password


def _same_second_factor(account: stored_accounts.Account, legacy: LegacyUser) -> bool | None:
    """Whether both sides ask for the same codes; one that is only prepared is not asked for."""
    factor = legacy.second_factor
    asked = factor.secret if factor and factor.enabled else None
    if account.second_factor != "enabled":
        return asked is None
    try:
        secret = account.vault.open(TOTP_SECRET, account.sealed_totp or "")
    except Locked:
        return None
    return asked is not None and secret == asked.encode("ascii")
