"""What the content security policy, the CSRF check and STYLE.md ask of every template."""

import re
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
ALL = sorted(path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*.html"))
PAGES = [name for name in ALL if '{% extends "base.html" %}' in (TEMPLATES / name).read_text()]
NOT_ESCAPED = {
    "components/icons.html": ["shapes[name]|safe"],
    "totp/_body.html": ["qr_svg|safe"],
}


def source(name: str) -> str:
    """Return a template without its comments."""
    return re.sub(r"\{#.*?#\}", "", (TEMPLATES / name).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_inline_that_the_policy_forbids(name: str) -> None:
    text = source(name)
    assert not re.search(r"\sstyle\s*=|<style", text)
    assert not re.search(r"\son[a-z]+\s*=|hx-on|javascript:|hx-vals\s*=\s*[\"']js", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


@pytest.mark.parametrize("name", ALL)
def test_every_form_is_a_post_with_a_token_or_a_search_without(name: str) -> None:
    """A token in an address would be kept in histories and logs."""
    forms = re.findall(r"<form\b.*?</form>", source(name), flags=re.DOTALL)
    for form in forms:
        is_search = 'role="search"' in form
        assert ('method="get"' if is_search else 'method="post"') in form
        assert "action=" in form
        assert ("{{ csrf() }}" in form) != is_search


@pytest.mark.parametrize("name", ALL)
def test_only_our_own_drawings_go_unescaped(name: str) -> None:
    text = source(name)
    assert re.findall(r"[\w.\[\]]+\|safe", text) == NOT_ESCAPED.get(name, [])
    assert "autoescape" not in text
    assert "Markup" not in text


@pytest.mark.parametrize("name", PAGES)
def test_the_heading_is_set_once_and_begins_the_title(name: str) -> None:
    text = source(name)
    assert text.count("{% set heading = ") == 1
    assert "<h1" not in text
    assert "<title" not in text


def test_the_base_takes_heading_and_title_from_one_place() -> None:
    text = source("base.html")
    assert "<title>{{ heading }}" in text
    assert "<h1>{{ heading }}</h1>" in text
