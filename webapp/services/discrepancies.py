"""The open differences between the two sides: counted by kind, searched, in pages.

A page costs the same wherever it lies: it begins behind a row and is found through the index of the
open ones (keyset paging), however many are open or were closed before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Select, func, select, tuple_

from webapp.db import db
from webapp.models import Discrepancy

PAGE_SIZE: Final = 50
MOST_COUNTED: Final = 1000
"""What a search finds is counted up to here."""

_OPEN: ColumnElement[bool] = Discrepancy.closed_at.is_(None)
_ORDER = (Discrepancy.kind, Discrepancy.username, Discrepancy.key_name)


@dataclass(frozen=True)
class Selection:
    """Which of the open differences: all, those of a kind, those whose username has a part."""

    kind: str = ""
    username: str = ""
    """Found anywhere in the name, in upper or lower case."""

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what a row must fulfil to be open and selected."""
        found = [_OPEN]
        if self.kind:
            found.append(Discrepancy.kind == self.kind)
        if self.username:
            found.append(_contains(self.username))
        return found


@dataclass(frozen=True)
class Position:
    """Where a page begins: behind the row of this id, or when going back, before it."""

    row_id: int
    is_backward: bool = False


@dataclass(frozen=True)
class Listing:
    """One page of the selected differences, `rows`, in the order of kind, username and key.

    `by_kind` counts all that are open, whatever is selected; `matching` the selected ones, and is
    None for more than MOST_COUNTED. `previous` and `following`: the pages beside this one.
    """

    selection: Selection
    rows: Sequence[Discrepancy]
    by_kind: Mapping[str, int]
    matching: int | None
    previous: Position | None
    following: Position | None


def find(selection: Selection, position: Position | None = None) -> Listing:
    """Return the page of `selection` at `position`, by default the first.

    At most four statements. Where nothing is left behind a position it is the first page again.
    """
    by_kind = open_by_kind()
    before = after = False
    rows: list[Discrepancy] = []
    if position is not None:
        rows, before, after = _page_at(selection, position)
    if not rows:
        rows, before, after = _first_page(selection)
    return Listing(
        selection,
        rows,
        by_kind,
        _matching(selection, by_kind, len(rows), is_all=not before and not after),
        previous=Position(rows[0].id, is_backward=True) if before else None,
        following=Position(rows[-1].id) if after else None,
    )


def open_by_kind() -> dict[str, int]:
    """Return how many differences of each kind are open."""
    rows = db.session.execute(
        select(Discrepancy.kind, func.count().label("open"))
        .where(_OPEN)
        .group_by(Discrepancy.kind)
        .order_by(Discrepancy.kind)
    )
    return {row.kind: row.open for row in rows}


def _first_page(selection: Selection) -> tuple[list[Discrepancy], bool, bool]:
    rows = _read(select(Discrepancy).where(*selection.conditions()).order_by(*_ORDER))
    return rows[:PAGE_SIZE], False, len(rows) > PAGE_SIZE


def _page_at(selection: Selection, position: Position) -> tuple[list[Discrepancy], bool, bool]:
    """Return the rows there, and whether others lie before and after them."""
    edge = db.session.execute(select(*_ORDER).where(Discrepancy.id == position.row_id)).first()
    if edge is None:
        return [], False, False
    place, query = tuple_(*_ORDER), select(Discrepancy).where(*selection.conditions())
    if not position.is_backward:
        rows = _read(query.where(place > tuple(edge)).order_by(*_ORDER))
        return rows[:PAGE_SIZE], True, len(rows) > PAGE_SIZE
    descending = (column.desc() for column in _ORDER)
    rows = _read(query.where(place < tuple(edge)).order_by(*descending))
    return rows[:PAGE_SIZE][::-1], len(rows) > PAGE_SIZE, True


def _read(query: Select[Discrepancy]) -> list[Discrepancy]:
    """Read one row more than a page has, which tells whether there is another page."""
    return list(db.session.scalars(query.limit(PAGE_SIZE + 1)))


def _matching(
    selection: Selection, by_kind: Mapping[str, int], shown: int, *, is_all: bool
) -> int | None:
    if is_all:
        return shown
    if not selection.username:
        return by_kind.get(selection.kind, 0) if selection.kind else sum(by_kind.values())
    some = select(Discrepancy.id).where(*selection.conditions()).limit(MOST_COUNTED + 1)
    counted = db.session.scalar(select(func.count()).select_from(some.subquery())) or 0
    return counted if counted <= MOST_COUNTED else None


def _contains(part: str) -> ColumnElement[bool]:
    """Return the condition that the username has `part` in it, in upper or lower case.

    SQLite's own lower() knows ASCII only; GLOB with both forms of each letter is slower.
    """
    if part.isascii() or db.session.get_bind().dialect.name != "sqlite":
        return Discrepancy.username.icontains(part, autoescape=True)
    return Discrepancy.username.bool_op("GLOB")(f"*{''.join(map(_either_case, part))}*")


def _either_case(letter: str) -> str:
    forms = {form for form in (letter, letter.lower(), letter.upper()) if len(form) == 1}
    return f"[{''.join(sorted(forms))}]" if len(forms) > 1 or letter in "*?[" else letter
