"""Somebody who uses a running server over HTTP, with a cookie and the token of its forms."""

import http.client
import re
from collections.abc import Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_RECEIPT = re.compile(r"version\s+(\d+)")


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    location: str
    text: str


class NotAcknowledged(Exception):
    """The server did not say that it saved: it was away, or answered something else."""


class HttpPerson:
    """One cookie jar; a connection for each request, as after a restart of the server."""

    def __init__(self, port: int, *, seconds: float = 20.0) -> None:
        self._port = port
        self._seconds = seconds
        self.cookies: dict[str, str] = {}
        self._token = ""

    def other_tab(self) -> Self:
        """Return somebody in the same session who can be used by another thread."""
        other = copy(self)
        other.cookies = dict(self.cookies)
        return other

    def get(self, path: str) -> Answer:
        """Fetch a page. Raises OSError, HTTPException."""
        return self._send("GET", path)

    def post(
        self, path: str, form: Mapping[str, str] | None = None, *, htmx: bool = False
    ) -> Answer:
        """Send a form with the last page's token. Raises OSError, HTTPException."""
        body = urlencode({"csrf_token": self._token, **(form or {})})
        headers = {"HX-Request": "true"} if htmx else {}
        return self._send("POST", path, body, headers)

    def sign_in(self, username: str, password: str) -> Answer:
        """Sign in and fetch the page that follows."""
        self.get("/login")
        answer = self.post("/login", {"username": username, "password": password})
        assert answer.status == 303, answer.text[-500:]
        self.get(answer.location)
        return answer

    def save(self, name: str, value: str) -> int:
        """Save a key and return the version of the receipt. Raises NotAcknowledged."""
        try:
            answer = self.post(f"/keys/{name}", {"value": value}, htmx=True)
        except (OSError, http.client.HTTPException) as error:
            raise NotAcknowledged(type(error).__name__) from error
        found = _RECEIPT.search(answer.text)
        if answer.status != 200 or found is None:
            raise NotAcknowledged(f"{answer.status}")
        return int(found[1])

    def _send(
        self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        sent = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Origin": f"http://127.0.0.1:{self._port}",
            **({"Content-Type": "application/x-www-form-urlencoded"} if body else {}),
            **(headers or {}),
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._seconds)
        with closing(connection):
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            text = response.read().decode("utf-8")
            for cookie in response.headers.get_all("Set-Cookie") or ():
                name, _, value = cookie.partition(";")[0].partition("=")
                self.cookies[name] = value
        token = _TOKEN.search(text)
        if token:
            self._token = token[1]
        return Answer(response.status, response.headers.get("Location", ""), text)
