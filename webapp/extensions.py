"""Flask extensions, created here and bound in `create_app`."""

from flask import Flask
from flask_login import LoginManager
from flask_migrate import Migrate
from flask_wtf import CSRFProtect

from webapp import models
from webapp.config import ROOT
from webapp.db import db

login_manager = LoginManager()
csrf = CSRFProtect()
migrate = Migrate(directory=str(ROOT / "migrations"))


def init_app(app: Flask) -> None:
    """Bind every extension to `app`."""
    assert models.User.metadata is db.metadata  # noqa: S101 - the migrations compare with it
    login_manager.session_protection = None  # type: ignore[assignment]  # the sessions table decides
    # Flask-Login asks nobody else where it finds a cookie of this name, and by its default name
    # another application on this host may have set one. No browser stores this over plain HTTP.
    app.config["REMEMBER_COOKIE_NAME"] = "__Host-keystay-unused"
    login_manager.init_app(app)
    csrf.init_app(app)
    migrate.init_app(app, db)
