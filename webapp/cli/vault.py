"""`flask vault`: master keys."""

import click
from flask.cli import AppGroup

from webapp.cli.output import json_option, print_json
from webapp.clock import now
from webapp.crypto.keyring import InvalidKeyring, MasterKey

vault = AppGroup("vault", help="Master keys.")


@vault.command("generate-key", with_appcontext=False)
@click.option("--id", "key_id", help="Its id; by default k and the date, such as k20260131.")
@json_option
def generate_key_command(key_id: str | None, as_json: bool) -> None:
    """Make a master key and print it, for MASTER_KEYS or the end of its file. Nothing is stored."""
    try:
        key = MasterKey.generate(key_id or f"k{now():%Y%m%d}")
    except InvalidKeyring as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        print_json({"id": key.id, "master_key": str(key)})
    else:
        click.echo(str(key))
