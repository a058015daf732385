"""Whether the predecessor still counts: what is configured, until the cut-over has ended it."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from flask import current_app
from sqlalchemy import ColumnElement, select

from webapp.config import current_settings
from webapp.db import db
from webapp.models import Run, User
from webapp.services import runs

_ASKED_EVERY_SECONDS: Final = 2.0
"""Another process's cut-over is noticed so much later."""


@dataclass(frozen=True)
class CutOver:
    """How the predecessor's time ended.

    `by` is who asked for it on the page, None for the command; `accepted` are the differences that
    were open, by kind.
    """

    run_id: int
    at: datetime
    by: str | None
    archive: str
    master_key: str
    accepted: Mapping[str, int]


@dataclass
class _Known:
    """What this process knows of the cut-over of its folder."""

    ended_at: datetime | None = None
    asked_at: float = float("-inf")


def is_on() -> bool:
    """Whether the files are read: for imports, checks, sign-ins and keys."""
    return current_settings().legacy_enabled and cut_over_at() is None


def is_mirrored() -> bool:
    """Whether what changes here is written into the files."""
    return current_settings().mirrors and cut_over_at() is None


def cut_over_at() -> datetime | None:
    """Return when the configured folder was cut over; None when it was not.

    Another folder in LEGACY_DIR, such as one that was exported, counts again. At most one statement
    every two seconds.
    """
    folder = current_settings().legacy_dir
    if folder is None:
        return None
    known: _Known = current_app.extensions.setdefault("keystay_legacy_mode", _Known())
    if known.ended_at is None and time.monotonic() >= known.asked_at + _ASKED_EVERY_SECONDS:
        known.ended_at = db.session.scalar(
            select(Run.finished_at).where(*_is_end_of(folder)).limit(1)
        )
        known.asked_at = time.monotonic()
    return known.ended_at


def cut_over() -> CutOver | None:
    """Return how the configured folder was cut over, as of now; None when it was not."""
    folder = current_settings().legacy_dir
    if folder is None:
        return None
    row = db.session.execute(
        select(Run.id, Run.finished_at, Run.report, User.username)
        .outerjoin(User, User.id == Run.requested_by_id)
        .where(*_is_end_of(folder))
        .limit(1)
    ).first()
    if row is None:
        return None
    sealed = {name: row.report[name] for name in ("archive", "master_key", "accepted")}
    return CutOver(row.id, row.finished_at, row.username, **sealed)


def ask_again() -> None:
    """Have the database asked the next time."""
    current_app.extensions.pop("keystay_legacy_mode", None)


def folder_id(folder: Path) -> str:
    """Return what `runs.source` holds of a cut-over: which folder it ended."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def _is_end_of(folder: Path) -> tuple[ColumnElement[bool], ...]:
    """Return what holds for the run that has cut `folder` over."""
    return (
        Run.kind == runs.LEGACY_CUTOVER,
        Run.status == "finished",
        Run.source == folder_id(folder),
    )
