"""How fast import, check, mirror and undo are, and how much memory they take, on both databases.

    python -m benchmarks.bridge [USERS]

For each database, in processes of their own: the bare floor (parse, decrypt, seal, insert, nothing
checked and nothing else stored), the import into an empty database, the import again, which finds
everything there, the consistency check beside a floor of its own (parse, decrypt, read, open,
compare), one mirrored change and a thousand, and taking the import back. The ratio to the floor is
what a change of the code moves; users per second are of this machine at this moment. The goals on a
machine whose floors are 6,000 and 6,700: 2,000 users per second and core imported and 3,500
checked, memory that does not grow with the file and is less than 200 MB, and one change in a file
of 100,000 users mirrored in less than 3 s.
"""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from webapp.services import runs
from webapp.services.actor import Actor, acting
from webapp.services.consistency import check_consistency
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_mirror import run_mirror
from webapp.services.legacy_undo import undo_import

_BATCH = 500
_FLOOR_KEY = bytes(range(32))
_ENVIRON = {
    "KEYSTAY_ENV": "development",
    "SECRET_KEY": "a secret key that only the benchmark uses",
    "MASTER_KEYS": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
    "LOG_FORMAT": "json",
    "CONSISTENCY_INTERVAL_MINUTES": "10080",
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
                f"{'':25}{'seconds':>9}{'users/s':>10}{'users/s/core':>14}"
                f"{'peak MB':>9}{'helper MB':>11}{'of floor':>10}"
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
    for what in ("import", "again"):
        _row(kind, what, _child(what, url, folder), floor)
    check_floor = _child("check floor", floor_url, folder)
    _row(kind, "check floor", check_floor, check_floor)
    _row(kind, "check", _child("check", url, folder), check_floor)
    for what in ("mirror 1", "mirror 1000"):
        _row(kind, what, _child(what, url, folder), floor)
    _row(kind, "undo", _child("undo", url, folder), floor)


def _row(kind: str, what: str, found: dict[str, float], floor: dict[str, float]) -> None:
    rate, per_core = found["users"] / found["seconds"], found["users"] / found["cpu"]
    share = floor["cpu"] / found["cpu"]
    print(
        f"{kind:12}{what:13}{found['seconds']:>9.2f}{rate:>10,.0f}{per_core:>14,.0f}{found['megabytes']:>9.0f}"
        f"{found['megabytes of a helper']:>11.0f}{share:>10.0%}",
        flush=True,
    )


def _child(what: str, url: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bridge", "--child", what, url, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _run_child(what: str, url: str, folder: Path) -> None:
    if "floor" not in what:
        os.environ |= _environ(url, folder)
        application()
        if what.startswith("mirror"):
            with application().app_context(), acting(Actor(via="web")):
                _change(int(what.split()[1]))
    started, cpu = time.perf_counter(), _cpu_seconds()
    if what == "floor":
        users = _floor(url, folder / "legacy")
    elif what == "check floor":
        users = _check_floor(url, folder / "legacy")
    else:
        with job_context():
            users = _ACTS[what.split(maxsplit=1)[0]](folder / "legacy")
    measured = {
        "users": users,
        "seconds": time.perf_counter() - started,
        "cpu": _cpu_seconds() - cpu,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "megabytes of a helper": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    print(json.dumps(measured))


def _cpu_seconds() -> float:
    """Return what this process and the helpers that have ended used."""
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + helpers.ru_utime + helpers.ru_stime


def _import(legacy: Path) -> int:
    report = migrate_api_keys_from_json_to_db(legacy)
    return report.users_created + report.users_existing


def _check(legacy: Path) -> int:
    report = check_consistency()
    if report.items:
        raise SystemExit(f"the check found {len(report.items)} differences")
    return report.equal


def _change(number: int) -> None:
    """Save a key of each of `number` users; what is measured is writing that back."""
    for index in range(number):
        value = f"changed for the mirror {time.time_ns()}"  # in no file that was mirrored before
        save_user_api_key(f"user{index}", "openai", value)


def _mirror(legacy: Path) -> int:
    run = runs.start(runs.LEGACY_MIRROR)
    run_mirror(run.id)
    return runs.latest(runs.LEGACY_MIRROR).counts["fields_written"]


def _undo(legacy: Path) -> int:
    first = db.session.scalars(select(func.min(Run.id))).one()
    return undo_import(first).users_removed


_ACTS = {
    "import": _import,
    "again": _import,
    "check": _check,
    "mirror": _mirror,
    "undo": _undo,
}


def _environ(url: str, folder: Path) -> dict[str, str]:
    own = {
        "DATABASE_URL": url,
        "INSTANCE_DIR": str(folder),
        "LEGACY_DIR": str(folder / "legacy"),
        "LEGACY_MODE": "mirror",
    }
    return _ENVIRON | own


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


def _check_floor(url: str, legacy: Path) -> int:
    """Parse, decrypt, read what the floor has stored, open it and compare."""
    fernet = Fernet((legacy / ".encryption_key").read_bytes())
    fetch = _fetcher(url)
    done = 0
    with (legacy / "users.json").open("rb") as file:
        numbered = enumerate(ijson.kvitems(file, "users"), 1)
        while batch := list(islice(numbered, _BATCH)):
            stored = fetch(batch[0][0], batch[-1][0])
            for number, (_, record) in batch:
                cipher = AESGCM(_FLOOR_KEY)
                for name, token in record["api_keys"].items():
                    sealed = bytes.fromhex(stored[number, name])
                    if cipher.decrypt(sealed[:12], sealed[12:], b"place") != fernet.decrypt(token):
                        raise SystemExit("the floor differs")
            done += len(batch)
    return done


def _fetcher(url: str) -> Callable[[int, int], dict[tuple[int, str], str]]:
    """Return what reads the keys of users from one number to another."""
    connection: Any = psycopg.connect(url) if url.startswith("postgresql") else sqlite3.connect(url)
    mark = "%s" if url.startswith("postgresql") else "?"
    query = f"SELECT user_id, name, sealed FROM keys WHERE user_id BETWEEN {mark} AND {mark}"

    def fetch(first: int, last: int) -> dict[tuple[int, str], str]:
        return {(user, name): text for user, name, text in connection.execute(query, (first, last))}

    return fetch


def _floor_rows(file: Any, fernet: Fernet) -> Iterator[tuple[list[Any], list[Any]]]:
    numbered = enumerate(ijson.kvitems(file, "users"), 1)
    while batch := list(islice(numbered, _BATCH)):
        user_rows, key_rows = [], []
        for number, (username, record) in batch:
            cipher = AESGCM(_FLOOR_KEY)

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
