"""Rates, spans and sizes read as people say them."""

from datetime import timedelta

import pytest

from webapp.web.words import duration, rate, remaining, size


@pytest.mark.parametrize(
    ("per_second", "words"),
    [
        (0.001, "1 a minute"),
        (0.5, "30 a minute"),
        (1, "1 a second"),
        (9.6, "10 a second"),
        (73.4, "73 a second"),
        (2_137.9, "2,100 a second"),
        (9_961, "10,000 a second"),
    ],
)
def test_a_rate_has_two_digits(per_second: float, words: str) -> None:
    assert rate(per_second) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 seconds"),
        (0, "0 seconds"),
        (1, "1 second"),
        (44, "40 seconds"),
        (89, "90 seconds"),
        (91, "2 minutes"),
        (240, "4 minutes"),
        (3_601, "60 minutes"),
        (5_400, "2 hours"),
        (3 * 86_400, "3 days"),
    ],
)
def test_a_span_has_one_unit(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


def test_what_remains_is_an_estimate() -> None:
    assert remaining(timedelta(seconds=4)) == "a few seconds left"
    assert remaining(timedelta(seconds=241)) == "about 4 minutes left"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (4_096, "4.1 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (120_400_000, "120 MB"),
        (5 * 10**15, "5,000 TB"),
    ],
)
def test_a_size_has_a_unit_that_suits_it(number: int, words: str) -> None:
    assert size(number) == words
