"""Every page in every state, light and dark, on a wide screen and on a small phone.

axe finds nothing (WCAG 2.2 AA), nothing is cut or wider than the screen, everything that can be
pressed is large enough, and no console has anything to say, the content security policy included.
With KEYSTAY_SCREENSHOTS set to a folder, what was looked at is left there as pictures.
"""

import os
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.places import PLACES, Place
from tests.browser.sites import Sites

pytestmark = pytest.mark.browser

ColourScheme = Literal["light", "dark"]

WIDE, PHONE = 1280, 320
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Colours change with the scheme and the layout with the width, neither with both.
_LOOKS: list[tuple[ColourScheme, int]] = [("light", WIDE), ("dark", PHONE)]
_AXE = Axe().axe_script
_FOLDER = os.environ.get("KEYSTAY_SCREENSHOTS")
_SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_VIOLATIONS = """async ([part, tags]) => {
    const found = await axe.run(part || document, {runOnly: tags, resultTypes: ["violations"]});
    return found.violations.map(one => `${one.id}: ${one.nodes.map(node => node.html)}`);
}"""
_BADLY_LAID_OUT = """() => {
    const width = document.documentElement.clientWidth;
    const seen = [...document.querySelectorAll("body *")].filter(one =>
        one.checkVisibility() && !one.closest("svg, .visually-hidden, .skip-link"));
    const scrolls = (one) => one.closest(".table-scroll, .value");
    const ownText = (one) => [...one.childNodes].some(
        node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const name = (what, one) => `${what}: ${one.outerHTML.slice(0, 160)}`;
    const boxes = seen.map(one => [one, one.getBoundingClientRect()]);
    return [
        ...(document.scrollingElement.scrollWidth > width ? ["the page scrolls sideways"] : []),
        ...boxes.filter(([one, box]) => (box.right > width + 1 || box.left < -1) && !scrolls(one))
            .map(([one]) => name("beyond the edge", one)),
        ...boxes.filter(([one, box]) => one.scrollWidth > one.clientWidth + 1 && ownText(one)
            && getComputedStyle(one).display !== "inline" && !scrolls(one) && !one.title)
            .map(([one]) => name("cut", one)),
        ...boxes.filter(([one, box]) => one.matches("a, button, summary, input, textarea, select")
            && getComputedStyle(one).display !== "inline" && Math.min(box.width, box.height) < 24)
            .map(([one]) => name("too small to press", one)),
    ];
}"""


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_everybody_can_use_the_page(sites: Sites, place: Place) -> None:
    person = sites.person("populated" if place.site == "broken" else place.site, place.who)
    page = person.page
    page.set_viewport_size({"width": WIDE, "height": 800})
    person.trouble.clear()
    answer = page.goto(sites.address(place.site, place.path))
    assert answer is not None
    assert answer.status == place.status
    if place.act:
        place.act(page)
    page.evaluate(_AXE)
    assert [problem for look in _LOOKS for problem in problems(page, place, *look)] == []
    assert place.noisy or person.trouble == []


def problems(page: Page, place: Place, scheme: ColourScheme, width: int) -> list[str]:
    """Return what is wrong with the page as it is, in a colour scheme at a width."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate(_SETTLED)
    if _FOLDER:
        path = Path(_FOLDER) / f"{place}-{scheme}-{width}.png"
        page.screenshot(path=path, full_page=True)
    found = [*page.evaluate(_VIOLATIONS, [place.part, _TAGS]), *page.evaluate(_BADLY_LAID_OUT)]
    return [f"{scheme} {width}: {problem}" for problem in found]
