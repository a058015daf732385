"""`flask` commands, one module per subject."""

from flask import Flask

from webapp.cli.legacy import legacy
from webapp.cli.users import users


def init_app(app: Flask) -> None:
    """Register every command group."""
    app.cli.add_command(legacy)
    app.cli.add_command(users)
