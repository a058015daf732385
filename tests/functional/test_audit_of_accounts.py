"""Every act on accounts is in the audit trail: what, who, about whom, from where; and no secret."""

from datetime import timedelta

from flask import Flask

from tests.people import PASSWORD, browser, code_at, cookie_of, events, sign_in, user
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.services.setup import setup_token

GUESS = "a guess that is wrong"
NEEDS_ADMIN = "I look after the reports."
AGENT = "Mozilla/5.0 (an agent)"


def _enrol(visitor: Visitor) -> str:
    page = visitor.get("/account/totp").text
    shown = page.partition('id="totp-secret"')[2].partition(">")[2].partition("<")[0]
    return shown.replace(" ", "")


def _live(app: Flask) -> list[str]:
    """Do what people do with their accounts; return every secret that was on its way."""
    with app.app_context():
        token = setup_token() or ""
    new = {"password": PASSWORD, "confirm": PASSWORD}
    root, amira = browser(app), browser(app)
    for visitor in (root, amira):
        visitor.environ_base["HTTP_USER_AGENT"] = AGENT
    root.post_form(f"/setup/{token}", {"username": "root", **new})
    asked = {"username": "amira", "request_admin": "y", "admin_reason": NEEDS_ADMIN}
    amira.post_form("/signup", {**asked, **new})
    sids = [cookie_of(app, amira)["sid"]]
    with frozen(now()) as set_clock:
        secret = _enrol(amira)
        amira.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        amira.get("/admin")
        amira.post_form("/logout", page="/keys")
        set_clock(now() + timedelta(minutes=1))
        for password in (GUESS, PASSWORD):
            sign_in(amira, password=password)
        codes = [code_at(now(), steps=steps, secret=secret) for steps in (10, 0)]
        for code in codes:
            amira.post_form("/login/verify", {"code": code})
        sids.append(cookie_of(app, amira)["sid"])
        for password in (GUESS, PASSWORD):
            amira.post_form("/reauthenticate", {"password": password})
        amira.post_form("/account/totp/disable", page="/account")
        amira.post("/logout")
        for _ in range(4):
            sign_in(browser(app), password=GUESS, headers={"User-Agent": AGENT})
    run = app.test_cli_runner().invoke
    assert run(args=["users", "disable", "amira"]).exit_code == 0
    assert run(args=["users", "enable", "amira"]).exit_code == 0
    return [token, PASSWORD, GUESS, secret, *codes, *sids]


NOBODY, ROOT, AMIRA = None, "root", "amira"
EXPECTED = [
    ("account.created", NOBODY, ROOT),
    ("account.admin_granted", NOBODY, ROOT),
    ("login.succeeded", ROOT, ROOT),
    ("account.created", NOBODY, AMIRA),
    ("account.admin_requested", AMIRA, AMIRA),
    ("login.succeeded", AMIRA, AMIRA),
    ("second_factor.enrolment_started", AMIRA, AMIRA),
    ("second_factor.enabled", AMIRA, AMIRA),
    ("security.access_denied", AMIRA, AMIRA),
    ("logout", AMIRA, AMIRA),
    ("login.failed", NOBODY, AMIRA),
    ("login.half", AMIRA, AMIRA),
    ("second_factor.failed", AMIRA, AMIRA),
    ("second_factor.succeeded", AMIRA, AMIRA),
    ("login.succeeded", AMIRA, AMIRA),
    ("reauthentication.failed", AMIRA, AMIRA),
    ("reauthentication.succeeded", AMIRA, AMIRA),
    ("second_factor.disabled", AMIRA, AMIRA),
    ("security.csrf_rejected", NOBODY, NOBODY),
    ("login.failed", NOBODY, AMIRA),
    ("login.failed", NOBODY, AMIRA),
    ("login.failed", NOBODY, AMIRA),
    ("login.throttled", NOBODY, NOBODY),
    ("account.disabled", NOBODY, AMIRA),
    ("account.enabled", NOBODY, AMIRA),
]


def test_every_act_is_there_with_who_whom_and_where_and_without_a_secret(app: Flask) -> None:
    secrets = _live(app)
    names = {user(app, name).id: name for name in ("root", "amira")}
    found = events(app)
    assert [
        (event.event, names.get(event.actor_id or 0), names.get(event.subject_id or 0))
        for event in found
    ] == EXPECTED
    for event in found:
        by_hand = event.event in {"account.disabled", "account.enabled"}
        assert event.via == ("cli" if by_hand else "web"), event.event
        assert event.address == ("" if by_hand else "127.0.0.1"), event.event
        assert event.user_agent == ("" if by_hand else AGENT), event.event
        assert len(event.request_id) == (0 if by_hand else 16), event.event
        assert event.at.tzinfo is not None
    stored = str([vars(event) for event in found])
    assert [secret for secret in secrets if secret in stored] == []
