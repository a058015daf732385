"""The test client of functional tests."""

import re
from collections.abc import Mapping
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

_CSRF_FIELD = re.compile(r'<input[^>]*name="csrf_token"[^>]*value="([^"]+)"')


class Visitor(FlaskClient):
    """A test client that fills in forms as a browser does, CSRF token included."""

    def post_form(
        self, path: str, data: Mapping[str, Any] | None = None, *, page: str = "", **options: Any
    ) -> TestResponse:
        """Post `data` with the token of a form on `page`: by default `path`, else `/`."""
        headers = {"Origin": "http://localhost", **options.pop("headers", {})}
        token = self.csrf_token(*([page] if page else [path, "/"]))
        return self.post(
            path, data={"csrf_token": token, **(data or {})}, headers=headers, **options
        )

    def csrf_token(self, *pages: str) -> str:
        """Return the token of the first of `pages` that has a form."""
        for page in pages:
            found = _CSRF_FIELD.search(self.get(page, follow_redirects=True).text)
            if found:
                return found[1]
        raise AssertionError(f"no form with a CSRF token on {' or '.join(pages)}")


def new_visitor(app: Flask) -> Visitor:
    """Return another browser, with a cookie jar of its own."""
    return Visitor(app, app.response_class, use_cookies=True)
