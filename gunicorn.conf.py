"""gunicorn's defaults for Keystay: `gunicorn wsgi:app` reads this file by itself.

Options on the command line and in GUNICORN_CMD_ARGS win over it.
"""

import os
import sys
from typing import Any

from gunicorn import glogging
from gunicorn.http import wsgi


def _number(name: str, default: int) -> int:
    """Read a variable of the process; `.env` is the application's, which is not there yet."""
    value = os.environ.get(name) or str(default)
    if not (value.isascii() and value.isdecimal() and int(value) > 0):
        print(f"keystay: {name}: must be a whole number above 0, not {value!r}", file=sys.stderr)
        sys.exit(2)
    return int(value)


bind = f"127.0.0.1:{_number('PORT', 8000)}"
workers = _number("WEB_CONCURRENCY", 2)
worker_class = "gthread"
threads = 4

# The application is made once, before the fork: a start that it refuses (exit code 2) ends the
# server, where workers of their own would be started again for ever.
preload_app = True

timeout = 60
graceful_timeout = 30
# Short: with threads one worker can gather most of the connections that are kept open.
keepalive = 2
# A heartbeat file on a slow disk blocks the worker that touches it.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# Which proxies are believed is TRUSTED_PROXIES alone (webapp/__init__.py); gunicorn believes none.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""


class ApplicationLog(glogging.Logger):  # type: ignore[misc]
    """Hands gunicorn's messages to the application's log, so that there is one format.

    They quote what was sent where it is not HTTP, and the address of what failed. Neither is kept:
    the rest of a form whose length was wrong is read as the next request.
    """

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg.startswith("Invalid request from "):
            msg = ": ".join(msg.split(": ")[:2])
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg.startswith("Error handling request"):
            msg, args = "Error handling request", ()
        super().exception(msg, *args, **kwargs)


logger_class = ApplicationLog
# Requests are logged by the application, with a request id and without query strings.
accesslog = None
control_socket_disable = True


def on_starting(server: Any) -> None:
    """End the server with exit code 2 before it listens when its master keys are refused.

    A database that cannot be asked is no reason to stay down: /readyz says so until it answers.
    """
    # gunicorn reads this file before it puts the checkout on the path.
    from sqlalchemy.exc import SQLAlchemyError

    from webapp.config import ConfigError
    from webapp.services.keyring import KeyringRefused, check_keyring

    try:
        with server.app.wsgi().app_context():
            check_keyring()
    except (ConfigError, KeyringRefused) as error:
        print(f"keystay: {error}", file=sys.stderr)
        sys.exit(2)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).partition("\n")[0]
        server.log.warning("The database cannot be asked about the master keys yet: %s", reason)


def pre_fork(server: Any, worker: Any) -> None:
    """Close the connections that preloading opened: a socket must not have two owners."""
    from webapp.db import dispose_engines

    dispose_engines(server.app.wsgi())


def _without_server(headers: list[str]) -> list[str]:
    return [header for header in headers if not header.startswith("Server:")]


# gunicorn has no option for it. ASVS 13.4.6: an answer does not name its software.
_default_headers = wsgi.Response.default_headers
wsgi.Response.default_headers = lambda response: _without_server(_default_headers(response))
