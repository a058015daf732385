"""`python -m devserver`: migrate, then run Redis, gunicorn and the worker until Ctrl-C."""

import http.client
import os
import socket
import sys
import time
from contextlib import ExitStack

from flask import Flask
from flask_migrate import upgrade

from devserver.embedded_redis import EmbeddedRedis, NoRedis
from devserver.supervisor import Supervisor
from webapp import create_app
from webapp.config import ROOT, ConfigError, Settings, load_environ
from webapp.db import dispose_engines
from webapp.services.keyring import KeyringRefused, check_keyring
from webapp.services.setup import setup_token

HOST = "127.0.0.1"
_READY_SECONDS = 60.0


class PortTaken(Exception):
    """The port cannot be listened on; the message is one line."""


def main() -> int:
    """Run until a signal (0), until a child ends (1), or not at all (1; 2 for a bad setting)."""
    os.chdir(ROOT)
    environ = load_environ(ROOT) | {"KEYSTAY_ENV": "development"}
    try:
        port = _port(environ.get("PORT", "8000"))
        _refuse_taken(port)
        return _run(Settings.from_environ(environ, ROOT), environ | {"PORT": str(port)}, port)
    except (ConfigError, KeyringRefused) as error:
        print(f"keystay: {error}", file=sys.stderr)
        return 2
    except (PortTaken, NoRedis) as error:
        print(f"keystay: {error}", file=sys.stderr)
        return 1


def _run(settings: Settings, environ: dict[str, str], port: int) -> int:
    with ExitStack() as at_the_end, Supervisor() as supervisor:
        if settings.redis_url is None:
            redis = EmbeddedRedis(settings.instance_dir / "redis")
            at_the_end.callback(redis.stop)
            supervisor.adopt("redis", redis.start())
            environ["REDIS_URL"] = redis.url
        token = _prepare(create_app(settings))
        if supervisor.running:
            supervisor.start("web", [sys.executable, "-m", "gunicorn", "wsgi:app"], environ)
            supervisor.start("worker", [sys.executable, "worker.py"], environ)
            _announce(supervisor, port, token)
            supervisor.wait()
        if supervisor.asked_to_end:
            return 0
        ended = supervisor.first_ended()
    if ended is not None:
        print(f"keystay: {ended[0]} ended by itself with exit code {ended[1]}", file=sys.stderr)
    return 1


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise ConfigError(f"PORT: must be a whole number from 1 to 65535, not {text!r}")
    return int(text)


def _refuse_taken(port: int) -> None:
    """Raise PortTaken when somebody listens there; a port that was just let go is fine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(
                f"PORT: cannot listen on {HOST}:{port}: {error.strerror};"
                " choose another: PORT=8001 make run"
            ) from error


def _prepare(app: Flask) -> str | None:
    """Bring the database up to date; return the setup token while there is no account.

    The master keys are checked here first: web and worker would both refuse them.
    """
    with app.app_context():
        upgrade()
        check_keyring()
        token = setup_token()
    dispose_engines(app)
    return token


def _announce(supervisor: Supervisor, port: int, token: str | None) -> None:
    """Print where Keystay is, once it answers."""
    deadline = time.monotonic() + _READY_SECONDS
    while supervisor.running and time.monotonic() < deadline:
        if _answers(port):
            lines = ["", f"Keystay is at http://{HOST}:{port} (Ctrl-C ends it)"]
            if token:
                lines.append("There is no account yet. This link creates the first admin, once:")
                lines.append(f"http://{HOST}:{port}/setup/{token}")
            print("\n".join([*lines, ""]), flush=True)
            return
        time.sleep(0.1)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
