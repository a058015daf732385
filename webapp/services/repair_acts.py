"""What settles each kind of difference, for each winner, and why some cannot be settled.

Where the predecessor wins, its value becomes a new version here. Where the database wins, the
predecessor's value is kept as a version too, and the mirror writes ours into the files; without the
mirror nobody writes there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.legacy.compare import Difference, Kind, differences
from webapp.legacy.keys import has_place
from webapp.legacy.records import LegacyUser, RejectedRecord
from webapp.legacy.users_json import Snapshot
from webapp.models import ApiKey, Discrepancy, User
from webapp.models.users import fold
from webapp.services import (
    admin,
    audit,
    legacy_accounts,
    legacy_mode,
    legacy_outbox,
    overwritten,
    sessions,
    stored_accounts,
)
from webapp.services.account_comparison import stored_side
from webapp.services.legacy_outbox import Field
from webapp.services.legacy_rows import password
from webapp.services.stored_accounts import Account
from webapp.services.vault import TOTP_SECRET, Vault

Winner = Literal["database", "legacy"]

_NOT_MIRRORED: Final = (
    "the earlier application's files are written with LEGACY_MODE=mirror only; set that, or let the"
    " files win"
)
_STRANGER: Final = (
    "somebody signed up under this name here, who may be another person than that of the files"
)
_DELETED_HERE: Final = "it was deleted here, and does not come back unless somebody asks for it"
_NEVER: Final = {
    Kind.DUPLICATE_USERNAME: "two records of one name: rename one of them in users.json",
    Kind.REJECTED_RECORD: "the record cannot be read: mend it in users.json; the import says why",
}


@dataclass(frozen=True)
class Act:
    """What settles a difference: `says` tells people, `do` does it. Or `why_not`."""

    says: str = ""
    do: Callable[[Session, int], None] = lambda session, run_id: None
    why_not: str = ""


@dataclass(frozen=True)
class Case:
    """A stored difference, and both sides as they are now."""

    row: Discrepancy
    legacy: LegacyUser | RejectedRecord | None
    stored: Account | None
    knows_second_factors: bool = True

    @property
    def is_gone(self) -> bool:
        """Whether the difference is not there any more."""
        kind = Kind(self.row.kind)
        if kind in _NEVER or isinstance(self.legacy, RejectedRecord):
            return False  # the next check closes it
        if self.legacy is None or self.stored is None:
            return kind not in self._of_the_whole_account()
        now_differs = differences(self.legacy, stored_side(self.stored, self.legacy))
        mine = Difference(kind, self.legacy.username, self.row.key_name)
        return mine not in now_differs

    def act(self, winner: Winner, *, is_automatic: bool = False) -> Act:
        """Return what would settle it; where nobody asked, nothing that was deleted comes back."""
        kind = Kind(self.row.kind)
        if kind in _NEVER:
            return Act(why_not=_NEVER[kind])
        if isinstance(self.legacy, RejectedRecord):
            return Act(why_not=_NEVER[Kind.REJECTED_RECORD])
        if self.legacy and legacy_accounts.is_stranger(self.legacy, self.stored):
            return Act(why_not=_STRANGER)
        if kind is Kind.SECOND_FACTOR_DIFFERS and not self.knows_second_factors:
            return Act(why_not="two_fa.json is missing, so nobody knows what it says")
        if is_automatic and self.stored and self.row.key_name in self.stored.keys:
            return Act(why_not=_DELETED_HERE)
        return self._database_wins(kind) if winner == "database" else self._legacy_wins(kind)

    def _of_the_whole_account(self) -> Sequence[Kind]:
        if self.stored is None and self.legacy is not None:
            return (Kind.ONLY_IN_LEGACY,)
        return (Kind.ONLY_IN_DATABASE,) if self.stored is not None else ()

    def _database_wins(self, kind: Kind) -> Act:
        if not legacy_mode.is_mirrored():
            return Act(why_not=_NOT_MIRRORED)
        if kind is Kind.ONLY_IN_LEGACY:
            return Act(
                why_not="accounts are not deleted from the files; import it, or delete it there"
            )
        if kind is Kind.ONLY_IN_DATABASE:
            return self._written_back("account", "write the account into the files")
        if kind is Kind.ROLE_DIFFERS:
            role = "admin" if self._account.is_admin else "user"
            return self._written_back("role", f"set the role in users.json to {role}")
        if kind is Kind.SECOND_FACTOR_DIFFERS:
            return self._written_back("second_factor", "write the second factor into two_fa.json")
        if kind is Kind.PASSWORD_DIFFERS:
            return Act(
                why_not="only an Argon2id hash of the password is left here, which the earlier"
                " application does not read; let the files win, or have the password changed"
            )
        return self._key_written_back()

    def _key_written_back(self) -> Act:
        stored = self._account.keys.get(self.row.key_name)
        if not has_place(self.row.key_name):
            return Act(why_not="the earlier application uses this name for its mail settings")
        if stored and not stored.is_deleted and (stored.payload is None or stored.payload.locked):
            return Act(why_not="the key does not open here, so it cannot be written")
        if stored is None or stored.is_deleted:
            says = "remove the key from the files; its value there is kept here, in the trash"
        else:
            says = "write the key into the files; what stands there is kept as an older version"
        theirs = self._legacy_user.keys.get(self.row.key_name)

        def do(session: Session, run_id: int) -> None:
            if theirs is not None:
                vault = Vault.load_for_sealing(self._account.id)
                overwritten.keep(session, vault, theirs, run_id=run_id)
            legacy_outbox.note(session, self._account.id, "key", self.row.key_name)

        return Act(says, do)

    def _written_back(self, field: Field, says: str) -> Act:
        user_id = self._account.id
        return Act(says, lambda session, _: legacy_outbox.note(session, user_id, field))

    def _legacy_wins(self, kind: Kind) -> Act:
        if kind is Kind.ONLY_IN_DATABASE:
            return Act(why_not="accounts are not deleted here; disable it, or let the database win")
        if kind is Kind.LOCKED_IN_LEGACY:
            return Act(
                why_not="no key at hand opens it; name the one that does in LEGACY_ENCRYPTION_KEYS"
            )
        acts: dict[Kind, Act] = {
            Kind.ONLY_IN_LEGACY: Act("import the account with its keys", self._import_account),
            Kind.KEY_ONLY_IN_DATABASE: Act(
                "put the key into the trash here; it can be restored", self._delete_key
            ),
            Kind.ROLE_DIFFERS: Act("take the role from users.json", self._take_role),
            Kind.PASSWORD_DIFFERS: Act(
                "take the password of the files; the one chosen here ends, and all sessions",
                self._take_password,
            ),
            Kind.SECOND_FACTOR_DIFFERS: Act(
                "take the second factor of two_fa.json, and end all sessions", self._take_factor
            ),
        }
        return acts.get(kind) or Act(self._key_taken(), self._take_key)

    def _key_taken(self) -> str:
        stored = self._account.keys.get(self.row.key_name)
        if stored is None:
            return "import the key"
        if stored.is_deleted:
            return "bring the key back out of the trash here, with the value of the files"
        return "take the value of the files as a new version; the one stored here is kept"

    def _import_account(self, session: Session, run_id: int) -> None:
        legacy_accounts.write(session, [self._legacy_user], run_id=run_id)

    def _take_key(self, session: Session, run_id: int) -> None:
        vault = Vault.load_for_sealing(self._account.id)
        key, stored = (
            self._legacy_user.keys[self.row.key_name],
            self._account.keys.get(self.row.key_name),
        )
        expires_at = stored.expires_at if stored else None
        legacy_accounts.add_imported_version(
            session, vault, key, expires_at=expires_at, run_id=run_id
        )

    def _delete_key(self, session: Session, run_id: int) -> None:
        self._trash(session)
        audit.record("key.deleted", subject_id=self._account.id, name=self.row.key_name)

    def _trash(self, session: Session) -> None:
        session.execute(
            update(ApiKey)
            .where(ApiKey.user_id == self._account.id, ApiKey.name == self.row.key_name)
            .values(deleted_at=now())
        )

    def _take_role(self, session: Session, run_id: int) -> None:
        admin.set_role(session, self._account.id, is_admin=self._legacy_user.is_admin)

    def _take_password(self, session: Session, run_id: int) -> None:
        vault = Vault.load_for_sealing(self._account.id)
        self._change(session, **password(self._legacy_user, vault), legacy_hash=None)
        audit.record("password.imported", subject_id=self._account.id, run=run_id)

    def _take_factor(self, session: Session, run_id: int) -> None:
        factor = self._legacy_user.second_factor
        if factor is None or not factor.enabled:
            self._change(session, totp_secret=None, totp_enabled_at=None)
            audit.record("second_factor.disabled", subject_id=self._account.id, factor="totp")
            return
        vault = Vault.load_for_sealing(self._account.id)
        sealed = vault.seal(TOTP_SECRET, factor.secret.encode())
        self._change(session, totp_secret=sealed, totp_enabled_at=now(), totp_last_step=0)
        audit.record(
            "second_factor.imported", subject_id=self._account.id, enabled=True, run=run_id
        )

    def _change(self, session: Session, **columns: object) -> None:
        session.execute(update(User).where(User.id == self._account.id).values(**columns))
        sessions.end_all(self._account.id)

    @property
    def _account(self) -> Account:
        assert self.stored is not None  # noqa: S101 - is_gone otherwise
        return self.stored

    @property
    def _legacy_user(self) -> LegacyUser:
        assert isinstance(self.legacy, LegacyUser)  # noqa: S101 - is_gone otherwise
        return self.legacy


def load_cases(
    rows: Sequence[Discrepancy], snapshot: Snapshot, session: Session, *, for_update: bool = False
) -> Iterator[Case]:
    """Yield each difference with both sides as they are now.

    The database's side is read anew for each, since settling one may settle another; with
    `for_update`, inside `transaction()`, nobody changes it until that ends.
    """
    for row in rows:
        name = fold(row.username)
        stored = stored_accounts.load(session, [name], for_update=for_update)
        legacy = snapshot.find(row.username)
        yield Case(row, legacy, stored.get(name), snapshot.knows_second_factors)
