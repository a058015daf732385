"""`gunicorn wsgi:app` with the defaults of gunicorn.conf.py."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHER_MASTER_KEY = "k1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA"

Serve = Callable[..., "Server"]


class Server:
    """A gunicorn on a port of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "wsgi:app"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environ, "PORT": str(self.port)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path: str) -> tuple[int, Message]:
        """Return status and headers of the answer, as soon as somebody listens."""
        deadline = time.monotonic() + 20
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                with closing(connection):
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    return answer.status, answer.headers
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def end(self) -> str:
        """End it politely and return what it logged."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def serve(environ: Mapping[str, str]) -> Iterator[Serve]:
    """Start gunicorn with further variables."""
    servers: list[Server] = []

    def start(**more: str) -> Server:
        servers.append(Server({**environ, **more}))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def test_an_answer_does_not_name_its_software(serve: Serve) -> None:
    status, headers = serve().get("/healthz")
    assert status == 200
    assert "Server" not in headers
    assert "gunicorn" not in str(headers).lower()


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_missing_setting_ends_it_with_2_and_one_line(serve: Serve) -> None:
    server = serve(KEYSTAY_ENV="production", TRUSTED_HOSTS="")
    assert server.process.wait(20) == 2
    assert [line for line in server.end().splitlines() if "TRUSTED_HOSTS" in line] != []


def test_another_master_key_under_the_same_id_ends_it_with_2(serve: Serve) -> None:
    first = serve()
    assert first.get("/healthz")[0] == 200
    first.end()

    second = serve(MASTER_KEYS=OTHER_MASTER_KEY)
    assert second.process.wait(20) == 2
    errors = second.end()
    assert "master key k1" in errors
    assert "Traceback" not in errors
    assert OTHER_MASTER_KEY.removeprefix("k1:") not in errors


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_it_logs_in_the_format_of_the_application(serve: Serve) -> None:
    server = serve(LOG_FORMAT="json")
    server.get("/healthz")
    lines = server.end().splitlines()
    assert all(line.startswith("{") for line in lines), lines
    assert any("Listening at" in line for line in lines)
