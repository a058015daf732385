"""Keystay as it runs in earnest: gunicorn, a worker and Redis, each a process of its own."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import psutil
from flask import Flask

from devserver.embedded_redis import EmbeddedRedis
from tests.conftest import CHEAP_PASSWORDS, ENVIRON
from tests.worker_process import WorkerProcess, until
from webapp import create_app
from webapp.config import ROOT, Settings
from webapp.db import db, dispose_engines
from webapp.services import runs

LEGACY_SAMPLE = ROOT / "tests" / "data" / "legacy-sample"
_READY_SECONDS = 30.0


class Stack:
    """One installation on a migrated database; everything else that it writes is in `folder`.

    `legacy` is a folder that is copied, so that the tests can let the predecessor write there.
    A context: leaving it kills every process, since a polite end takes seconds.
    """

    def __init__(
        self, folder: Path, database_url: str, *, legacy: Path | None = None, **environ: str
    ) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.legacy_dir = folder / "legacy"
        self.redis = EmbeddedRedis(folder / "redis")
        for name in ("instance", "tmp", "logs"):
            (folder / name).mkdir(parents=True)
        self.environ: Mapping[str, str] = {
            "PATH": os.environ["PATH"],
            **ENVIRON,
            "DATABASE_URL": database_url,
            "REDIS_URL": self.redis.url,
            "INSTANCE_DIR": str(folder / "instance"),
            "TMPDIR": str(folder / "tmp"),
            "PORT": str(self.port),
            "LOG_FORMAT": "json",
            **environ,
        }
        if legacy is not None:
            shutil.copytree(legacy, self.legacy_dir)
            self.environ = {**self.environ, "LEGACY_DIR": str(self.legacy_dir)}
        self.worker: WorkerProcess | None = None
        self._web: subprocess.Popen[bytes] | None = None
        self._redis: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start_redis()
        return self

    def __exit__(self, *error: object) -> None:
        if "app" in self.__dict__:
            dispose_engines(self.app)
        if self.worker is not None and self.worker.exit_code is None:
            self.worker.kill_everything()
        if self._web is not None:
            self.kill_web()
        self.redis.stop()

    @cached_property
    def app(self) -> Flask:
        """An application of the test's own process on the same database.

        Its passwords are cheap and it does not know of the predecessor's files.
        """
        settings = Settings.from_environ({**self.environ, "LEGACY_DIR": "", "LEGACY_MODE": ""})
        return create_app(replace(settings, password_cost=CHEAP_PASSWORDS))

    def start_web(self) -> Self:
        """Start gunicorn and return once it answers."""
        with (self.folder / "logs" / "web.log").open("ab") as log:
            self._web = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "wsgi:app"],
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers, _READY_SECONDS)
        return self

    def start_worker(self, program: Sequence[str] = ("worker.py",)) -> Self:
        self.worker = WorkerProcess(self.environ, self.folder / "logs" / "worker.log", program)
        return self

    def start_redis(self) -> None:
        """Start Redis, empty; leaving the context ends it."""
        self._redis = self.redis.start()

    def kill_redis(self) -> None:
        """kill -9 Redis: what was in it is gone."""
        assert self._redis is not None
        self._redis.kill()
        self._redis.wait()

    def kill_web(self) -> None:
        """kill -9 the web server with all of its workers at the same moment."""
        assert self._web is not None
        everything = [psutil.Process(self._web.pid), *self.web_workers()]
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in everything:
                with suppress(psutil.NoSuchProcess):
                    act(process)
        self._web.wait()
        self._web = None

    def web_workers(self) -> list[psutil.Process]:
        """Return gunicorn's worker processes."""
        assert self._web is not None
        return psutil.Process(self._web.pid).children()

    def log(self) -> str:
        """Return what web server and worker have printed."""
        logs = sorted((self.folder / "logs").iterdir())
        return "".join(log.read_text(encoding="utf-8") for log in logs)

    def wait_for_run(self, kind: str, seconds: float = 30.0) -> None:
        """Return once a run of `kind` has finished. Raises AssertionError when one failed."""
        until(lambda: self._has_finished(kind), seconds)

    def _has_finished(self, kind: str) -> bool:
        with self.app.app_context():
            db.session.rollback()
            run = runs.latest(kind)
            if run is None:
                return False
            assert run.status != "failed", run.error
            return run.status == "finished"

    def _answers(self) -> bool:
        assert self._web is not None
        assert self._web.poll() is None, self.log()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
