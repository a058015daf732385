"""What the predecessor's files know that the import has not brought over yet."""

from collections.abc import Collection

from webapp.services.key_payload import Payload


def ensure_imported(username: str) -> bool:
    """Bring this one account in from the legacy files if it is there and nobody did yet.

    Return whether it is in the database afterwards. Without legacy files, or when this very state
    of the files was imported whole, nothing is read.
    """
    return False


def username_in_legacy(username: str) -> bool:
    """Whether the files hold this username, ignoring case."""
    return False


def keys_not_imported(username: str, stored: Collection[str]) -> dict[str, Payload]:
    """Return the keys of the user in the legacy file that the database has no row for yet.

    Empty when this very state of the files was imported whole, and when the files cannot be read
    (which the admin page shows): the database's keys are answer enough then.
    """
    return {}
