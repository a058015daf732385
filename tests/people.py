"""The people of functional tests: accounts in whatever state a test needs, and how they sign in."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

import pyotp
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.visitor import Visitor
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import AuditEvent, LoginSession, User
from webapp.services.passwords import password_hashes
from webapp.services.vault import PASSWORD_DIGEST, TOTP_SECRET, Vault

PASSWORD = "tidal marble 9 onions"
TOTP = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


def add_person(
    app: Flask,
    username: str = "amira",
    *,
    password: str | None = PASSWORD,
    imported_password: str | None = None,
    totp: str | None = None,
    **columns: Any,
) -> int:
    """Create an account and return its id. `imported_password`: as the import leaves it, sealed."""
    with app.app_context():
        hashed = password_hashes().hash(password) if password and not imported_password else None
        user = User(**({"username": username, "password_hash": hashed} | columns))
        with transaction() as session:
            session.add(user)
            session.flush()
            if imported_password is not None:
                digest = hashlib.sha256(imported_password.encode()).hexdigest().encode()
                vault = Vault.load_for_sealing(user.id)
                user.imported_digest = vault.seal(PASSWORD_DIGEST, digest)
            if totp:
                vault = Vault.load_for_sealing(user.id)
                user.totp_secret = vault.seal(TOTP_SECRET, totp.encode())
                user.totp_enabled_at = now()
        return user.id


def sign_in(
    visitor: Visitor, username: str = "amira", password: str = PASSWORD, **more: Any
) -> TestResponse:
    """Fill in the sign-in form."""
    data = {"username": username, "password": password, **more.pop("data", {})}
    return visitor.post_form("/login", data, **more)


def browser(app: Flask) -> Visitor:
    """Return another browser."""
    visitor = app.test_client()
    assert isinstance(visitor, Visitor)
    return visitor


def signed_in(app: Flask, username: str = "amira", password: str = PASSWORD) -> Visitor:
    """Return a browser in which `username` is signed in."""
    visitor = browser(app)
    assert sign_in(visitor, username, password).status_code == 303
    return visitor


def code_at(at: datetime, *, steps: int = 0, secret: str = TOTP) -> str:
    """Return the code that an app shows at `at`, or that many steps of 30 seconds later."""
    return pyotp.TOTP(secret).at(at + timedelta(seconds=30 * steps))


def user(app: Flask, username: str = "amira") -> User:
    """Return the account as the database has it."""
    with app.app_context():
        return db.session.scalars(select(User).where(User.username == username)).one()


def sessions(app: Flask) -> list[LoginSession]:
    """Return every session, the oldest first."""
    with app.app_context():
        return list(db.session.scalars(select(LoginSession).order_by(LoginSession.created_at)))


def events(app: Flask, name: str = "") -> list[AuditEvent]:
    """Return the audit events of this name, or whose names begin with it and a dot; else all."""
    with app.app_context():
        found = db.session.scalars(select(AuditEvent).order_by(AuditEvent.id)).all()
    return [event for event in found if not name or f"{event.event}.".startswith(f"{name}.")]


def cookie_of(app: Flask, visitor: Visitor) -> dict[str, Any]:
    """Return what the browser's session cookie holds."""
    cookie = visitor.get_cookie(app.config["SESSION_COOKIE_NAME"])
    if cookie is None:
        return {}
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    return dict(serializer.loads(cookie.value))


def is_signed_in(visitor: Visitor) -> bool:
    """Whether the browser sees its keys."""
    return visitor.get("/keys").status_code == 200
