"""WCAG 2.2: text has a contrast of 4.5:1 (1.4.3), edges of controls and focus 3:1 (1.4.11)."""

import re
from pathlib import Path

import pytest

TOKENS = Path(__file__).resolve().parents[2] / "static" / "css" / "tokens.css"
SURFACES = ("canvas", "surface", "sunken", "neutral-surface")
STATES = ("success", "warning", "danger", "info")
TEXT = [
    *((text, on) for text in ("text", "muted", "faint", "accent", "danger") for on in SURFACES),
    *((state, f"{state}-surface") for state in STATES),
    *((state, "surface") for state in STATES),
    *((text, f"{state}-surface") for text in ("text", "muted", "accent") for state in STATES),
    *(("button-text", button) for button in ("button", "button-hover")),
    *(("button-text", button) for button in ("danger-button", "danger-button-hover")),
]
EDGES = [
    *((edge, on) for edge in ("control-line", "accent") for on in ("canvas", "surface", "sunken")),
    *((button, "surface") for button in ("button", "danger-button")),
]


def schemes() -> dict[str, dict[str, str]]:
    light, dark = TOKENS.read_text().split("@media (prefers-color-scheme: dark)")
    colours = re.compile(r"--([a-z-]+): (#[0-9a-f]{6});")
    return {
        "light": dict(colours.findall(light)),
        "dark": dict(colours.findall(light)) | dict(colours.findall(dark)),
    }


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_both_schemes_name_the_same_colours() -> None:
    _, dark = TOKENS.read_text().split("@media (prefers-color-scheme: dark)")
    named = set(re.findall(r"--([a-z-]+): #", dark))
    assert named == set(schemes()["light"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(scheme: str) -> None:
    colours = schemes()[scheme]
    ratios = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_have_visible_edges(scheme: str) -> None:
    colours = schemes()[scheme]
    ratios = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in EDGES}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 3} == {}
