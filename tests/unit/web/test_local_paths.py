"""Where `next` may lead."""

import pytest
from flask import Flask

from webapp.web.local_paths import local_path, shown_path


@pytest.mark.parametrize(
    "path",
    ["/", "/keys", "/keys?saved=openai", "/a/b#c", "/keys?x=//y", "/keys?x=a%20b", "/a:b"],
)
def test_a_path_of_this_site_is_kept(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "keys",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/keys\\..",
        "https://evil.example",
        "https:evil.example",
        "https:/evil.example",
        "javascript:alert(1)",
        " /keys",
        "/\t/evil.example",
        "/\n/evil.example",
        "/keys\r\nSet-Cookie: sid=1",
        "/a\x00b",
        "/a b",
        "/%2Fevil.example",
        "/%09/evil.example",
        "/%5Cevil.example",
        "/keys%0D%0ASet-Cookie: sid=1",
        "/a\x7fb",
        "/" + "a" * 2000,
    ],
)
def test_everything_else_is_refused(text: str | None) -> None:
    assert local_path(text) is None


@pytest.mark.parametrize(
    ("method", "headers", "shown"),
    [
        ("GET", {}, "/asked?x=1"),
        ("GET", {"HX-Request": "true", "HX-Current-URL": "http://localhost/keys?y=2"}, "/keys?y=2"),
        ("POST", {"Referer": "http://localhost/keys"}, "/keys"),
        (
            "POST",
            {"Referer": "http://localhost/keys", "HX-Current-URL": "http://localhost/a"},
            "/a",
        ),
        ("POST", {"Referer": "http://evil.example/keys"}, None),
        ("POST", {"Referer": "http://localhost//evil.example"}, None),
        ("POST", {}, None),
    ],
)
def test_the_page_that_is_shown_is_the_one_with_the_form(
    method: str, headers: dict[str, str], shown: str | None
) -> None:
    with Flask(__name__).test_request_context("/asked?x=1", method=method, headers=headers):
        assert shown_path() == shown
