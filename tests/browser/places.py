"""Every page and every state of it, and how one gets there."""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

from tests.browser.population import (
    ADMIN,
    COLLECTOR,
    IMPORTED,
    LONG_WORD,
    MEMBER,
    NEWCOMER,
    WITH_CODES,
)

Act = Callable[[Page], object]


@dataclass(frozen=True)
class Place:
    """A page as `who` sees it at `path` of `site`, once `act` was done there.

    `part` is what differs from a place that stands in the list as a whole, `status` what `path`
    answers; `noisy` when the browser itself notes in its console that something failed. `who` and
    `site` are those of Sites.
    """

    name: str
    path: str
    who: str = ""
    act: Act | None = None
    part: str = ""
    site: str = "populated"
    status: int = 200
    noisy: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def send(**fields: str) -> Act:
    """Fill in the form of the page and send it."""

    def act(page: Page) -> None:
        for name, text in fields.items():
            page.locator(f"main [name={name}]").fill(text)
        with page.expect_navigation():
            page.locator("main form button[type=submit]").click()

    return act


def click(*selectors: str, then: str = "main") -> Act:
    """Click one after the other; `then` is what shows up."""

    def act(page: Page) -> None:
        for selector in selectors:
            page.locator(selector).click()
        page.locator(then).wait_for()

    return act


def save(row: str, then: str, *, submit: str = ".key-submit button", **fields: str) -> Act:
    """Put `fields` into the form of a row, opened if it is closed, and save; `then` shows up."""

    def act(page: Page) -> None:
        place = page.locator(row)
        summary = place.locator("details:not(.more, .confirm, [open]) > summary")
        if summary.count():
            summary.click()
        for name, text in fields.items():
            place.locator(f"[name={name}]").fill(text)
        place.locator(submit).click()
        page.locator(then).first.wait_for()

    return act


def _refused_password(page: Page) -> None:
    """Reveal a key long after signing in, and give a wrong password."""
    page.locator("#key-openai .key-reveal button").click()
    page.locator(".reauthenticate [name=password]").fill("wrong")
    page.locator(".reauthenticate button[type=submit]").click()
    page.locator(".reauthenticate .error").wait_for()


def _save_signed_out(page: Page) -> None:
    page.context.clear_cookies()
    save("#key-github", "#alerts .alert", value="a made-up value")(page)


def _save_unconnected(page: Page) -> None:
    page.context.set_offline(True)
    save("#key-github", "#alerts .alert", value="a made-up value")(page)
    page.context.set_offline(False)


def _guess(page: Page) -> None:
    for _ in range(2):
        send(username="somebody", password="a guess")(page)


def _turn_page(page: Page) -> None:
    with page.expect_navigation():
        page.locator("#differences [rel=next]").click()


def _search(part: str) -> Act:
    def act(page: Page) -> None:
        page.locator("#find-username").fill(part)
        with page.expect_response("**/admin/legacy?*"):
            page.locator("#find-username-submit").click()
        page.wait_for_url("**username=*")

    return act


def _preview(side: str) -> Act:
    """Have a repair of all that match previewed."""

    def act(page: Page) -> None:
        page.locator("[name=all]").check()
        page.locator(side).click()
        page.wait_for_url("**/repair/preview?*")

    return act


def _confirm(page: Page) -> None:
    """Confirm a repair long after signing in."""
    _preview(_FILES)(page)
    page.locator(".repair-choice button[type=submit]").click()
    page.locator(".reauthenticate").wait_for()


_DRIFT = "differing"
_LATE = f"settled {ADMIN}"
_FILES, _OURS = "[name=winner][value=legacy]", "[name=winner][value=database]"


def _cut_over_unticked(page: Page) -> None:
    page.locator("[name=accept]").first.check()
    page.get_by_role("button", name="Cut over").click()
    page.locator("#stopped-error").wait_for()


_DIFFERENCES = "#differences"
_ROWS = "main > :not(.stack), thead, tr:nth-child(-n + 5), .pagination"
_WRONG = "[aria-invalid=true]"
_ENTRANCE = [
    Place("sign-in", "/login"),
    Place("sign-in refused", "/login", act=send(username="nobody", password="wrong")),
    Place("sign-in empty", "/login", act=send()),
    Place(
        "sign-in after signing out",
        "/account",
        f"leaving {NEWCOMER}",
        click(".who button", then=".alert"),
    ),
    Place("sign-up", "/signup"),
    Place("sign-up refused", "/signup", act=send(username="x", password="short", confirm="other")),
    Place("sign-up as admin", "/signup", act=click("[name=request_admin]")),
    Place("sign-up closed", "/signup", site="closed", status=403),
    Place("setup", "/setup/TOKEN", site="empty"),
    Place(
        "setup refused",
        "/setup/TOKEN",
        site="empty",
        act=send(username="x", password="short", confirm="other"),
    ),
    Place("setup done", "/setup/TOKEN", status=404),
    Place("code", "/login/verify", f"half {WITH_CODES}"),
    Place("code refused", "/login/verify", f"half {WITH_CODES}", send(code="000000")),
    Place("password again", "/reauthenticate", MEMBER),
    Place(
        "password again refused",
        "/reauthenticate",
        MEMBER,
        save("main", _WRONG, submit="form button[type=submit]", password="wrong"),
    ),
]
_ACCOUNT = [
    Place("account", "/account", ADMIN),
    Place("account with codes", "/account", WITH_CODES),
    Place("account with a long name", "/account", IMPORTED),
    Place("enrolment", "/account/totp", NEWCOMER),
    Place("enrolment refused", "/account/totp", NEWCOMER, send(code="000000")),
    Place("enrolment required", "/account/totp", NEWCOMER, site="closed"),
    Place("second factor on", "/account/totp", WITH_CODES),
    Place("second factor turned off", "/account/totp", WITH_CODES, click(".confirm > summary")),
]
_KEYS = [
    Place("keys missing", "/keys", NEWCOMER),
    Place("keys in every state", "/keys", MEMBER),
    Place("keys of an admin", "/keys", ADMIN),
    Place("keys forty", "/keys", COLLECTOR, part="#key-customer-39-live"),
    Place("key refused", "/keys", NEWCOMER, save("#key-openai", _WRONG, value=" "), "#key-openai"),
    Place(
        "key masked",
        "/keys",
        NEWCOMER,
        save("#key-google", "[name=literal]", value="sk-…abcd"),
        "#key-google",
    ),
    Place(
        "key with fields refused",
        "/keys",
        MEMBER,
        save("#key-smtp", _WRONG, port="no number"),
        "#key-smtp",
    ),
    Place(
        "key with expiry",
        "/keys",
        MEMBER,
        click("#field-value-github", "#key-github .key-expiry > summary"),
        "#key-github",
    ),
    Place("key replaced", "/keys", MEMBER, click("#key-openai .key-edit > summary"), "#key-openai"),
    Place(
        "key saved",
        "/keys",
        MEMBER,
        save("#key-anthropic", ".receipt", value="sk-ant-made-up-0123456789"),
        "#key-anthropic",
    ),
    Place(
        "key unchanged",
        "/keys",
        MEMBER,
        save("#key-stripe_live", ".receipt", value="stripe_live-made-up-0123456789"),
        "#key-stripe_live",
    ),
    Place(
        "key to be deleted",
        "/keys",
        MEMBER,
        click("#key-openai .key-delete > summary"),
        "#key-openai",
    ),
    Place(
        "key revealed",
        "/keys",
        MEMBER,
        click("#key-openai .key-reveal button", then="[data-revealed]"),
        "#key-openai",
    ),
    Place(
        "key with fields revealed",
        "/keys",
        MEMBER,
        click("#key-smtp .key-reveal button", then="[data-revealed]"),
        "#key-smtp",
    ),
    Place(
        "long key revealed",
        "/keys",
        MEMBER,
        click(f"#key-{LONG_WORD} .key-reveal button", then="[data-revealed]"),
        f"#key-{LONG_WORD}",
    ),
    Place("key needs the password", "/keys", f"settled {MEMBER}", _refused_password, "#key-openai"),
    Place("new key", "/keys", NEWCOMER, click("#new-key summary"), "#new-key"),
    Place(
        "new key refused",
        "/keys",
        NEWCOMER,
        save("#new-key", _WRONG, name="Stripe", value="made up"),
        "#new-key",
    ),
    Place("signed out meanwhile", "/keys", f"gone {NEWCOMER}", _save_signed_out, "#alerts"),
    Place("no connection", "/keys", NEWCOMER, _save_unconnected, "#alerts", noisy=True),
]
_ADMIN = [
    Place("admin", "/admin", ADMIN),
    Place("admin all well", "/admin", ADMIN, site="alone"),
    Place("admin before the import", "/admin", ADMIN, site="fresh"),
    Place("users", "/admin/users", ADMIN, part=_ROWS),
    Place("users middle", "/admin/users?page=2", ADMIN, part=_ROWS),
    Place("runs", "/admin/runs", ADMIN),
    Place("runs none", "/admin/runs", ADMIN, site="alone"),
    Place("run finished", "/admin/runs/1", ADMIN, click(".more > summary")),
    Place("run failed", "/admin/runs/2", ADMIN),
    Place("run running", "/admin/runs/3", ADMIN),
    Place("run waiting", "/admin/runs/5", ADMIN),
    Place("runs of a kind", "/admin/runs?kind=legacy_import", ADMIN),
    Place("earlier application", "/admin/legacy", ADMIN),
    Place("differences of a kind", "/admin/legacy?kind=only_in_legacy", ADMIN, part=_DIFFERENCES),
    Place("differences second page", "/admin/legacy", ADMIN, _turn_page, _DIFFERENCES),
    Place("differences searched", "/admin/legacy", ADMIN, _search("MEMBER_0000"), _DIFFERENCES),
    Place("differences not found", "/admin/legacy", ADMIN, _search("zz"), _DIFFERENCES),
    Place("differences to repair", "/admin/legacy", ADMIN, click("[name=all]"), _DIFFERENCES),
    Place("repair of nothing", "/admin/legacy", ADMIN, click(_FILES, then=_WRONG), _DIFFERENCES),
    Place("repair previewed", "/admin/legacy?username=_", ADMIN, _preview(_FILES), site=_DRIFT),
    Place("repair impossible", "/admin/legacy?username=_", ADMIN, _preview(_OURS), site=_DRIFT),
    Place("repair of many", "/admin/legacy", ADMIN, _preview(_FILES), _ROWS, site=_DRIFT),
    Place("repair needs the password", "/admin/legacy", _LATE, _confirm, _ROWS, site=_DRIFT),
    Place("repair done", "/admin/runs/3", ADMIN, site=_DRIFT),
    Place("repair by itself", "/admin/runs/4", ADMIN, site=_DRIFT),
    Place("course as a table", "/admin/legacy", ADMIN, click(".more > summary >> nth=-1"), "main"),
    Place("earlier application mirrored", "/admin/legacy", ADMIN, site="mirrored"),
    Place("earlier application not looked at", "/admin/legacy", ADMIN, site="fresh"),
    Place("earlier application agrees", "/admin/legacy", ADMIN, site="agreeing"),
    Place("earlier application unknown", "/admin/legacy", ADMIN, site="doubtful"),
    Place("earlier application over", "/admin/legacy", ADMIN, site="over"),
    Place("earlier application none", "/admin/legacy", ADMIN, site="alone"),
]
_CUTOVER = [
    Place("cut-over", "/admin/legacy/cutover", ADMIN),
    Place("cut-over refused", "/admin/legacy/cutover", f"asking {ADMIN}", _cut_over_unticked),
    Place("cut-over clear", "/admin/legacy/cutover", ADMIN, site="agreeing"),
    Place("cut-over after a failed check", "/admin/legacy/cutover", ADMIN, site="doubtful"),
    Place("cut-over while changes wait", "/admin/legacy/cutover", ADMIN, site="mirrored"),
    Place("cut-over under way", "/admin/legacy/cutover", ADMIN, site="ending"),
    Place("cut-over done", "/admin/legacy/cutover", ADMIN, site="ended"),
    Place("cut-over as a run", "/admin/runs/1", ADMIN, site="ended"),
    Place("earlier application cut over", "/admin/legacy", ADMIN, site="ended"),
    Place("cut-over of nothing", "/admin/legacy/cutover", ADMIN, site="alone"),
]
_ERRORS = [
    Place("not found", "/nowhere", MEMBER, status=404),
    Place("forbidden", "/admin", MEMBER, status=403),
    Place("wrong method", "/keys/openai/delete", MEMBER, status=405),
    Place("too many attempts", "/login", site="closed", act=_guess),
    Place("something went wrong", "/fault", MEMBER, status=500, noisy=True),
    Place("database unavailable", "/keys", MEMBER, site="broken", status=503, noisy=True),
    Place("components", "/components"),
]
PLACES = [*_ENTRANCE, *_ACCOUNT, *_KEYS, *_ADMIN, *_CUTOVER, *_ERRORS]
