"""The lock pins everything, says nothing about where it comes from, and fits pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def _text(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def _pins(name: str) -> dict[str, str]:
    return dict(PIN.findall(_text(name)))


def _wanted(*groups: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for group in groups:
        wanted += project["dependency-groups"][group]
    return {re.split(r"[\[>=<~! ]", requirement)[0] for requirement in wanted}


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_every_pin_has_hashes_and_no_line_names_an_index(name: str) -> None:
    blocks = re.split(r"\n(?=[a-z])", _text(name).strip())
    assert len(blocks) == len(_pins(name))
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert not re.search(r"://|--index|--extra-index|--find-links", _text(name))


def test_development_is_production_and_more() -> None:
    assert _pins("run.txt").items() <= _pins("dev.txt").items()


def test_what_the_project_asks_for_is_locked() -> None:
    assert _wanted("run") - _pins("run.txt").keys() == set()
    assert _wanted("run", "test", "lint") - _pins("dev.txt").keys() == set()
