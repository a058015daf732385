"""Static files: the same for everybody, and kept by browsers for as long as they do not change."""

import hashlib
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request
from flask.sessions import SecureCookieSessionInterface, SessionMixin

_KEPT_FOR_GOOD = "public, max-age=31536000, immutable"
_KEPT_AN_HOUR = "public, max-age=3600"
_ASKED_FOR_AGAIN = "no-cache"
_VERSIONS = "keystay_static_versions"


def init_app(app: Flask, folder: Path) -> None:
    """Serve `folder` under /static, and name the content of a file in every address of it.

    So a page never meets the style or the script of the release before.
    """
    app.static_folder = str(folder)
    app.add_url_rule("/static/<path:filename>", endpoint="static", view_func=app.send_static_file)
    app.session_interface = _NoSessionForFiles()
    files = [path for path in folder.rglob("*") if path.is_file()]
    versions = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    app.extensions[_VERSIONS] = versions

    @app.url_defaults
    def add_version(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["v"] = versions.get(values["filename"])


def is_file(response: Response) -> bool:
    """Whether this answer is a static file, and no page that says that there is none."""
    return request.endpoint == "static" and response.status_code in {200, 206, 304}


def cache_control() -> str:
    """Return how long the file that was asked for may be kept.

    While two releases run side by side, one may be asked for the file of the other.
    """
    asked = request.args.get("v")
    if asked is None:
        return _KEPT_AN_HOUR
    filename = (request.view_args or {}).get("filename")
    same = asked == current_app.extensions[_VERSIONS].get(filename)
    return _KEPT_FOR_GOOD if same else _ASKED_FOR_AGAIN


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


class _NoSessionForFiles(SecureCookieSessionInterface):
    """The cookie of the session neither comes with a static file nor makes it another one."""

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        if request.endpoint != "static":
            super().save_session(app, session, response)
