"""`flask legacy`: the predecessor's files, imported, compared, and taken back again."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click
from flask.cli import AppGroup

from webapp.cli.output import failures, json_option, print_json, shown
from webapp.legacy.compare import Difference, Kind
from webapp.services import (
    consistency,
    legacy_cutover,
    legacy_export,
    legacy_migration,
    legacy_repair,
    legacy_undo,
)
from webapp.services.legacy_repair import Choice, Step
from webapp.services.repair_acts import Winner
from webapp.services.runs import NotAvailable
from webapp.services.undo_report import Kept

_WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.5
_MOST_PREVIEWED = 1000

Result = TypeVar("Result")

legacy = AppGroup("legacy", help="The predecessor's files: import, compare, undo.")


@legacy.command("import")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="The folder; default LEGACY_DIR."
)
@click.option("--dry-run", is_flag=True, help="Say what an import would do, and write nothing.")
@json_option
def import_command(folder: Path | None, dry_run: bool, as_json: bool) -> None:
    """Bring users, keys and second factors over. Run again, it changes nothing that is there."""
    with failures(as_json=as_json):
        if dry_run:
            report = legacy_migration.preview_import(folder)
        else:
            report = _in_turn(lambda: legacy_migration.migrate_api_keys_from_json_to_db(folder))
    if as_json:
        rejected = [{"name": entry.name, "reason": entry.reason} for entry in report.rejected]
        print_json({**report.counts(), "rejected": rejected, "warnings": list(report.warnings)})
        return
    if dry_run:
        click.echo("Nothing was written. An import would report:")
    for name, number in report.counts().items():
        click.echo(f"{name.replace('_', ' '):20} {number:>9,}")
    for entry in report.rejected:
        click.echo(shown(f"rejected: {entry.name}: {entry.reason}"))
    for warning in report.warnings:
        click.echo(shown(f"warning: {warning}"), err=True)


@legacy.command("check")
@json_option
def check_command(as_json: bool) -> None:
    """Compare the files with the database, values opened. Exit code 1 when anything differs."""
    with failures(as_json=as_json):
        report = _in_turn(consistency.check_consistency)
    if as_json:
        print_json(
            {
                "equal": report.equal,
                "pending": report.pending,
                "discrepancies": dict(report.discrepancies),
                "items": [_item(found) for found in report.items],
            }
        )
    else:
        click.echo(f"{report.equal:,} users are equal on both sides.")
        if report.pending:
            click.echo(f"{report.pending:,} changes wait to be written into the files.")
        for found in report.items:
            key = f" {found.key_name}" if found.key_name else ""
            click.echo(shown(f"{found.kind}: {found.username}{key}"))
    if report.items:
        sys.exit(1)


@legacy.command("repair")
@click.option(
    "--winner",
    required=True,
    type=click.Choice(["database", "legacy"]),
    help="Which side is right.",
)
@click.option("--user", "username", help="Only what differs in this account.")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only these.")
@click.option("--dry-run", is_flag=True, help="Say what a repair would do, and write nothing.")
@json_option
def repair_command(
    winner: Winner, username: str | None, kind: str | None, dry_run: bool, as_json: bool
) -> None:
    """Settle the differences that the last check found. Exit code 1 when some are left."""
    choice = Choice(winner=winner, username=username, kinds=[kind] if kind else [])
    with failures(as_json=as_json):
        if dry_run:
            preview = legacy_repair.preview_repair(choice, limit=_MOST_PREVIEWED)
            steps = list(preview.steps)
            counts = {"differences": preview.total}
        else:
            report = _in_turn(lambda: legacy_repair.repair(choice))
            steps = list(report.steps)
            counts = {"repaired": report.repaired, "gone": report.gone, "left": report.left}
    if as_json:
        print_json({**counts, "items": [_step(step) for step in steps]})
    else:
        if dry_run:
            click.echo("Nothing was written. A repair would:")
        for name, number in counts.items():
            click.echo(f"{name:20} {number:>9,}")
        for step in steps:
            key = f" {step.key_name}" if step.key_name else ""
            mark = "" if step.possible else "left: "
            click.echo(shown(f"{mark}{step.kind}: {step.username}{key}: {step.says}"))
    if any(not step.possible for step in steps):
        sys.exit(1)


@legacy.command("cutover")
@click.option(
    "--accept",
    multiple=True,
    type=click.Choice([kind.value for kind in Kind]),
    help="A kind of difference that may stay; can be given several times.",
)
@json_option
def cutover_command(accept: tuple[str, ...], as_json: bool) -> None:
    """End the predecessor's time: a last check, its files sealed, the hashes taken out of them.

    Stop the predecessor first. `export` is the way back.
    """
    with failures(as_json=as_json):
        report = _in_turn(lambda: legacy_cutover.cut_over(accept))
    if as_json:
        print_json(asdict(report))
        return
    click.echo(f"The files are sealed in {report.archive}, and are not read any more.")
    click.echo(f"{report.hashes_removed:,} password hashes were taken out of users.json.")
    for kind, number in report.accepted.items():
        click.echo(f"accepted: {kind} {number:,}")


@legacy.command("unseal")
@click.argument("archive", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path))
@json_option
def unseal_command(archive: Path, folder: Path, as_json: bool) -> None:
    """Write the files that a cut-over has sealed into a folder that does not exist yet."""
    with failures(as_json=as_json):
        names = legacy_cutover.unseal(archive, folder)
    if as_json:
        print_json({"files": names})
        return
    click.echo(f"{', '.join(names)} were written to {folder}.")


@legacy.command("export")
@click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder that does not exist yet.",
)
@json_option
def export_command(folder: Path, as_json: bool) -> None:
    """Write fresh files that the predecessor can start from, and say who needs a new password."""
    with failures(as_json=as_json):
        report = legacy_export.export_legacy(folder)
    if as_json:
        print_json(
            {
                "users": report.users,
                "keys": report.keys,
                "second_factors": report.second_factors,
                "without_password": [
                    {"username": name, "reason": why} for name, why in report.without_password
                ],
                "keys_locked": [
                    {"username": name, "key_name": key} for name, key in report.keys_locked
                ],
            }
        )
        return
    click.echo(f"{report.users:,} users with {report.keys:,} keys were written to {folder}.")
    for name, why in report.without_password:
        click.echo(shown(f"needs a new password there: {name}: {why}"))
    for name, key in report.keys_locked:
        click.echo(shown(f"missing, since it does not open here: {name} {key}"))


@legacy.command("undo")
@click.argument("run", type=click.IntRange(min=1, max=2**63 - 1))
@json_option
def undo_command(run: int, as_json: bool) -> None:
    """Take the import RUN back: what it created goes, unless somebody changed it since."""
    with failures(as_json=as_json):
        report = _in_turn(lambda: legacy_undo.undo_import(run))
    if as_json:
        print_json({**report.counts(), "kept": [_kept(entry) for entry in report.kept]})
        return
    for name, number in report.counts().items():
        click.echo(f"{name.replace('_', ' '):20} {number:>9,}")
    for entry in report.kept:
        key = f" {entry.key_name}" if entry.key_name else ""
        click.echo(shown(f"kept: {entry.username}{key}: {entry.reason}"))


def _kept(entry: Kept) -> dict[str, str]:
    return {name: text for name, text in asdict(entry).items() if text}


def _step(step: Step) -> dict[str, object]:
    item = {"kind": step.kind, "username": step.username, "says": step.says}
    return {**item, "possible": step.possible} | (
        {"key_name": step.key_name} if step.key_name else {}
    )


def _item(found: Difference) -> dict[str, str]:
    item = {"kind": found.kind.value, "username": found.username}
    return item | {"key_name": found.key_name} if found.key_name else item


def _in_turn(act: Callable[[], Result]) -> Result:
    """Do `act`, after the worker that is at the same thing now."""
    deadline = time.monotonic() + _WAIT_SECONDS
    waiting = False
    while True:
        try:
            return act()
        except NotAvailable:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                click.echo("A worker is doing this right now; waiting for it.", err=True)
                waiting = True
            time.sleep(_POLL_SECONDS)
