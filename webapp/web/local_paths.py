"""Addresses within this site, and nothing else: what `next` may be (ASVS 3.7.2)."""

from urllib.parse import unquote, urlsplit

from flask import request

_LONGEST = 2000


def local_path(text: str | None) -> str | None:
    """Return `text` if a browser would take it for a path of this site, else None.

    Browsers read `\\` as `/`, drop tabs and line breaks, and take `//host` for another site. The
    same holds for what it says once decoded, in case something on the way decodes it.
    """
    if not text or len(text) > _LONGEST or " " in text:
        return None
    return text if _is_local(text) and _is_local(unquote(text, errors="replace")) else None


def _is_local(text: str) -> bool:
    if not text.startswith("/") or text[1:2] == "/" or "\\" in text:
        return False
    if any(character < " " or character == "\x7f" for character in text):
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return not parts.scheme and not parts.netloc


def requested_next() -> str | None:
    """Return the `next` of this request's form or query, if it is a local path."""
    return local_path(request.values.get("next"))


def shown_path() -> str | None:
    """Return the page that the browser shows while it sends this request, if it is ours.

    For a form that is the page it stands on, not the address it is sent to.
    """
    if request.method in {"GET", "HEAD"} and "HX-Request" not in request.headers:
        return local_path(request.full_path.rstrip("?"))
    try:
        shown = urlsplit(request.headers.get("HX-Current-URL") or request.referrer or "")
    except ValueError:
        return None
    if shown.netloc != request.host:
        return None
    return local_path(f"{shown.path}?{shown.query}" if shown.query else shown.path)
