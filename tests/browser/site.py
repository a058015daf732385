"""Keystay in the test's own process: cheap, and its database is at hand."""

import threading
from typing import Any, Self

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from webapp import create_app
from webapp.config import Settings
from webapp.db import dispose_engines
from webapp.services import legacy_lookup


class Site:
    """An application that answers at `url` while the context is entered."""

    def __init__(self, settings: Settings) -> None:
        self.app: Flask = create_app(settings)
        self._server = make_server(
            "127.0.0.1", 0, self.app, threaded=True, request_handler=_WithoutLog
        )
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        legacy_lookup.forget(self.app)
        dispose_engines(self.app)


class _WithoutLog(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Print nothing: the application has a log of its own."""
