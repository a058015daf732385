"""What every command has: `--json`, and failures as one line and an exit code."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from webapp.db import UNREACHABLE
from webapp.services.errors import ServiceError
from webapp.services.keyring import KeyringRefused

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextmanager
def failures(*, as_json: bool) -> Iterator[None]:
    """Turn a failure into one line and exit code 1; refused master keys into 2, as everywhere."""
    exit_code = 1
    try:
        yield
    except KeyringRefused as error:
        reason, exit_code = str(error), 2
    except ServiceError as error:
        reason = str(error)
    except UNREACHABLE:
        reason = "The database cannot be reached, or `flask db upgrade` has not run yet."
    else:
        return
    if as_json:
        print_json({"error": reason})
    click.echo(reason, err=True)
    sys.exit(exit_code)


def print_json(content: Mapping[str, object]) -> None:
    click.echo(json.dumps(content, indent=2))


def shown(text: str) -> str:
    """Return `text` for a line on a terminal, which obeys what it is told: names can hold anything,
    what was imported above all.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
