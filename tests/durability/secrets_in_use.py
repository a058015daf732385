"""Somebody who does everything that involves a secret, and which secrets those were."""

import json
import socket
from base64 import urlsafe_b64decode
from collections.abc import Mapping

from sqlalchemy import select

from tests.browser import sample
from tests.conftest import ENVIRON
from tests.http_person import HttpPerson
from tests.legacy_folder import sha256_of
from tests.people import code_at
from tests.stack import LEGACY_SAMPLE, Stack
from webapp.clock import now
from webapp.db import db
from webapp.models import DataKey
from webapp.services.keyring import current_keyring
from webapp.services.runs import CONSISTENCY_CHECK

Secrets = dict[str, str | bytes]
"""By a label that may be printed."""

PASSWORD = "nine violet umbrellas hum & sing"
SMTP = {
    "host": "mail.hunted.example",
    "port": "587",
    "user": "hunted@mail.example",
    "password": "hunted mail p%ss=word+1",
}
_PEM = "-----BEGIN PRIVATE KEY-----\nhunted/line+one==\nhunted line two\n-----END PRIVATE KEY-----"
_VALUES = {
    "openai": ("sk-hunted-openai-first", "sk-hunted-openai-second"),
    "slack": ("https://hooks.slack.com/services/T0/B0/hunted",),
    "my_own": ("hunted custom välue & more", _PEM),
}
_STRAY = {
    what: f"hunted-{what}-0123456789"
    for what in (
        "mask",
        "username",
        "password",
        "no-token",
        "path",
        "query",
        "line",
        "header",
        "chunk",
    )
}
_CHUNKED = (
    "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
    "Content-Type: application/x-www-form-urlencoded"
)


def use_everything(stack: Stack) -> Secrets:
    """Do all that people do, rightly and wrongly, and return the secrets that were on the way."""
    person, amira, ben = (HttpPerson(stack.port) for _ in range(3))
    totp = _sign_up(person)
    _keep_keys(person)
    _go_astray(person, stack.port)
    _visit(amira, "amira")
    _visit(ben, "ben")
    amira.get("/admin")
    assert amira.post("/admin/check").status == 303
    stack.wait_for_run(CONSISTENCY_CHECK)
    typed = {f"{name} {n}": value for name, of in _VALUES.items() for n, value in enumerate(of)}
    mail = {f"smtp {field}": value for field, value in SMTP.items() if field != "port"}
    return {
        "password": PASSWORD,
        "TOTP secret": totp,
        **typed,
        **mail,
        **{f"stray {what}": value for what, value in _STRAY.items()},
        **_of_cookies(stack, person, amira, ben),
    }


def of_the_sample() -> Secrets:
    """Everything in the predecessor's files that must not come over in clear."""
    found: Secrets = {"sample key": (LEGACY_SAMPLE / ".encryption_key").read_text().strip()}
    users = json.loads((LEGACY_SAMPLE / "users.json").read_text(encoding="utf-8"))["users"]
    for username, record in users.items():
        password = sample.PASSWORDS[username]
        digest = sha256_of(password)
        found |= {f"{username} password": password, f"{username} digest": digest}
        found[f"{username} digest as bytes"] = bytes.fromhex(digest)
        for name, stored in record.get("api_keys", {}).items():
            if stored and name != "smtp_port":
                found[f"{username} {name} as stored"] = stored
            if stored and name != "smtp_port" and (username, name) != ("emre", "google"):
                found[f"{username} {name}"] = sample.value(username, name)
    for username in ("ben", "chen_li"):
        found[f"{username} TOTP secret"] = sample.totp_secret(username)
    return found


def of_the_installation(stack: Stack) -> Secrets:
    """The keys of this installation: those of its settings, and the data keys that they wrap."""
    master_key = ENVIRON["MASTER_KEYS"].partition(":")[2]
    found: Secrets = {
        "SECRET_KEY": ENVIRON["SECRET_KEY"],
        "master key": master_key,
        "master key as bytes": urlsafe_b64decode(master_key + "="),
    }
    with stack.app.app_context():
        keyring = current_keyring()
        for row in db.session.scalars(select(DataKey)):
            key = keyring.unwrap(row.wrapped_key, row.master_key_id, row.user_id, row.number)
            found[f"data key {row.number} of {row.user_id}"] = key.secret
    return found


def _sign_up(person: HttpPerson) -> str:
    """Make an account, give it a second factor, sign in again with it; return its secret."""
    form = {"name": "Hunted", "username": "hunted", "password": PASSWORD, "confirm": PASSWORD}
    person.get("/signup")
    assert person.post("/signup", form).status == 303
    secret = ""
    for _ in range(2):  # the step may end between the page and the code
        page = person.get("/account/totp").text
        secret = page.partition('id="totp-secret"')[2].partition(">")[2].partition("<")[0]
        secret = secret.replace(" ", "")
        # The step before, so that the present one is left for the sign-in.
        answer = person.post("/account/totp", {"code": code_at(now(), steps=-1, secret=secret)})
        if answer.status == 303:
            break
    person.get("/keys")
    assert person.post("/logout").status == 303
    person.sign_in("hunted", PASSWORD)
    assert person.post("/login/verify", {"code": "000000"}).status == 422
    assert person.post("/login/verify", {"code": code_at(now(), secret=secret)}).status == 303
    person.get("/keys")
    return secret


def _keep_keys(person: HttpPerson) -> None:
    """Save each kind of key, replace, reveal, delete."""
    for name, values in _VALUES.items():
        for version, value in enumerate(values, 1):
            assert person.save(name, value).version == version
    assert person.post("/keys/smtp", SMTP).status == 303
    assert "hunted mail" in person.post("/keys/smtp/reveal").text
    assert "hunted-openai-second" in person.post("/keys/openai/reveal", htmx=True).text
    assert person.post("/keys/slack/delete").status == 303


def _go_astray(person: HttpPerson, port: int) -> None:
    """Send secrets to where they do not belong, and in ways that are refused."""
    assert person.post("/keys/openai", {"value": f"{_STRAY['mask']}…****"}).status == 422
    no_token = {"value": _STRAY["no-token"]}
    assert person.post("/keys/openai", no_token, token=False).status == 400
    assert person.get(f"/keys/{_STRAY['path']}?value={_STRAY['query']}").status == 405
    stranger = HttpPerson(port)
    stranger.get("/login")
    form = {"username": _STRAY["username"], "password": _STRAY["password"]}
    assert stranger.post("/login", form).status == 422
    # What is left of a body whose length was given too short is read as the next request.
    for broken in (
        f"POST /login?{_STRAY['line']}",
        f"GET / HTTP/1.1\r\nX {_STRAY['header']}",
        f"{_CHUNKED}\r\n\r\npassword={_STRAY['chunk']}",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(f"{broken}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 400")


def _visit(person: HttpPerson, username: str) -> None:
    """Somebody of the predecessor's signs in and looks at a key."""
    person.sign_in(username, sample.PASSWORDS[username])
    if username == "ben":
        code = code_at(now(), secret=sample.totp_secret(username))
        assert person.post("/login/verify", {"code": code}).status == 303
        person.get("/keys")
    assert sample.value(username, "openai") in person.post("/keys/openai/reveal").text


def _of_cookies(stack: Stack, *people: HttpPerson) -> Mapping[str, str]:
    """Return every cookie, and every session id and CSRF token that was in one."""
    app = stack.app
    read = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    cookies = {cookie for person in people for cookie in person.cookies_seen if cookie}
    for number, cookie in enumerate(sorted(cookies)):
        found[f"cookie {number}"] = cookie
        for name, value in read.loads(cookie).items():
            if name in {"sid", "csrf_token"}:
                found[f"{name} {number}"] = value
    assert any(label.startswith("sid") for label in found)
    return found
