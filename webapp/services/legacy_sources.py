"""All that the predecessor left, opened and stamped together: its files and its own database."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy.engine import URL

from webapp.config import current_settings
from webapp.legacy import files
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.rows import combined_stamp
from webapp.legacy.users_json import Snapshot, open_snapshot
from webapp.services import legacy_database
from webapp.services.legacy_database import RecentStamp

UNREADABLE = "unreadable"
"""Stands for the state of sources that do not tell it: whoever reads them then learns why."""
_RECENT = "keystay_legacy_database"


def stamp(folder: Path, *, fresh: bool = True) -> str:
    """Return the state of the sources without reading them. Raises LegacyUnreadable.

    Unless `fresh`, that of a database server is the one of a moment ago, for who asks often.
    """
    of_files = files.stamp(folder, current_settings().legacy_encryption_keys).text
    url = _database_of(folder)
    return combined_stamp(of_files, _recent().get(url, fresh=fresh) if url else None)


def stamp_or_unreadable(folder: Path, *, fresh: bool = True) -> str:
    """Return what `stamp` does, or UNREADABLE."""
    try:
        return stamp(folder, fresh=fresh)
    except LegacyUnreadable:
        return UNREADABLE


def stamp_of_files(folder: Path) -> str:
    """Return the state of the files alone, or UNREADABLE."""
    try:
        return files.stamp(folder, current_settings().legacy_encryption_keys).text
    except LegacyUnreadable:
        return UNREADABLE


def open_sources(
    folder: Path, *, patience_seconds: float = 60.0, tick: Callable[[], None] = lambda: None
) -> Snapshot:
    """Return one consistent state of each source, as `open_snapshot` does. Raises likewise."""
    url = _database_of(folder)
    return open_snapshot(
        folder,
        current_settings().legacy_encryption_keys,
        database=partial(legacy_database.read, url, patience_seconds) if url else None,
        patience_seconds=patience_seconds,
        tick=tick,
    )


def forget(app: Flask) -> None:
    """Let the next who asks `app` have the state as it is now."""
    app.extensions.pop(_RECENT, None)


def _recent() -> RecentStamp:
    recent: RecentStamp = current_app.extensions.setdefault(_RECENT, RecentStamp())
    return recent


def _database_of(folder: Path) -> URL | None:
    """Return the database that belongs to `folder`: it was set for LEGACY_DIR, for no other."""
    settings = current_settings()
    if settings.legacy_database_url is None or not settings.legacy_enabled:
        return None
    is_its_folder = settings.legacy_dir and folder.resolve() == settings.legacy_dir.resolve()
    return settings.legacy_database_url if is_its_folder else None
