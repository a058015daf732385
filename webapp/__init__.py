"""Keystay keeps a team's API keys. `create_app` wires the parts together and nothing more."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import blueprints, cli, db, extensions, log
from webapp.config import ROOT, Settings, load_environ
from webapp.services import keyring
from webapp.web import errors, gate, headers, identity, request_log, static_files, words


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application for `settings`, by default those of the environment.

    Raises ConfigError when a setting is missing or invalid. Does not touch the database.
    """
    settings = settings or Settings.from_environ(load_environ())
    log.configure(settings.log_format)
    app = Flask(__name__, template_folder=str(ROOT / "templates"), static_folder=None)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.extensions["keystay_settings"] = settings
    app.config.from_mapping(
        SECRET_KEY=settings.secret_key,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        TRUSTED_HOSTS=list(settings.trusted_hosts) or None,
        MAX_CONTENT_LENGTH=256 * 1024,
        MAX_FORM_MEMORY_SIZE=256 * 1024,
        MAX_FORM_PARTS=100,
        SESSION_COOKIE_NAME="__Host-keystay" if settings.cookie_secure else "keystay",
        SESSION_COOKIE_SECURE=settings.cookie_secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,
        **db.engine_settings(settings.database_url),
    )
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops
        )
    db.init_app(app)
    keyring.init_app(app, settings)
    # In this order: an id for the request, who sends it, whether they may, and only then the form.
    request_log.init_app(app)
    identity.init_app(app)
    gate.init_app(app)
    extensions.init_app(app)
    static_files.init_app(app, ROOT / "static")
    headers.init_app(app)
    words.init_app(app)
    errors.init_app(app)
    blueprints.init_app(app)
    cli.init_app(app)
    return app
