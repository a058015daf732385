"""A line over time: nothing is drawn outside of the scale, and the scale has round numbers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.chart import HEIGHT, WIDTH, line_chart

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def hours(*numbers: int) -> list[tuple[datetime, int]]:
    return [(BEGIN + timedelta(hours=hour), number) for hour, number in enumerate(numbers)]


@pytest.mark.parametrize("numbers", [[], [3]])
def test_one_point_is_no_line(numbers: list[int]) -> None:
    assert line_chart(hours(*numbers)) is None


def test_places_follow_time_and_number() -> None:
    chart = line_chart([*hours(10, 0), (BEGIN + timedelta(hours=4), 5)])
    assert chart
    assert chart.line == "0.0,0.0 150.0,120.0 600.0,60.0"
    assert chart.area == "0,120 0.0,0.0 150.0,120.0 600.0,60.0 600.0,120"
    assert chart.last == (600.0, 60.0)


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 2), (1, 2), (3, 4), (10, 10), (11, 20), (540, 600), (100_001, 200_000)]
)
def test_the_scale_ends_at_a_round_number(highest: int, top: int) -> None:
    chart = line_chart(hours(0, highest))
    assert chart
    assert (chart.top, chart.highest) == (top, highest)
    assert chart.top % 2 == 0


def test_checks_at_one_moment_are_drawn_too() -> None:
    chart = line_chart([(BEGIN, 1), (BEGIN, 2)])
    assert chart
    assert chart.last == (0.0, 0.0)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=60))
def test_no_place_lies_outside(numbers: list[int]) -> None:
    chart = line_chart(hours(*numbers))
    assert chart
    places = [tuple(map(float, place.split(","))) for place in chart.line.split()]
    assert len(places) == len(numbers)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
