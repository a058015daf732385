"""What people set is documented, and what is documented can be set."""

import re
from pathlib import Path

from webapp.cli.legacy import legacy
from webapp.legacy.compare import Kind
from webapp.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = (ROOT / "webapp" / "config.py").read_text(encoding="utf-8")
# Not settings of ours: Flask's own switch, gunicorn's and the port of its defaults.
FOREIGN = {"FLASK_DEBUG", "WEB_CONCURRENCY", "PORT"}
LATER = {"PROVIDER_CHECKS", "SMTP_URL"}

NAME = re.compile(r"`([A-Z][A-Z0-9_]+)`")


def _read_settings() -> set[str]:
    return set(re.findall(r'\bread\.\w+\(\s*"([A-Z][A-Z0-9_]+)"', CONFIG))


def _documented() -> set[str]:
    section = README.partition("## Configuration")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in NAME.findall(cell)}


def test_every_setting_is_in_the_readme() -> None:
    assert len(_read_settings()) > 20
    assert _read_settings() - _documented() - FOREIGN == set()


def test_the_readme_names_no_setting_that_there_is_not() -> None:
    providers = {name for provider in PROVIDERS.values() for name in provider.variables}
    assert _documented() - _read_settings() - providers - FOREIGN - LATER == set()


def test_the_example_sets_what_the_readme_explains() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) <= _documented()


def test_the_bridge_explains_every_difference_and_its_repair_and_every_command() -> None:
    bridge = (ROOT / "docs" / "bridge.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in bridge.splitlines() if line.startswith("| `")]
    explained = [name for cell in rows for name in re.findall(r"`([a-z_]+)`", cell)]
    assert [kind for kind in Kind if explained.count(kind) != 2] == []
    assert [name for name in legacy.commands if f"flask legacy {name}" not in bridge] == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = [path.name for path in folder.glob("[0-9]*.md")]
    assert records
    assert [name for name in records if f"]({name})" not in index] == []
