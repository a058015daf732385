"""A batch of an import, made ready without the database: parsed, judged, and what is new sealed.

That takes plain data and gives some, so that a helper can do it (webapp/parallel.py), ahead of the
transaction that writes the batch. An account that exists and is left as it is, is so as of when it
was read; one that is changed is looked at once more in that transaction.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from webapp.crypto.keyring import Keyring
from webapp.db import lock
from webapp.legacy.accounts import Account, AccountParser, Unparsed
from webapp.legacy.records import LegacyUser, RejectedRecord, printable
from webapp.models.users import fold
from webapp.services import legacy_accounts, stored_accounts
from webapp.services.import_report import Rejected
from webapp.services.legacy_accounts import Counts, Outcome
from webapp.services.legacy_rows import SealedRows, insert_accounts, seal_accounts
from webapp.services.stored_accounts import StoredRows


class Batch(NamedTuple):
    """What the sources say and what the database has; an id for each name that it does not have."""

    unparsed: Sequence[Unparsed]
    stored: StoredRows
    user_ids: Sequence[int]


class ReadyBatch(NamedTuple):
    """What becomes of a batch.

    `counts`, `strangers` and `new` leave out the accounts at the positions `unsettled`: those exist
    and are changed perhaps, which only a transaction can say.
    """

    new: SealedRows
    counts: Counts
    strangers: Sequence[str]
    unsettled: Sequence[int]
    rejected: Sequence[Rejected]
    warnings: Sequence[str]


class Preparation:
    """Makes batches ready, with the keys of both sides at hand."""

    def __init__(self, parse: AccountParser, keyring: Keyring, run_id: int) -> None:
        self._parse = parse
        self._keyring = keyring
        self._run_id = run_id

    def __call__(self, batch: Batch) -> ReadyBatch:
        """Raises LegacyUnreadable like `AccountParser`."""
        existing = stored_accounts.opened(batch.stored, self._keyring)
        new: list[LegacyUser] = []
        settled: list[LegacyUser] = []
        strangers: list[str] = []
        unsettled: list[int] = []
        accounts = [self._parse(found) for found in batch.unparsed]
        for position, user in enumerate(account.user for account in accounts):
            if isinstance(user, RejectedRecord):
                continue
            stored = existing.get(fold(user.username))
            if stored is None:
                new.append(user)
            elif legacy_accounts.is_stranger(user, stored):
                strangers.append(user.username)
            elif legacy_accounts.is_settled(user, stored):
                settled.append(user)
            else:
                unsettled.append(position)
        _, rejected, warnings = sort_out(accounts)
        ids = batch.user_ids[: len(new)]
        return ReadyBatch(
            seal_accounts(new, ids, self._run_id, self._keyring),
            legacy_accounts.count([*new, *settled], existing),
            strangers,
            unsettled,
            rejected,
            warnings,
        )

    def users(self, batch: Batch, positions: Sequence[int]) -> list[LegacyUser]:
        """Return the accounts at `positions`, none of which is rejected."""
        return sort_out([self._parse(batch.unparsed[position]) for position in positions])[0]


def write(
    session: Session, ready: ReadyBatch, unsettled: Sequence[LegacyUser], run_id: int
) -> Outcome:
    """Write what was made ready, and what is to be done about `unsettled`. In `transaction()`.

    Raises IntegrityError when somebody else has made one of the accounts meanwhile, or taken its
    id.
    """
    lock(legacy_accounts.LOCK, session)
    insert_accounts(session, ready.new)
    if not unsettled:
        return Outcome(ready.counts, ready.strangers)
    counts, strangers = legacy_accounts.write(session, unsettled, run_id=run_id)
    return Outcome(ready.counts + counts, [*ready.strangers, *strangers])


def sort_out(
    batch: Sequence[Account],
) -> tuple[list[LegacyUser], list[Rejected], list[str]]:
    """Return the accounts that can be imported, the others, and sentences about the former."""
    users: list[LegacyUser] = []
    rejected: list[Rejected] = []
    warnings: list[str] = []
    for account in batch:
        if isinstance(account.user, RejectedRecord):
            rejected.append(Rejected(printable(account.username), str(account.user)))
        else:
            users.append(account.user)
            name = printable(account.username)
            warnings.extend(f"{name}: {warning}" for warning in account.user.warnings)
    return users, rejected, warnings
