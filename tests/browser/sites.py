"""Installations in every situation, in the test's own process, and who is signed in there."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyotp
from flask import Flask, Response, make_response, render_template
from playwright.sync_api import Browser
from sqlalchemy import update

from tests.browser import population
from tests.browser.driver import Person
from tests.browser.population import ADMIN, NEWCOMER, WITH_CODES
from tests.browser.site import Site
from tests.conftest import CHEAP_PASSWORDS, ENVIRON
from tests.legacy_folder import LegacyFolder
from tests.people import PASSWORD, TOTP, add_person
from webapp.clock import now
from webapp.config import Settings
from webapp.db import transaction
from webapp.forms.login import LoginForm
from webapp.models import LoginSession, Run
from webapp.services import runs
from webapp.services.setup import setup_token
from webapp.web.gate import public

_CLOSED = {"SIGNUP": "closed", "REQUIRE_TWO_FACTOR": "everyone", "LOGIN_ATTEMPT_LIMIT": "1"}
_OVER = {"LEGACY_MODE": "off"}
_WITHOUT_PREDECESSOR = {"closed", "empty", "alone", "broken"}
_NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


class Sites:
    """A context that starts each installation when the first test asks for it.

    populated: everything there is. closed: a strict one. empty: without an account. alone: with one
    and no predecessor. fresh, agreeing, doubtful: with a predecessor, before the first check, after
    one that found nothing, after one that failed. mirrored: with changes on their way to its files,
    one of which is missing. differing: with every kind of difference, some of them repaired. over:
    with a predecessor that is not used any more. ending, ended: with a cut-over under way, and
    done. checking: for a test that changes it. broken: without its database.
    """

    def __init__(
        self, folder: Path, browser: Browser, redis_url: str, make_database: Callable[[Path], str]
    ) -> None:
        self._folder, self._browser = folder, browser
        self._redis_url, self._make_database = redis_url, make_database
        self._sites: dict[str, Site] = {}
        self._people: dict[tuple[str, str], Person] = {}
        self._open = ExitStack()

    def __enter__(self) -> "Sites":
        return self

    def __exit__(self, *error: object) -> None:
        for person in self._people.values():
            person.context.close()
        self._open.close()

    def site(self, name: str) -> Site:
        """Return the installation `name`."""
        if name not in self._sites:
            self._sites[name] = self._open.enter_context(self._start(name))
        return self._sites[name]

    def address(self, site: str, path: str) -> str:
        """Return the address of `path`, with the token of the setup link where it says TOKEN."""
        if "TOKEN" in path:
            with self.site(site).app.app_context():
                path = path.replace("TOKEN", setup_token() or "token")
        return self.site(site).url + path

    def person(self, site: str, who: str) -> Person:
        """Return the browser of `who` there: a username, or nobody.

        Before it: `half` when the code is missing, `settled` when the password was given long ago,
        any other word for a further browser.
        """
        if (site, who) not in self._people:
            context = self._browser.new_context(
                base_url=self.site(site).url, reduced_motion="reduce"
            )
            person = self._people[site, who] = Person(context)
            if who:
                self._sign_in(site, person, *who.split())
        return self._people[site, who]

    def _sign_in(self, site: str, person: Person, *who: str) -> None:
        person.sign_in(who[-1], PASSWORD)
        if who[-1] == WITH_CODES and who[0] != "half":
            person.enter_code(pyotp.TOTP(TOTP).now())
        person.page.wait_for_url(lambda url: not url.endswith("/login"))
        if who[0] == "settled":
            with self.site(site).app.app_context(), transaction() as session:
                session.execute(
                    update(LoginSession).values(authenticated_at=now() - timedelta(hours=1))
                )

    def _start(self, name: str) -> Site:
        folder = self._folder / name
        folder.mkdir()
        legacy = LegacyFolder(folder / "legacy")
        environ = ENVIRON | {"INSTANCE_DIR": str(folder), "DATABASE_URL": _NOWHERE}
        if name != "broken":
            environ["DATABASE_URL"] = self._make_database(folder)
        if name not in _WITHOUT_PREDECESSOR:
            environ["LEGACY_DIR"] = str(legacy.path)
        if name in {"populated", "alone"}:
            environ["REDIS_URL"] = self._redis_url
        environ |= {"populated": population.ENVIRON, "closed": _CLOSED, "over": _OVER}.get(name, {})
        settings = replace(Settings.from_environ(environ), password_cost=CHEAP_PASSWORDS)
        if name == "mirrored":
            settings = replace(settings, legacy_mode="mirror")
        site = Site(settings)
        _add_pages(site.app)
        _fill(name, site.app, legacy)
        return site


def _add_pages(app: Flask) -> None:
    """Add what no installation has: a page that fails, and one with every component."""

    def fault() -> Response:
        raise RuntimeError("a fault of the tests")

    def components() -> Response:
        return make_response(
            render_template("components/gallery.html", form=LoginForm(None), now=now())
        )

    app.add_url_rule("/fault", view_func=public(fault))
    app.add_url_rule("/components", view_func=public(components))


def _fill(name: str, app: Flask, legacy: LegacyFolder) -> None:
    if name == "populated":
        population.populate(app, legacy)
    elif name == "closed":
        add_person(app, NEWCOMER)
    elif name not in {"empty", "broken"}:
        add_person(app, ADMIN, is_admin=True)
    if name == "mirrored":
        population.leave_waiting(app, legacy)
    if name == "differing":
        population.differ(app, legacy)
    if name in {"ending", "ended"}:
        population.cut_over(app, legacy, is_done=name == "ended")
    status = {"agreeing": "finished", "doubtful": "failed"}.get(name)
    if status:
        error = "The database refused (OperationalError); see the log."
        with app.app_context(), transaction() as session:
            session.add(
                Run(
                    kind=runs.CONSISTENCY_CHECK,
                    status=status,
                    error=error if status == "failed" else None,
                    counts={"equal": 1_204},
                    finished_at=now(),
                )
            )
