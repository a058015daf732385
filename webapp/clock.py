"""The one clock of the application."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

_source: Callable[[], datetime] | None = None


def now() -> datetime:
    """Return the current time, aware and in UTC, to the microsecond."""
    return _source() if _source else datetime.now(UTC)


@contextmanager
def frozen(at: datetime) -> Iterator[Callable[[datetime], None]]:
    """Stop the clock at `at` for the block (tests only); yields a function that sets it again."""
    global _source  # noqa: PLW0603 - one clock for the process is the point
    current = at

    def set_to(moment: datetime) -> None:
        nonlocal current
        current = moment

    previous, _source = _source, lambda: current
    try:
        yield set_to
    finally:
        _source = previous
