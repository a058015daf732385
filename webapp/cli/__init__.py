"""`flask` commands, one module per subject."""

from collections.abc import Sequence

from flask import Flask

from webapp.cli.legacy import legacy
from webapp.cli.users import users
from webapp.cli.vault import vault


def init_app(app: Flask) -> None:
    """Register every command group."""
    app.cli.add_command(legacy)
    app.cli.add_command(users)
    app.cli.add_command(vault)


def needs_no_settings(arguments: Sequence[str]) -> bool:
    """Whether this command line is of the one command that has to work before there are settings.

    It makes one of them.
    """
    return list(arguments[1:3]) == ["vault", "generate-key"]


def without_settings() -> Flask:
    """Return an application that has that command and nothing else."""
    app = Flask("keystay")
    app.cli.add_command(vault)
    return app
