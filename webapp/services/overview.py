"""What admins see: accounts, requests, runs, differences. Metadata only, never a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Select, func, select

from webapp.config import current_settings
from webapp.db import db
from webapp.models import ApiKey, Discrepancy, Run, User
from webapp.services import legacy_mode, runs
from webapp.services.health import check_health
from webapp.services.keyring import accepted_losses
from webapp.services.legacy_status import standing_problems

PAGE_SIZE = 50
_NEWEST = 10
_MOST_REQUESTS = 100
_LOST = "The master key {} is missing, and the operator has accepted that"
_LOST_ADVICE = (
    "What it sealed is shown as locked. It can be replaced, and opens again by itself when that key"
    " is back."
)

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of rows; `number` counts from 1, `pages` is at least 1."""

    rows: Sequence[Row]
    number: int
    pages: int
    total: int


@dataclass(frozen=True)
class Overview:
    """The first admin page. `problems` are pairs of what is wrong and what to do about it."""

    problems: list[tuple[str, str]]
    accounts: int
    admins: int
    keys: int
    requests: Sequence[User]
    newest: Sequence[User]
    last_import: Run | None
    last_check: Run | None
    open_discrepancies: int


def overview() -> Overview:
    """Gather the first admin page; a fixed number of statements."""
    last_import = runs.latest(runs.LEGACY_IMPORT)
    last_check = runs.latest(runs.CONSISTENCY_CHECK)
    return Overview(
        problems=[*_health_problems(), *_legacy_problems()],
        accounts=_count(select(User.id)),
        admins=_count(select(User.id).where(User.is_admin, User.disabled_at.is_(None))),
        keys=_count(select(ApiKey.id).where(ApiKey.deleted_at.is_(None))),
        requests=db.session.scalars(
            select(User)
            .where(User.admin_requested, User.is_admin.is_(False))
            .order_by(User.created_at.desc())
            .limit(_MOST_REQUESTS)
        ).all(),
        newest=db.session.scalars(select(User).order_by(User.id.desc()).limit(_NEWEST)).all(),
        last_import=last_import,
        last_check=last_check,
        open_discrepancies=_count(select(Discrepancy.id).where(_OPEN)),
    )


def list_accounts(number: int) -> Page[User]:
    """Return a page of all accounts by name."""
    return _page(select(User).order_by(User.username_folded), number)


def list_runs(number: int, kind: str | None = None) -> Page[Run]:
    """Return a page of all runs, or of those of `kind`, the newest first."""
    query = select(Run).order_by(Run.created_at.desc(), Run.id.desc())
    return _page(query if kind is None else query.where(Run.kind == kind), number)


_OPEN: ColumnElement[bool] = Discrepancy.closed_at.is_(None)


def _count(query: Select[int]) -> int:
    return db.session.scalar(select(func.count()).select_from(query.subquery())) or 0


def _page(query: Select[Row], number: int) -> Page[Row]:
    total = db.session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    pages = max(1, -(-(total or 0) // PAGE_SIZE))
    number = min(max(number, 1), pages)
    rows = db.session.scalars(query.offset((number - 1) * PAGE_SIZE).limit(PAGE_SIZE)).all()
    return Page(rows, number, pages, total or 0)


def _health_problems() -> list[tuple[str, str]]:
    health = check_health()
    found = [(text, "") for texts in health.detail.values() for text in texts]
    if not health.problems:
        found += [(_LOST.format(key_id), _LOST_ADVICE) for key_id in accepted_losses()]
    if health.queue != "ok":
        advice = "Keys can be saved and read all the same. Imports and checks wait for it."
        found.append(("The job queue (Redis) does not answer", advice))
    return found


def _legacy_problems() -> list[tuple[str, str]]:
    return _failed_runs() + standing_problems(current_settings())


def _failed_runs() -> list[tuple[str, str]]:
    """Return the jobs of which the last run failed."""
    newest = select(func.max(Run.id)).group_by(Run.kind)
    failed = db.session.scalars(
        select(Run).where(Run.id.in_(newest), Run.status == "failed").order_by(Run.id)
    )
    if not legacy_mode.is_on():
        return []
    return [(f"The last {runs.KINDS[run.kind].name} failed", run.error or "") for run in failed]
