"""Nothing secret stands in clear, or merely encoded, in database, WAL, Redis, logs or files."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from flask_migrate import upgrade
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import inspect, text, update
from sqlalchemy.exc import DataError

from tests.durability import secrets_in_use
from tests.plaintext import Needles
from tests.servers import PostgresServer
from tests.stack import LEGACY_SAMPLE, Stack
from webapp.db import db, transaction
from webapp.models import User
from webapp.services.runs import LEGACY_IMPORT

pytestmark = pytest.mark.durability

PLANTED = "a marker, planted in each of the places; no secret"
_OF_THE_SERVER = ("base/1/", "base/4/", "base/5/")
"""PostgreSQL's own databases, in which nobody writes."""


@pytest.fixture
def server(database_kind: str, request: pytest.FixtureRequest) -> PostgresServer | None:
    if database_kind == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("own_postgres")
    return server


@pytest.fixture
def stack(server: PostgresServer | None, tmp_path: Path) -> Iterator[Stack]:
    sqlite = tmp_path / "instance" / "keystay.db"
    url = server.create("keystay") if server else f"sqlite:///{sqlite}"
    with Stack(tmp_path, url, legacy=LEGACY_SAMPLE) as stack:
        with stack.app.app_context():
            upgrade()
        with Redis.from_url(stack.redis.url) as client:
            # So that all that ever goes through Redis stands in a file.
            client.config_set("appendonly", "yes")
            client.config_set("rdbcompression", "no")
        yield stack.start_web().start_worker()


def test_nothing_secret_is_written_in_clear(stack: Stack, server: PostgresServer | None) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    secrets = secrets_in_use.use_everything(stack)
    secrets |= secrets_in_use.of_the_sample()
    secrets |= secrets_in_use.of_the_installation(stack)
    planted_in = plant(stack, server)
    needles = Needles(secrets | {"planted": PLANTED})
    found = {
        (place, label) for place, data in places(stack, server) for label in needles.found_in(data)
    }
    assert {(place, label) for place, label in found if label != "planted"} == set()
    seen = {place for place, label in found}
    for place in planted_in:
        assert any(name.startswith(place) for name in seen), f"the hunt does not see {place}"


def places(stack: Stack, server: PostgresServer | None) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of everything that Keystay, Redis and the database write."""
    yield from _files(stack.folder)
    yield from _tables(stack)
    with Redis.from_url(stack.redis.url) as client:
        for key in client.scan_iter():
            yield "Redis", key + b"\n" + (client.dump(key) or b"")
            if client.type(key) == b"hash":
                for part in (part for item in client.hgetall(key).items() for part in item):
                    yield "Redis", part
    if server:
        yield "server log", server.log.read_bytes()
        yield from _files(server.data)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if file.is_file() and not name.startswith(("legacy/", *_OF_THE_SERVER)):
            yield name, file.read_bytes()


def _tables(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """Yield every column of every row, as a dump of the database would have it."""
    with stack.app.app_context():
        connection = db.session.connection()
        for table in inspect(connection).get_table_names():
            rows = connection.execute(text(f'SELECT * FROM "{table}"'))
            yield f"table {table}", b"\n".join(_content(value) for row in rows for value in row)
        db.session.rollback()


def _content(value: object) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    return (json.dumps(value) if isinstance(value, dict | list) else str(value)).encode()


def plant(stack: Stack, server: PostgresServer | None) -> list[str]:
    """Write PLANTED everywhere, each time in another form; return how those places' names begin."""
    (stack.folder / "instance" / "planted").write_bytes(PLANTED.encode("utf-16-le"))
    (stack.folder / "tmp" / "planted").write_text(PLANTED.encode().hex())
    for log, form in (("web", quote(PLANTED)), ("worker", _base64(f"({PLANTED})"))):
        with (stack.folder / "logs" / f"{log}.log").open("a") as file:
            file.write(form)
    with Redis.from_url(stack.redis.url) as client:
        Queue("planted", connection=client, serializer=JSONSerializer).enqueue("f", PLANTED)
        client.save()
    with stack.app.app_context():
        with transaction() as session:
            session.execute(update(User).where(User.username == "hunted").values(name=PLANTED))
        everywhere = [
            "instance/planted", "tmp/planted", "logs/web.log", "logs/worker.log",
            "redis/appendonly.aof", "redis/dump.rdb", "Redis", "table users",
        ]  # fmt: skip
        if server:
            with pytest.raises(DataError):
                db.session.execute(text(f"SELECT CAST('{PLANTED}' AS integer)"))
            db.session.rollback()
            db.session.execute(text("CHECKPOINT"))
            return [*everywhere, "base/", "pg_wal/", "server log"]
        db.session.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))
        return [*everywhere, "instance/keystay.db", "instance/keystay.db-wal"]


def _base64(clear: str) -> str:
    return base64.b64encode(clear.encode()).decode()
