"""The pages, one blueprint per subject."""

from flask import Flask

from webapp.blueprints import (
    accounts,
    admin,
    cutover,
    health,
    home,
    keys,
    legacy,
    login,
    setup,
    signup,
    totp,
)

_ALL = (home, login, signup, setup, accounts, totp, keys, admin, legacy, cutover, health)


def init_app(app: Flask) -> None:
    """Register every blueprint."""
    for module in _ALL:
        app.register_blueprint(module.blueprint)
