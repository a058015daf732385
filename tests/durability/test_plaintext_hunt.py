"""Nothing secret stands in clear in database, WAL, Redis, logs or temporary files."""

import base64
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest
from redis import Redis
from sqlalchemy import inspect, text

from tests.browser import sample
from tests.conftest import ENVIRON
from tests.durability.conftest import StartStack
from tests.http_person import HttpPerson
from tests.people import code_at
from tests.servers import PostgresServer
from tests.stack import LEGACY_SAMPLE, Stack
from webapp.clock import now
from webapp.db import db
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT

pytestmark = pytest.mark.durability

MARKER = "a marker that is no secret 4711"
PASSWORD = "nine violet umbrellas hum"
VALUES = {
    "openai": "sk-hunted-openai-0123456789",
    "slack": "https://hooks.slack.com/services/T0/B0/hunted",
    "my_own": "hunted custom value with ünicode",
}
REFUSED = "sk-hunted-and-refused"
SMTP = {"host": "mail.hunted.example", "port": "587", "user": "u", "password": "hunted mail word"}


def use_everything(stack: Stack) -> list[str]:
    """Do all that people do, and return every secret that was on its way."""
    person = HttpPerson(stack.port)
    person.get("/signup")
    form = {"name": MARKER, "username": "hunted", "password": PASSWORD, "confirm": PASSWORD}
    assert person.post("/signup", form).status == 303
    person.get("/keys")
    for name, value in VALUES.items():
        assert person.save(name, f"{value} first").version == 1
        assert person.save(name, value).version == 2
    assert person.post("/keys/smtp", SMTP).status == 303
    assert person.post("/keys/openai", {"value": f"{REFUSED}-***"}).status == 422
    assert VALUES["openai"] in person.post("/keys/openai/reveal", htmx=True).text
    assert person.post("/keys/slack/delete").status == 303
    page = person.get("/account/totp").text
    totp = (
        page.partition('id="totp-secret"')[2].partition(">")[2].partition("<")[0].replace(" ", "")
    )
    assert len(totp) == 32
    assert person.post("/account/totp", {"code": code_at(now(), secret=totp)}).status == 303
    amira = HttpPerson(stack.port)
    amira.sign_in("amira", sample.PASSWORDS["amira"])
    amira.save("google", VALUES["openai"] + " of amira")
    cookies = [value for one in (person, amira) for value in one.cookies.values()]
    return [*VALUES.values(), *SMTP.values(), REFUSED, PASSWORD, totp, *cookies]


def secrets_of_the_sample() -> Iterator[str]:
    users = json.loads((LEGACY_SAMPLE / "users.json").read_text(encoding="utf-8"))["users"]
    for username, record in users.items():
        yield sample.PASSWORDS[username]
        if not record["password_hash"].startswith("$"):
            yield record["password_hash"].lower()
            yield record["password_hash"].upper()
        for name, stored in record.get("api_keys", {}).items():
            if stored and (username, name) != ("emre", "google"):
                yield sample.value(username, name)
    yield sample.totp_secret("ben")
    yield (LEGACY_SAMPLE / ".encryption_key").read_text().strip()


def forms(secret: str) -> set[bytes]:
    """How a secret can be written down."""
    data = secret.encode()
    encoded = base64.b64encode(data).rstrip(b"=")[:-1]
    return {
        data,
        json.dumps(secret)[1:-1].encode(),
        quote(secret).encode(),
        encoded,
        encoded.replace(b"+", b"-").replace(b"/", b"_"),
        data.hex().encode(),
        secret.encode("utf-16-le"),
    }


def in_redis(url: str) -> Iterator[bytes]:
    """Everything that Redis holds, and what is in it: RQ compresses what it stores."""
    with Redis.from_url(url) as connection:
        for key in connection.scan_iter():
            yield cast("bytes", key)
            yield cast("bytes", connection.dump(key))
            if connection.type(key) == b"hash":
                for field in cast("dict[bytes, bytes]", connection.hgetall(key)).values():
                    yield field
                    with suppress(zlib.error):
                        yield zlib.decompress(field)


def in_database(stack: Stack) -> bytes:
    """Every column of every table, as text."""
    with stack.app.app_context():
        connection = db.session.connection()
        rows = [
            repr(tuple(bytes(v) if isinstance(v, memoryview) else v for v in row))
            for table in inspect(connection).get_table_names()
            for row in connection.execute(text(f"SELECT * FROM {table}"))
        ]
        db.session.rollback()
    return "\n".join(rows).encode()


def in_files(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                yield str(file), file.read_bytes()


@pytest.fixture
def data_folder(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the database server keeps its files, write-ahead log included."""
    if database_kind == "sqlite":
        return tmp_path
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.data


def test_nothing_secret_is_written_in_clear(start_stack: StartStack, data_folder: Path) -> None:
    stack = start_stack(legacy=LEGACY_SAMPLE).start_web().start_worker()
    stack.wait_for_run(LEGACY_IMPORT)
    stack.wait_for_run(CONSISTENCY_CHECK)
    secrets = use_everything(stack)
    secrets += list(secrets_of_the_sample())
    secrets += [ENVIRON["SECRET_KEY"], ENVIRON["MASTER_KEYS"].partition(":")[2]]
    with stack.app.app_context(), Redis.from_url(stack.redis.url) as connection:
        connection.hset("marked", "data", zlib.compress(MARKER.encode()))
        connection.save()
    places = {
        "database": in_database(stack),
        "redis": b"\n".join(in_redis(stack.redis.url)),
        "log": stack.log().encode(),
        **{
            name: content
            for name, content in in_files(data_folder, stack.folder)
            if not name.startswith(str(stack.legacy_dir))
        },
    }
    # The search itself: what is no secret is found in each of the places.
    assert MARKER.encode() in places["database"]
    assert MARKER.encode() in places["redis"]
    assert b"keystay.request" in places["log"]
    assert any(MARKER.encode() in places[name] for name in places if "/" in name)
    found = [
        (place, secret)
        for secret in secrets
        if len(secret) > 4
        for place, content in places.items()
        if any(form in content for form in forms(secret))
    ]
    assert found == []
