"""What the mirror still owes the predecessor's files: differences that are none."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Row, select

from webapp.clock import now
from webapp.db import db, transaction
from webapp.legacy.compare import Difference, Kind
from webapp.legacy.records import LegacyUser
from webapp.models import OutboxEntry
from webapp.services import legacy_mode, legacy_outbox
from webapp.services.legacy_outbox import Field
from webapp.services.stored_accounts import Account
from webapp.services.vault import Locked

_OLDEST_COPY: Final = timedelta(days=7)
"""So long a process of the predecessor may hold a copy in its memory before it writes it."""
_FIELDS: Final = {
    Kind.ROLE_DIFFERS: "role",
    Kind.PASSWORD_DIFFERS: "password",
    Kind.SECOND_FACTOR_DIFFERS: "second_factor",
}


class Place(NamedTuple):
    """A field of an account; `key_name` is empty unless the field is `key`."""

    user_id: int
    field: str
    key_name: str


class Pending:
    """The newest note of each field of some accounts.

    `count` counts the differences that turned out to be waiting.
    """

    def __init__(self, notes: Iterable[Row[Any]]) -> None:
        """Take notes of which the newest come first."""
        self._notes: dict[int, dict[Place, Row[Any]]] = defaultdict(dict)
        self._reverted: list[Place] = []
        self.count = 0
        for note in notes:
            place = Place(note.user_id, note.field, note.key_name)
            self._notes[note.user_id].setdefault(place, note)

    def concerns(self, user_id: int) -> bool:
        """Whether there is a note of this account at all."""
        return user_id in self._notes

    def without_pending(
        self, stored: Account, legacy: LegacyUser, found: Sequence[Difference]
    ) -> list[Difference]:
        """Return those differences that are not waiting to be written.

        What the predecessor undid by a rewrite of an old copy waits again.
        """
        return [one for one in found if not self._waits(stored, legacy, _place(stored.id, one))]

    def is_new_there(self, user_id: int) -> bool:
        """Whether an account that the files do not have is on its way there."""
        note = self._notes.get(user_id, {}).get(Place(user_id, "account", ""))
        if note is None:
            return False
        if note.applied_at is not None:
            if not is_reverted(note, ""):
                return False
            self._reverted.append(Place(user_id, "account", ""))
        self.count += 1
        return True

    def note_reverted(self) -> None:
        """Note again what was undone, so that it is written again."""
        if self._reverted:
            with transaction() as session:
                for user_id, field, key_name in self._reverted:
                    legacy_outbox.note(session, user_id, cast("Field", field), key_name)

    def _waits(self, stored: Account, legacy: LegacyUser, place: Place) -> bool:
        notes = self._notes[stored.id]
        account = notes.get(Place(stored.id, "account", ""))
        note = notes.get(place)
        if account is not None and account.applied_at is None:
            self.count += 1
            return True
        if note is None:
            return False
        if note.applied_at is not None and not _is_reverted(note, stored, legacy):
            return False
        if note.applied_at is not None:
            self._reverted.append(place)
        self.count += 1
        return True


def load(user_ids: Sequence[int]) -> Pending:
    """Return what is pending of these accounts: one statement, none unless changes are mirrored."""
    if not user_ids or not legacy_mode.is_mirrored():
        return Pending(())
    return Pending(
        db.session.execute(
            select(
                OutboxEntry.user_id,
                OutboxEntry.field,
                OutboxEntry.key_name,
                OutboxEntry.applied_at,
                OutboxEntry.problem,
                OutboxEntry.before,
                OutboxEntry.after,
            )
            .where(OutboxEntry.user_id.in_(user_ids))
            .order_by(OutboxEntry.id.desc())
        )
    )


def is_reverted(note: Row[Any], now_there: str) -> bool:
    """Whether the files say what they said before the note was applied: an old copy came back.

    `now_there` is the fingerprint of what they say. What is neither was changed there later, and so
    was what was the same for a week.
    """
    was_written = note.after is not None and note.applied_at > now() - _OLDEST_COPY
    return bool(was_written and note.before != note.after and now_there == note.before)


def _is_reverted(note: Row[Any], stored: Account, legacy: LegacyUser) -> bool:
    try:
        found = legacy_outbox.fingerprint(stored.vault, legacy, note.field, note.key_name)
    except Locked:
        return False
    return is_reverted(note, found)


def _place(user_id: int, found: Difference) -> Place:
    return Place(user_id, _FIELDS.get(found.kind, "key"), found.key_name)
