"""One account after the other out of what the sources say, in whatever process."""

from typing import NamedTuple

from webapp.legacy.files import KEY_FILE, USERS, LegacyUnreadable
from webapp.legacy.merge import parse_both, parse_row
from webapp.legacy.records import DuplicateName, LegacyUser, RejectedRecord, parse_user
from webapp.legacy.rows import RowRecord
from webapp.legacy.tokens import KeyFileNeeded, TokenKeys


class Unparsed(NamedTuple):
    """What the sources say about one account; plain data, which can be sent to a helper.

    `number` counts records from 0, in the file and then the database. `row` is what the database
    says, alone where the file has no record. `stands_twice_in` says where, if the name came before.
    """

    number: int
    username: str
    record: object
    second_factor: object
    row: RowRecord | None
    is_alone: bool = False
    stands_twice_in: str | None = None


class Account(NamedTuple):
    """One record: its number from 0, in the file and then the database, its name, what it holds."""

    number: int
    username: str
    user: LegacyUser | RejectedRecord


class AccountParser:
    """Makes accounts of what the sources say, with the Fernet keys that were found."""

    def __init__(self, tokens: TokenKeys) -> None:
        self._tokens = tokens

    @property
    def lacks_key_file(self) -> bool:
        return self._tokens.problem is not None

    def __call__(self, found: Unparsed) -> Account:
        """Raises LegacyUnreadable when a token needs the key file and that cannot be used."""
        try:
            return Account(found.number, found.username, self._user(found))
        except RejectedRecord as rejected:
            return Account(found.number, found.username, rejected)
        except KeyFileNeeded as error:
            place = "the database" if found.is_alone else USERS
            raise LegacyUnreadable(KEY_FILE, f"{error}, and values in {place} need it") from error

    def _user(self, found: Unparsed) -> LegacyUser:
        _, username, record, factor, row, is_alone, place = found
        if row is not None and row.reason is not None:
            raise RejectedRecord(row.reason)
        if place is not None:
            raise DuplicateName(place)
        if row is None:
            return parse_user(username, record, factor, tokens=self._tokens)
        if is_alone:
            return parse_row(row, factor, tokens=self._tokens)
        return parse_both(record, row, factor, tokens=self._tokens)
