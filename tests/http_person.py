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
_RECEIPT = re.compile(r"Saved as version (\d+).*fingerprint <code>([0-9a-f]{12})</code>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What the server said, all of it."""

    status: int
    location: str
    text: str


@dataclass(frozen=True)
class Receipt:
    """What the page says of a save."""

    version: int
    fingerprint: str


class NotAnswered(Exception):
    """The server was away, or went away before its answer was complete.

    `refused`: nothing was sent, since nobody listened.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(type(reason).__name__)
        self.refused = isinstance(reason, ConnectionRefusedError)


class HttpPerson:
    """One cookie jar; a connection for each request, as after a restart of the server.

    `cookies_seen` are the values of all cookies that it ever held.
    """

    def __init__(self, port: int, *, seconds: float = 60.0) -> None:
        self._port = port
        self._seconds = seconds
        self.cookies: dict[str, str] = {}
        self.cookies_seen: set[str] = set()
        self._token = ""

    def other_tab(self) -> Self:
        """Return somebody in the same session who can be used by another thread."""
        other = copy(self)
        other.cookies = dict(self.cookies)
        return other

    def get(self, path: str) -> Answer:
        """Fetch a page. Raises NotAnswered."""
        return self._send("GET", path)

    def post(
        self,
        path: str,
        form: Mapping[str, str] | None = None,
        *,
        htmx: bool = False,
        token: bool = True,
    ) -> Answer:
        """Send a form with the last page's token, or without one. Raises NotAnswered."""
        body = urlencode({**({"csrf_token": self._token} if token else {}), **(form or {})})
        headers = {"HX-Request": "true"} if htmx else {}
        return self._send("POST", path, body, headers)

    def sign_in(self, username: str, password: str) -> Self:
        """Sign in and fetch the page that follows."""
        self.get("/login")
        answer = self.post("/login", {"username": username, "password": password})
        assert answer.status == 303, answer.text[-500:]
        self.get(answer.location)
        return self

    def save(self, name: str, value: str) -> Receipt:
        """Save a key as htmx does and return the receipt. Raises NotAnswered."""
        answer = self.post(f"/keys/{name}", {"value": value}, htmx=True)
        found = _RECEIPT.search(answer.text)
        assert answer.status == 200, answer.text
        assert found, answer.text
        return Receipt(int(found[1]), found[2])

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
        try:
            with closing(connection):
                connection.request(method, path, body or None, sent)
                with connection.getresponse() as response:
                    text = response.read().decode("utf-8")
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswered(error) from error
        for cookie in response.headers.get_all("Set-Cookie") or ():
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
            self.cookies_seen.add(value)
        token = _TOKEN.search(text)
        if token:
            self._token = token[1]
        return Answer(response.status, response.headers.get("Location", ""), text)
