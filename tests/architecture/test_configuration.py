"""README.md documents exactly the variables that are read, with their defaults."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deployment import PRODUCTION
from webapp.config import ROOT, Settings
from webapp.providers import PROVIDERS

OF_GUNICORN = {"PORT", "WEB_CONCURRENCY"}
OF_LATER_VERSIONS = {"PROVIDER_CHECKS", "SMTP_URL"}
OF_FLASK = {"FLASK_DEBUG"}


def documented() -> dict[str, str]:
    """Variable to default, from the table of README.md."""
    section = (
        (ROOT / "README.md").read_text().partition("## Configuration")[2].partition("\n## ")[0]
    )
    found = {}
    for row in re.findall(r"^\| (`.*?) \|.*\| (.*?) ?\|$", section, re.MULTILINE):
        for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row[0]):
            found[name] = row[1]
    return found


class Recording(dict[str, str]):
    """An environment that knows what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def test_readme_and_settings_name_the_same_variables(tmp_path: Path) -> None:
    environ = Recording(PRODUCTION)
    Settings.from_environ(environ, tmp_path)
    providers = {name for provider in PROVIDERS.values() for name in provider.variables}
    gunicorn = (ROOT / "gunicorn.conf.py").read_text()
    assert set(re.findall(r"_number\(.([A-Z_]+)", gunicorn)) == OF_GUNICORN
    assert set(documented()) - providers == (environ.asked - providers - OF_FLASK) | (
        OF_GUNICORN | OF_LATER_VERSIONS
    )


def test_readme_names_the_real_defaults(tmp_path: Path) -> None:
    settings = Settings.from_environ(PRODUCTION, tmp_path)
    numbers = {name: text for name, text in documented().items() if text.isdigit()}
    assert len(numbers) >= 8
    for name, text in numbers.items():
        if name not in OF_GUNICORN:
            assert getattr(settings, name.lower()) == int(text), name
