"""A Chromium, the real stack on each database, and people who use it."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from devserver.embedded_redis import EmbeddedRedis
from tests import chromium
from tests.browser.driver import Person
from tests.browser.sites import Sites
from tests.servers import PostgresServer
from tests.stack import LEGACY_SAMPLE, Stack
from webapp.services.accounts import create_account

PASSWORD = "a long word that nobody guesses"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SECONDS = 10_000
_numbers = itertools.count(1)

OpenBrowser = Callable[..., Person]
MakeAccount = Callable[..., str]


@pytest.fixture(scope="session")
def chromium_browser() -> Iterator[Browser]:
    executable = chromium.find()
    if executable is None:
        reason = "there is no Chromium: python -m tests.chromium installs one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=_SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The whole of Keystay with the sample of the predecessor's files, shared by the tests.

    Each person of the sample belongs to one test; the others make accounts of their own.
    """
    folder = tmp_path_factory.mktemp("stack")
    url = new_database(request, request.param, folder)
    with Stack(folder, url, legacy=LEGACY_SAMPLE) as stack:
        stack.start_web().start_worker()
        yield stack


def new_database(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """Return the address of a migrated, empty database that lives as long as the tests do."""
    if kind == "sqlite":
        path = folder / "keystay.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("_postgresql_template")
    return server.create(f"stack{next(_numbers)}", template)


@pytest.fixture(scope="session")
def sites(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    chromium_browser: Browser,
    _redis_server: EmbeddedRedis,
) -> Iterator[Sites]:
    """Installations in every situation, in this process and on SQLite."""
    with Sites(
        tmp_path_factory.mktemp("sites"),
        chromium_browser,
        _redis_server.url,
        lambda folder: new_database(request, "sqlite", folder),
    ) as sites:
        yield sites


@pytest.fixture
def open_browser(
    chromium_browser: Browser, request: pytest.FixtureRequest
) -> Iterator[OpenBrowser]:
    """Start another browser: `open_browser(java_script_enabled=False)`, at `stack` or at `url`.

    At the end nobody may have seen a script fail or the content security policy step in.
    """
    people: list[Person] = []

    def start(url: str | None = None, **options: object) -> Person:
        base_url = url or request.getfixturevalue("stack").url
        context = chromium_browser.new_context(base_url=base_url, **options)  # type: ignore[arg-type]
        context.set_default_timeout(_SECONDS)
        people.append(Person(context))
        return people[-1]

    yield start
    for person in people:
        person.context.close()
    assert [trouble for person in people for trouble in person.trouble] == []


@pytest.fixture
def person(open_browser: OpenBrowser) -> Person:
    """Somebody at a browser."""
    return open_browser()


@pytest.fixture
def make_account(stack: Stack) -> MakeAccount:
    """Create an account with PASSWORD and return its username."""

    def make(*, is_admin: bool = False) -> str:
        username = f"person{next(_numbers)}"
        app = stack.app
        with app.app_context():
            create_account(username, PASSWORD, is_admin=is_admin)
        return username

    return make
