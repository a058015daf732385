"""Writing changes that were made in Keystay into the predecessor's files, field by field.

Nothing is ever written from an old copy: the files are read, changed where something is to change,
checked not to have changed meanwhile, and replaced. What cannot be prevented, since the predecessor
takes no lock, is found afterwards: a write of its own that fell in between is merged, and ours is
made again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from webapp.clock import now
from webapp.legacy.entries import Entries
from webapp.legacy.files import KEY_FILE, SECOND_FACTORS, USERS, LegacyUnreadable, Torn
from webapp.legacy.json_edit import REMOVED, Changes, Inside, Member, NotAnObject, changed
from webapp.legacy.keys import LegacyKey, entries_of, written
from webapp.legacy.late_writes import merge_late_write
from webapp.legacy.records import (
    LegacySecondFactor,
    LegacyUser,
    RejectedRecord,
    parse_user,
    written_time,
)
from webapp.legacy.replace import Edit, NotWritten, Original, Overtaken, holds, locked, replace
from webapp.legacy.structure import fold
from webapp.legacy.tokens import KeyFileNeeded, TokenKeys
from webapp.legacy.users_json import read_token_keys

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.2
_TRIES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the files are to say of one account. What is not mentioned stays as it is.

    `record` holds the fields of a new record, without keys; None, with `why_not`, where the account
    can only be changed. `record_keys` and `record_factor` belong to it: a record that is there
    already, be it ours, has been in the predecessor's hands since, and gets the other fields alone.
    An account that was made in Keystay is told from a namesake by `born_at`.
    """

    username: str
    record: Mapping[str, Any] | None = field(default=None, repr=False)
    record_keys: Mapping[str, LegacyKey] = field(default_factory=dict, repr=False)
    record_factor: LegacySecondFactor | None = None
    why_not: str = ""
    born_at: datetime | None = None
    password_hash: str | None = field(default=None, repr=False)
    is_admin: bool | None = None
    keys: Mapping[str, LegacyKey | None] = field(default_factory=dict, repr=False)
    sets_second_factor: bool = False
    second_factor: LegacySecondFactor | None = None


@dataclass(frozen=True)
class Written:
    """What the files said of the account before, what they say now, and what could not be done.

    With a `problem` nothing of the account was changed.
    """

    before: LegacyUser | None
    after: LegacyUser | None
    problem: str = ""


@dataclass(frozen=True)
class Guard:
    """What the writer asks while it works.

    `before_replace` is told what is about to be written; `permit` is asked right before a file is
    replaced; `tick` is called while it waits; `stamp` returns the state of all sources without
    reading them. What any of them raises ends the writing.
    """

    before_replace: Callable[[Sequence[Written]], None]
    permit: Callable[[], None]
    tick: Callable[[], None]
    stamp: Callable[[], str]


@dataclass(frozen=True)
class WrittenBack:
    """What became of each account, and by their stamps which state of the files became which one.

    The states are None where somebody else wrote meanwhile, so that nobody can tell.
    """

    accounts: Sequence[Written]
    from_state: str | None
    to_state: str | None


def write_back(
    folder: Path, extra_keys: Sequence[str], wanted: Sequence[Wanted], guard: Guard
) -> WrittenBack:
    """Make the files in `folder` say what is `wanted`; return what became of each, in its order.

    Returns when a reading after the last replacement has found all of it. Raises LegacyUnreadable
    (NotWritten for a full disk and the like); whatever was wanted is then to be wanted again.
    """
    with locked(folder):
        deadline = time.monotonic() + _PATIENCE_SECONDS
        first: _Attempt | None = None
        tries = 0
        while True:
            guard.tick()
            try:
                attempt = _Attempt(folder, extra_keys, wanted, guard)
            except (Torn, Overtaken) as error:
                if time.monotonic() > deadline:
                    raise _gave_up(error) from error
                time.sleep(_PAUSE_SECONDS)
                continue
            first = first or attempt
            if attempt.complete:
                accounts = [
                    Written(before.before, after.after, after.problem)
                    for before, after in zip(first.accounts, attempt.accounts, strict=True)
                ]
                states = (first.from_state, attempt.to_state) if tries == 0 else (None, None)
                return WrittenBack(accounts, *states)
            tries += 1
            if tries == _TRIES:
                raise NotWritten(USERS, "is changed by the earlier application again and again")


def look_up(folder: Path, extra_keys: Sequence[str], usernames: Sequence[str]) -> list[Written]:
    """Return what the files say of these accounts now, as `before`. Raises LegacyUnreadable."""
    wanted = [Wanted(username=name) for name in usernames]
    with ExitStack() as closing:
        return list(_Plan(_read(folder, closing), _tokens(folder, extra_keys), wanted).outcomes)


def _gave_up(error: Exception) -> LegacyUnreadable:
    if isinstance(error, LegacyUnreadable):
        return error
    return NotWritten(USERS, "is being written by the earlier application all the time")


class _Attempt:
    """Reads, changes, replaces, once; `complete` unless somebody else's write came in between."""

    def __init__(
        self, folder: Path, extra_keys: Sequence[str], wanted: Sequence[Wanted], guard: Guard
    ) -> None:
        """Raises Torn, Overtaken, LegacyUnreadable."""
        state = guard.stamp()
        with ExitStack() as closing:
            files = _read(folder, closing)
            self.from_state = state if guard.stamp() == state else None
            plan = _Plan(files, _tokens(folder, extra_keys), wanted)
            self.accounts = plan.outcomes
            guard.before_replace(plan.outcomes)
            written = []
            left = []
            late = False
            # Second factors first: killed in between, no account stands there without its own.
            for original, edits in ((files[1], plan.factor_edits), (files[0], plan.user_edits)):
                if edits:
                    written.append((original, replace(original, edits, guard.permit)))
                    late |= merge_late_write(original, guard.tick)
                else:
                    left.append(original)
            # In this order: what is read after the stamp was there when it was taken.
            state = guard.stamp()
            self.complete = not late and all(holds(*one) for one in written)
            self.to_state = state if all(one.is_current() for one in left) else None


def _read(folder: Path, closing: ExitStack) -> tuple[Original, Original]:
    users = closing.enter_context(Original(folder / USERS))
    if not users.exists:
        raise LegacyUnreadable(USERS, f"is missing in {folder}")
    return users, closing.enter_context(Original(folder / SECOND_FACTORS, like=users))


def _tokens(folder: Path, extra_keys: Sequence[str]) -> TokenKeys:
    try:
        key_file = (folder / KEY_FILE).read_bytes()
    except FileNotFoundError:
        key_file = None
    except OSError as error:
        raise LegacyUnreadable(KEY_FILE, f"cannot be read: {error.strerror}") from error
    return read_token_keys(key_file, extra_keys)


class _Plan:
    """What is to be changed in both files, and what each account is before and after."""

    def __init__(
        self, files: tuple[Original, Original], tokens: TokenKeys, wanted: Sequence[Wanted]
    ) -> None:
        """Raises Torn, LegacyUnreadable."""
        self._tokens = tokens
        names = {fold(one.username) for one in wanted}
        self._users = Entries(USERS, files[0].text, names)
        there = {member.name for member in self._users.found.values()}
        names = there | {one.username for one in wanted}
        self._factors = Entries(SECOND_FACTORS, files[1].text, names)
        self._new_users: list[tuple[str, Any]] = []
        self._new_factors: list[tuple[str, Any]] = []
        self.user_edits: list[Edit] = []
        self.factor_edits: list[Edit] = []
        self.outcomes: list[Written] = []
        for one in wanted:
            try:
                self.outcomes.append(self._account(one))
            except RejectedRecord as error:
                problem = f"the account in {USERS} cannot be used: {error}"
                self.outcomes.append(Written(None, None, problem))
            except KeyFileNeeded as error:
                raise LegacyUnreadable(KEY_FILE, f"{error}, and keys are written with it") from None
        self.user_edits.sort(key=lambda edit: edit.begin)
        self.factor_edits.sort(key=lambda edit: edit.begin)
        self.user_edits += self._users.append(self._new_users)
        self.factor_edits += self._factors.append(self._new_factors)

    def _account(self, wanted: Wanted) -> Written:
        member = self._users.found.get(fold(wanted.username))
        if member is None:
            return self._new_account(wanted)
        raw = self._users.raw(member)
        factor, factor_member = self._factor(member.name)
        before = self._parsed(member.name, raw, factor)
        if wanted.born_at is not None and before.created_at != wanted.born_at:
            return Written(before, None, f"{USERS} has another account of this name")
        new = _changed(raw, self._changes(wanted, before, json.loads(raw)))
        if new != raw:
            self.user_edits.append(Edit(member.value, member.end, new))
        if wanted.sets_second_factor and wanted.second_factor != before.second_factor:
            factor = self._write_factor(member.name, factor_member, wanted.second_factor)
        return Written(before, self._parsed(member.name, new, factor))

    def _new_account(self, wanted: Wanted) -> Written:
        if wanted.record is None:
            return Written(None, None, wanted.why_not)
        keys = [key for key in {**wanted.record_keys, **wanted.keys}.values() if key is not None]
        record = dict(wanted.record)
        if keys:
            record["api_keys"] = {
                k: v for key in keys for k, v in written(key, self._tokens).items()
            }
            record["api_keys_updated"] = written_time(now())
        # An entry of this name may be there, left by a rewrite of an old users.json.
        entry, member = self._factor(wanted.username)
        factor = wanted.second_factor if wanted.sets_second_factor else wanted.record_factor
        if factor or wanted.sets_second_factor:
            entry = self._write_factor(wanted.username, member, factor)
        after = self._parsed(wanted.username, _dump(record), entry)
        self._new_users.append((wanted.username, record))
        return Written(None, after)

    def _changes(
        self, wanted: Wanted, before: LegacyUser, raw: Mapping[str, Any]
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if wanted.password_hash is not None and wanted.password_hash != before.password_hash:
            changes["password_hash"] = wanted.password_hash
        if wanted.is_admin is not None and wanted.is_admin != before.is_admin:
            if "role" in raw or "is_admin" not in raw:
                changes["role"] = "admin" if wanted.is_admin else "user"
            if "is_admin" in raw:
                changes["is_admin"] = wanted.is_admin
        entries = raw.get("api_keys")
        keys = self._key_changes(wanted, before, entries if isinstance(entries, dict) else {})
        if keys:
            changes["api_keys"] = Inside(keys)
            changes["api_keys_updated"] = written_time(now())
        return changes

    def _key_changes(
        self, wanted: Wanted, before: LegacyUser, raw: Mapping[str, Any]
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name, key in wanted.keys.items():
            there = before.keys.get(name)
            if there == key:
                continue
            old = entries_of(raw, name)
            new = written(key, self._tokens) if key else {}
            if key and not key.has_fields and old:
                new = {old[0]: new[name]}  # its name there may be another one
            changes |= dict.fromkeys(old, REMOVED) | new
        return changes

    def _factor(self, username: str) -> tuple[Any, Member | None]:
        member = self._factors.found.get(username)
        if member is None:
            return None, None
        return json.loads(self._factors.raw(member)), member

    def _write_factor(
        self, username: str, member: Member | None, factor: LegacySecondFactor | None
    ) -> Any:
        """Return the account's entry of two_fa.json as it will be."""
        new = _written_factor(factor)
        if member is not None:
            changes = new if factor else new | {"secret": REMOVED}
            raw = _changed(self._factors.raw(member), changes)
            self.factor_edits.append(Edit(member.value, member.end, raw))
            return json.loads(raw)
        if factor is None:
            return None
        self._new_factors.append((username, new))
        return new

    def _parsed(self, username: str, raw: bytes, factor: Any) -> LegacyUser:
        return parse_user(username, json.loads(raw), factor, tokens=self._tokens)


def _changed(raw: bytes, changes: Changes) -> bytes:
    if not changes:
        return raw
    try:
        return changed(raw, changes)
    except NotAnObject:
        return _dump({name: new for name, new in changes.items() if new is not REMOVED})


def _written_factor(factor: LegacySecondFactor | None) -> dict[str, Any]:
    if factor is None:
        return {"enabled": False}
    return {"secret": factor.secret, "enabled": factor.enabled}


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode("ascii")
