"""Numbers in words, for templates."""

from datetime import datetime, timedelta

from flask import Flask

from webapp.clock import now
from webapp.models import Run
from webapp.services import run_progress

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def init_app(app: Flask) -> None:
    """Make the words filters of every template."""
    app.jinja_env.filters.update(pace=pace, waited=waited, size=size)


def pace(run: Run) -> str:
    """Return how fast a run is and when it will be done: "2,100 a second, about 4 minutes left"."""
    progress = run_progress.progress(run)
    if run.status == "running" and progress.waiting:
        return "Its worker fell silent. The next one goes on from here."
    if run.status != "running" or not progress.per_second:
        return ""
    words = rate(progress.per_second)
    if progress.remaining is not None:
        words += f", {remaining(progress.remaining)}"
    return words


def rate(per_second: float) -> str:
    """Return a rate with as many digits as mean something."""
    if per_second < 1:
        return f"{max(round(per_second * 60), 1)} a minute"
    return f"{_two_digits(per_second):,} a second"


def remaining(time: timedelta) -> str:
    """Return an estimate as what it is."""
    seconds = time.total_seconds()
    if seconds < 10:
        return "a few seconds left"
    return f"about {duration(time)} left"


def duration(time: timedelta) -> str:
    """Return a span in the largest unit that suits it: "40 seconds", "80 minutes", "3 hours"."""
    seconds = time.total_seconds()
    name, length = next(
        ((name, length) for name, length in _UNITS if seconds >= 1.5 * length), _UNITS[-1]
    )
    number = max(round(seconds / length), 0)
    if length == 1 and number > 10:
        number = round(number, -1)
    return f"{number} {name}{'' if number == 1 else 's'}"


def waited(since: datetime) -> str:
    """Return for how long something has waited."""
    return duration(now() - since)


def size(number: int) -> str:
    """Return bytes in decimal units: "512 bytes", "4.1 kB", "120 MB"."""
    if number < 1000:
        return f"{number} byte{'' if number == 1 else 's'}"
    scaled = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        scaled /= 1000
        if scaled < 999.5 or unit == "TB":
            break
    return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:,.0f} {unit}"


def _two_digits(number: float) -> int:
    whole = round(number)
    return round(whole, min(2 - len(str(whole)), 0))
