"""A line over time as shapes for SVG. Pure; templates/components/chart.html draws it.

The drawing is stretched to the width that there is, so that the words stand beside it as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

WIDTH: Final = 600
HEIGHT: Final = 120
_STEPS: Final = (2, 4, 6, 8, 10)
"""Tops of the scale, times a power of ten: all have a half that is a whole number."""


@dataclass(frozen=True)
class LineChart:
    """`line` and `area` are for `points` of a polyline and a polygon; `last` is where it ends.

    `top` is the highest number of the scale, which begins at 0.
    """

    line: str
    area: str
    last: tuple[float, float]
    top: int
    highest: int
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(points: Sequence[tuple[datetime, int]]) -> LineChart | None:
    """Draw numbers from 0 up against their times, the oldest first; None for fewer than two."""
    if len(points) < 2:
        return None
    begin, end = points[0][0], points[-1][0]
    seconds = (end - begin).total_seconds() or 1.0
    highest = max(number for _, number in points)
    top = _top(highest)
    places = [
        (
            round(WIDTH * (at - begin).total_seconds() / seconds, 1),
            round(HEIGHT * (1 - number / top), 1),
        )
        for at, number in points
    ]
    line = " ".join(f"{x},{y}" for x, y in places)
    area = f"0,{HEIGHT} {line} {places[-1][0]},{HEIGHT}"
    return LineChart(line, area, places[-1], top, highest)


def _top(highest: int) -> int:
    power = 1
    while highest > 10 * power:
        power *= 10
    return next(step * power for step in _STEPS if step * power >= highest)
