"""What scripts add to the pages, at the moments when something goes wrong or goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from playwright.sync_api import Page, Request, expect
from sqlalchemy import update

from tests.browser.conftest import PASSWORD, MakeAccount
from tests.browser.driver import Person
from tests.browser.population import ADMIN
from tests.browser.sites import Sites
from webapp.clock import now
from webapp.db import transaction
from webapp.models import Discrepancy, Run
from webapp.services import runs

SECRET = "sk-typed-at-a-bad-moment-0123456789"
_SAVE = "**/keys/openai"

pytestmark = pytest.mark.browser
on_sqlite = pytest.mark.parametrize("stack", ["sqlite"], indirect=True)


@dataclass
class Sent:
    """The requests that a page sends from now on."""

    page: Page
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._hear)

    def _hear(self, request: Request) -> None:
        self.requests.append(request)

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)


@pytest.fixture
def owner(person: Person, make_account: MakeAccount) -> Person:
    """Somebody signed in, without a key."""
    person.sign_in(make_account(), PASSWORD)
    return person


def is_still_typed(owner: Person) -> None:
    """See that the field holds what was typed, and that the key is not shown as saved."""
    expect(owner.key("openai").locator("[name=value]")).to_have_value(SECRET)
    owner.sees_key("openai", "missing")


@on_sqlite
def test_a_double_click_saves_once(owner: Person) -> None:
    sent = Sent(owner.page)
    owner.type_key("openai", SECRET).dblclick()
    expect(owner.key("openai").locator(".receipt")).to_contain_text("version 1")
    assert sent.count("POST") == 1


def _sign_out(owner: Person) -> Callable[[], None]:
    cookies = owner.context.cookies()
    owner.context.clear_cookies()
    return lambda: owner.context.add_cookies(cookies)  # type: ignore[arg-type]


def _disconnect(owner: Person) -> Callable[[], None]:
    owner.context.set_offline(True)
    return lambda: owner.context.set_offline(False)


def _make_token_stale(owner: Person) -> Callable[[], None]:
    token = owner.key("openai").locator(".key-form [name=csrf_token]")
    valid = token.input_value()
    token.evaluate("input => input.value = 'of another time'")
    return lambda: token.evaluate("(input, valid) => input.value = valid", valid)


def _answer_like_a_proxy(owner: Person) -> Callable[[], None]:
    owner.page.route(
        _SAVE,
        lambda route: route.fulfill(status=502, body="<html><h1>Bad gateway</h1></html>"),
    )
    return lambda: owner.page.unroute(_SAVE)


@on_sqlite
@pytest.mark.parametrize(
    ("disturb", "says"),
    [
        (_sign_out, "sign in"),
        (_disconnect, "nothing is confirmed as saved"),
        (_make_token_stale, "out of date"),
        (_answer_like_a_proxy, "nothing is confirmed as saved"),
    ],
)
def test_what_was_typed_stays_and_is_saved_once_all_is_well(
    owner: Person, disturb: Callable[[Person], Callable[[], None]], says: str
) -> None:
    button = owner.type_key("openai", SECRET)
    mend = disturb(owner)
    button.click()
    expect(owner.page.locator("#alerts .alert")).to_contain_text(says, ignore_case=True)
    is_still_typed(owner)
    mend()
    button.click()
    expect(owner.key("openai").locator(".receipt")).to_contain_text("version 1")
    expect(owner.page.locator("#alerts .alert")).to_have_count(0)
    assert owner.reveal("openai") == SECRET
    owner.trouble.clear()  # a connection that fails is an error for the console too


def test_a_progress_bar_moves_and_stops_asking_at_the_end(sites: Sites) -> None:
    app = sites.site("alone").app
    with app.app_context(), transaction() as session:
        run = Run(
            kind=runs.CONSISTENCY_CHECK,
            status="running",
            cursor=10,
            total=200,
            started_at=now(),
            lease_expires_at=now() + timedelta(hours=1),
        )
        session.add(run)

    def change(**values: object) -> None:
        with app.app_context(), transaction() as session:
            session.execute(update(Run).where(Run.id == run.id).values(**values))

    page = sites.person("alone", f"watching {ADMIN}").page
    page.goto(sites.address("alone", f"/admin/runs/{run.id}"))
    bar = page.locator("progress")
    expect(bar).to_have_attribute("value", "10")
    change(cursor=150)
    expect(bar).to_have_attribute("value", "150")
    change(cursor=200, status="finished", finished_at=now(), lease_expires_at=None)
    expect(page.locator(".run")).to_have_attribute("data-status", "finished")
    expect(bar).to_have_count(0)
    sent = Sent(page)
    page.wait_for_timeout(3_000)
    assert sent.requests == []


def test_differences_are_narrowed_in_place_and_the_focus_stays(sites: Sites) -> None:
    page = sites.person("populated", ADMIN).page
    page.goto(sites.address("populated", "/admin/legacy"))
    page.evaluate("window.isTheSamePage = true")
    rows = page.locator("#differences tbody tr")
    page.locator("#kind-only_in_legacy").press("Enter")
    expect(rows).to_have_count(15)
    expect(page.locator("#kind-only_in_legacy")).to_be_focused()
    expect(page.locator("#announcer")).to_have_text("15 differences")
    page.locator("#find-username").fill("member_0001")
    page.locator("#find-username").press("Enter")
    expect(rows).to_have_count(2)
    expect(page.locator("#find-username")).to_be_focused()
    assert page.url.endswith("/admin/legacy?kind=only_in_legacy&username=member_0001")
    assert page.evaluate("window.isTheSamePage")
    page.go_back()
    expect(rows).to_have_count(15)


def test_what_a_check_found_appears_when_it_ends(sites: Sites) -> None:
    app = sites.site("checking").app
    with app.app_context():
        run_id = runs.start(runs.CONSISTENCY_CHECK).id
    page = sites.person("checking", ADMIN).page
    page.goto(sites.address("checking", "/admin/legacy"))
    expect(page.locator("#differences")).to_contain_text("The first check is under way")
    with app.app_context():
        lease = runs.take(run_id)
        with transaction() as session:
            session.add(
                Discrepancy(
                    kind="key_differs",
                    username="somebody",
                    key_name="openai",
                    first_run_id=run_id,
                    last_run_id=run_id,
                )
            )
            runs.finish(lease, counts={"key_differs": 1})
    expect(page.locator("#differences tbody")).to_contain_text("somebody")


@on_sqlite
def test_nothing_moves_for_who_wants_no_motion(owner: Person) -> None:
    owner.page.emulate_media(reduced_motion="reduce")
    owner.type_key("openai", SECRET).click()
    expect(owner.key("openai").locator(".receipt")).to_be_visible()
    moving = owner.page.evaluate(
        "document.getAnimations().filter(one => one.effect.getTiming().duration > 10).length"
    )
    assert moving == 0
