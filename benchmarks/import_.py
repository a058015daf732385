"""How fast the import is, and how much memory it takes, on both databases.

    python -m benchmarks.import_ [USERS]

For each database, in processes of their own: the bare floor (parse, decrypt, seal, insert, nothing
checked and nothing else stored), the import into an empty database, the import again, which finds
everything there, and taking the first one back. The ratio to the floor is what a change of the code
moves; users per second are of this machine at this moment. The goal is 2,000 users per second of
CPU time in the importing process and less than 200 MB for 200,000 users.
"""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ijson
import psycopg
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask_migrate import upgrade
from sqlalchemy import func, select

from benchmarks.legacy_files import write_folder
from tests.servers import PostgresServer
from webapp import create_app
from webapp.config import Settings
from webapp.db import db
from webapp.jobs.context import application, job_context
from webapp.models import Run
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_undo import undo_import

_BATCH = 500
_ENVIRON = {
    "KEYSTAY_ENV": "development",
    "SECRET_KEY": "a secret key that only the benchmark uses",
    "MASTER_KEYS": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
    "LOG_FORMAT": "json",
}


def main(users: int) -> None:
    """Measure and print a table."""
    server = PostgresServer().start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            print(f"writing a users.json of {users:,} users ...", flush=True)
            write_folder(folder / "legacy", users)
            addresses = {
                "SQLite": f"sqlite:///{folder / 'keystay.db'}",
                "PostgreSQL": server.create("benchmark"),
            }
            print(
                f"{'':12}{'':10}{'users/s':>10}{'users/s/core':>14}{'peak MB':>9}{'of floor':>10}"
            )
            for kind, url in addresses.items():
                _measure(kind, url, folder, server)
    finally:
        server.stop()


def _measure(kind: str, url: str, folder: Path, server: PostgresServer) -> None:
    floor_url = str(folder / "floor.db") if kind == "SQLite" else server.create("floor")
    floor = _child("floor", floor_url, folder)
    _row(kind, "floor", floor, floor)
    app = create_app(Settings.from_environ(_environ(url, folder)))
    with app.app_context():
        upgrade()
    for what in ("import", "again", "undo"):
        _row(kind, what, _child(what, url, folder), floor)


def _row(kind: str, what: str, found: dict[str, float], floor: dict[str, float]) -> None:
    rate, per_core = found["users"] / found["seconds"], found["users"] / found["cpu"]
    share = floor["cpu"] / found["cpu"]
    print(
        f"{kind:12}{what:10}{rate:>10,.0f}{per_core:>14,.0f}{found['megabytes']:>9.0f}{share:>10.0%}",
        flush=True,
    )


def _child(what: str, url: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.import_", "--child", what, url, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _run_child(what: str, url: str, folder: Path) -> None:
    if what != "floor":
        os.environ |= _environ(url, folder)
        application()
    started, cpu = time.perf_counter(), time.process_time()
    if what == "floor":
        users = _floor(url, folder / "legacy")
    else:
        with job_context():
            users = _undo() if what == "undo" else _import(folder / "legacy")
    measured = {
        "users": users,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(measured))


def _import(legacy: Path) -> int:
    report = migrate_api_keys_from_json_to_db(legacy)
    return report.users_created + report.users_existing


def _undo() -> int:
    first = db.session.scalars(select(func.min(Run.id))).one()
    return undo_import(first).users_removed


def _environ(url: str, folder: Path) -> dict[str, str]:
    return _ENVIRON | {"DATABASE_URL": url, "INSTANCE_DIR": str(folder)}


def _floor(url: str, legacy: Path) -> int:
    """Parse, decrypt, seal and insert, and nothing besides."""
    users = "CREATE TABLE users (id integer PRIMARY KEY, name text, digest text)"
    keys = (
        "CREATE TABLE keys (user_id integer, name text, sealed text, PRIMARY KEY (user_id, name))"
    )
    fernet = Fernet((legacy / ".encryption_key").read_bytes())
    done = 0
    with (legacy / "users.json").open("rb") as file:
        if not url.startswith("postgresql"):
            lite = sqlite3.connect(url)
            lite.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {users}; {keys}")
            for user_rows, key_rows in _floor_rows(file, fernet):
                lite.executemany("INSERT INTO users VALUES (?, ?, ?)", user_rows)
                lite.executemany("INSERT INTO keys VALUES (?, ?, ?)", key_rows)
                lite.commit()
                done += len(user_rows)
            return done
        with psycopg.connect(url) as server:
            server.execute(f"{users}; {keys}")
            for user_rows, key_rows in _floor_rows(file, fernet):
                for table, rows in (("users", user_rows), ("keys", key_rows)):
                    with server.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                        for row in rows:
                            copy.write_row(row)
                server.commit()
                done += len(user_rows)
    return done


def _floor_rows(file: Any, fernet: Fernet) -> Iterator[tuple[list[Any], list[Any]]]:
    numbered = enumerate(ijson.kvitems(file, "users"), 1)
    while batch := list(islice(numbered, _BATCH)):
        user_rows, key_rows = [], []
        for number, (username, record) in batch:
            cipher = AESGCM(os.urandom(32))

            def seal(text: bytes, cipher: AESGCM = cipher) -> str:
                nonce = os.urandom(12)
                return (nonce + cipher.encrypt(nonce, text, b"place")).hex()

            user_rows.append((number, username, seal(record["password_hash"].encode())))
            for name, token in record["api_keys"].items():
                key_rows.append((number, name, seal(fernet.decrypt(token))))
        yield user_rows, key_rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _run_child(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
