"""`flask users`: accounts, from the host."""

import sys
from dataclasses import asdict
from datetime import datetime

import click
from flask.cli import AppGroup

from webapp.cli.output import failures, json_option, print_json, shown
from webapp.services import accounts, admin
from webapp.services.admin import AccountSummary

users = AppGroup("users", help="Accounts: create, list, disable, enable.")


@users.command("create")
@click.argument("name")
@click.option("--admin", "is_admin", is_flag=True, help="Make the account an admin.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of input."
)
@json_option
def create_command(name: str, is_admin: bool, password_stdin: bool, as_json: bool) -> None:
    """Create the account NAME. Asks for the password, twice and hidden."""
    password = _first_line() if password_stdin else _prompt()
    with failures(as_json=as_json):
        user = accounts.create_account(name, password, is_admin=is_admin)
    if as_json:
        print_json({"username": user.username, "is_admin": user.is_admin})
    else:
        click.echo(f"Created the {'admin' if is_admin else 'account'} {user.username}.")


@users.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List every account by name."""
    with failures(as_json=as_json):
        if as_json:
            print_json({"users": [_as_json(found) for found in admin.list_accounts()]})
            return
        for found in admin.list_accounts():
            click.echo(_as_line(found))


@users.command("disable")
@click.argument("name")
@json_option
def disable_command(name: str, as_json: bool) -> None:
    """Lock the account NAME out, and end all its sessions."""
    with failures(as_json=as_json):
        changed = admin.disable_account(name)
    _print_change(name, "disabled", changed=changed, as_json=as_json)


@users.command("enable")
@click.argument("name")
@json_option
def enable_command(name: str, as_json: bool) -> None:
    """Let the account NAME sign in again."""
    with failures(as_json=as_json):
        changed = admin.enable_account(name)
    _print_change(name, "enabled", changed=changed, as_json=as_json)


def _first_line() -> str:
    """Return the first line as it is, without its line end: spaces belong to a password."""
    try:
        line = sys.stdin.buffer.readline().decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError("the password is not UTF-8 text") from None
    return line.removesuffix("\n").removesuffix("\r")


def _prompt() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; use --password-stdin")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt="Password again"))


def _print_change(name: str, state: str, *, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json({"username": name, "state": state, "changed": changed})
    elif changed:
        click.echo(f"{name} is {state} now.")
    else:
        click.echo(f"{name} was {state} already.")


def _as_json(account: AccountSummary) -> dict[str, object]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(account).items()
    }


def _as_line(account: AccountSummary) -> str:
    marks = [
        word
        for word, applies in (
            ("admin", account.is_admin),
            ("asks to be admin", account.admin_requested and not account.is_admin),
            ("second factor", account.second_factor),
            ("disabled", account.disabled_at),
        )
        if applies
    ]
    return f"{shown(account.username)}  {', '.join(marks)}".rstrip()
