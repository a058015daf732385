"""What the predecessor's files, and its database, know that the import has not brought over yet.

It costs next to nothing once the present state of the files was imported whole. Until then each
process reads the files once for each state of them, and finds single accounts in an index.
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog
from flask import Flask, current_app
from sqlalchemy import exists, func, select
from sqlalchemy.exc import IntegrityError

from webapp.config import Settings, current_settings
from webapp.db import db, transaction
from webapp.legacy import files
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import Snapshot
from webapp.models import Run, User
from webapp.models.users import fold
from webapp.services import legacy_accounts, legacy_mode, legacy_sources, runs
from webapp.services.errors import ServiceError
from webapp.services.key_payload import Payload
from webapp.services.key_store import Owner
from webapp.services.legacy_rows import payload_of
from webapp.services.legacy_sources import open_sources

_PATIENCE_SECONDS = 0.5
"""How long a request waits for a file that is being written."""
_MOST_OF_THE_TIME = 10
"""What was read serves for so many times as long as reading took, even when the files changed."""

_ASKED_EVERY_SECONDS = 2.0
"""An import that ends meanwhile is noticed so much later, and so is that one was undone."""

_SMALL_BYTES = 4 << 20
"""A users.json of up to this size is read while somebody waits: some tenths of a second."""

_log = structlog.get_logger(__name__)


class NamesUnknown(ServiceError):
    """The files cannot be read, so nobody knows whether a name is taken there."""

    message = (
        "The earlier application's files cannot be read at the moment, so it is not known whether"
        " this name is free. Try again shortly."
    )


def find_account(username: str, *, may_wait: bool = True) -> LegacyUser | None:
    """Return the account that the files have, ignoring case, and that may not be imported yet.

    None without legacy files, when this very state of them was imported whole, and when they cannot
    be read, which the admin page shows; unless the caller `may_wait`, also while a large file is
    being read.
    """
    settings = current_settings()
    if not legacy_mode.is_on():
        return None
    try:
        state = _state(settings, fresh=False)
        if _was_imported(state):
            return None
        if not may_wait and not _is_at_hand(settings, state):
            return None
        with _index(settings, state, fresh=False) as snapshot:
            found = snapshot.find(username)
    except LegacyUnreadable as error:
        _log.warning("legacy_files_unreadable", reason=str(error))
        return None
    return found if isinstance(found, LegacyUser) else None


def ensure_imported(username: str) -> bool:
    """Bring the account that `find_account` finds into the database; return whether there is one.

    However many callers do this together, it is made once. It may read the files, so not inside
    `transaction()`, where others would wait for it.
    """
    user = find_account(username)
    if user is None:
        return False
    with transaction() as session:
        try:
            with session.begin_nested():
                legacy_accounts.write(session, [user])
        except IntegrityError:
            _log.info("legacy_account_came_first", username=user.username)
    return True


def username_in_legacy(username: str) -> bool:
    """Whether the files hold this username, ignoring case, be it in a record that was rejected.

    Asked at signup, where a wrong no would hand somebody's keys to a stranger: the files are looked
    into as they are now, unless an import of just this state brought all of them, which a huge file
    is glad of. Raises NamesUnknown when they cannot be read.
    """
    settings = current_settings()
    if not legacy_mode.is_on():
        return False
    try:
        state = _state(settings, fresh=True)
        if _everybody_is_here(state):
            return _is_here(username)
        with _index(settings, state, fresh=True) as snapshot:
            return username in snapshot
    except LegacyUnreadable as error:
        raise NamesUnknown from error


def keys_not_imported(owner: Owner, stored: Collection[str]) -> dict[str, Payload]:
    """Return the keys of `owner` in the legacy file that the database has no row for yet.

    Empty for who has signed up here, and may be somebody else than the person of the file, unless
    the file's record is what the mirror wrote for them. Empty when this very state of the files was
    imported whole, and when they cannot be read: the database's keys are answer enough then, and
    the admin page shows it. Nobody who has keys here waits until a huge file was read: it is read
    beside, and until then an older state of it serves, or none.
    """
    user = find_account(owner.username, may_wait=False)
    if user is None or (owner.self_registered and user.created_at != owner.created_at):
        return {}
    return {name: payload_of(key) for name, key in user.keys.items() if name not in stored}


def forget(app: Flask) -> None:
    """Close what `app` keeps of the sources; whoever asks next has them read again."""
    legacy_sources.forget(app)
    cache: _Cache | None = app.extensions.pop("keystay_legacy_cache", None)
    if cache is not None and cache.snapshot is not None:
        cache.snapshot.close()


def _state(settings: Settings, *, fresh: bool) -> str:
    """Return the state of the sources; unless `fresh`, that of the database a moment ago."""
    assert settings.legacy_dir is not None  # noqa: S101 - legacy_enabled says so
    return legacy_sources.stamp(settings.legacy_dir, fresh=fresh)


def _was_imported(state: str) -> bool:
    """Whether all that the files have is in the database, or was when an import brought it.

    After an import was undone, the earlier ones say nothing any more about what is there.
    """
    cache = _cache()
    recently = time.monotonic() < cache.asked_at + _ASKED_EVERY_SECONDS
    if cache.state != state or not recently:
        cache.was_imported = _import_of(state) is not None
        cache.state, cache.asked_at = state, time.monotonic()
    return cache.was_imported


def _everybody_is_here(state: str) -> bool:
    """Whether an import brought every single record of this state of the files."""
    counts = _import_of(state)
    return counts is not None and counts.get("records_rejected") == 0


def _import_of(state: str) -> Mapping[str, int] | None:
    """Return the counts of the import of this state, if there was one and it still counts."""
    undone = select(func.coalesce(func.max(Run.id), 0)).where(Run.kind == runs.LEGACY_UNDO)
    return db.session.scalar(
        select(Run.counts)
        .where(
            Run.kind == runs.LEGACY_IMPORT,
            Run.status == "finished",
            Run.source == state,
            Run.id > undone.scalar_subquery(),
        )
        .order_by(Run.id.desc())
        .limit(1)
    )


def _is_here(username: str) -> bool:
    return bool(db.session.scalar(select(exists().where(User.username_folded == fold(username)))))


@dataclass
class _Cache:
    """What this process remembers of the files."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    state: str = ""
    """The state of the files about which the database was asked at `asked_at`."""
    was_imported: bool = False
    asked_at: float = 0.0
    snapshot: Snapshot | None = None
    read_at: float = 0.0
    took: float = 0.0
    reading: threading.Thread | None = None
    """Reads a large file for those who do not wait for it."""


def _cache() -> _Cache:
    cache: _Cache = current_app.extensions.setdefault("keystay_legacy_cache", _Cache())
    return cache


def _is_at_hand(settings: Settings, state: str) -> bool:
    """Whether the files can be looked into without waiting; else they are read beside."""
    assert settings.legacy_dir is not None  # noqa: S101 - legacy_enabled says so
    cache = _cache()
    if cache.reading is not None and cache.reading.is_alive():
        return False
    kept = cache.snapshot
    if kept is not None and kept.stamp == state:
        return True
    if files.size(settings.legacy_dir) <= _SMALL_BYTES:
        return True
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # for another thread

    def read() -> None:
        with (
            app.app_context(),
            suppress(LegacyUnreadable),
            _index(settings, state, fresh=False) as snapshot,
        ):
            snapshot.index()

    cache.reading = threading.Thread(target=read, name="legacy-index", daemon=True)
    cache.reading.start()
    return False


@contextmanager
def _index(settings: Settings, state: str, *, fresh: bool) -> Iterator[Snapshot]:
    """Hold the snapshot of this process for the block, read anew when the files have changed.

    Unless `fresh`, an older one serves for a while, so that files which change all the time do not
    keep the process reading.
    """
    assert settings.legacy_dir is not None  # noqa: S101 - legacy_enabled says so
    cache = _cache()
    with cache.lock:
        kept = cache.snapshot
        age = time.monotonic() - cache.read_at
        recent = not fresh and age < cache.took * _MOST_OF_THE_TIME
        if kept is None or (kept.stamp != state and not recent):
            started = time.monotonic()
            cache.snapshot = open_sources(settings.legacy_dir, patience_seconds=_PATIENCE_SECONDS)
            if kept is not None:
                kept.close()
            cache.read_at = time.monotonic()
            cache.took = cache.read_at - started
            kept = cache.snapshot
        started = time.monotonic()
        yield kept
        cache.took = max(cache.took, time.monotonic() - started)  # the first search makes the index
