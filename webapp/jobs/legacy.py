"""What is done about the predecessor's files, as jobs. The argument is the id of a run."""

from webapp.jobs.context import carry_out
from webapp.services import (
    consistency,
    legacy_cutover,
    legacy_migration,
    legacy_mirror,
    legacy_repair,
    legacy_undo,
)


def run_import(run_id: int) -> None:
    carry_out(legacy_migration.run_import, run_id)


def run_check(run_id: int) -> None:
    carry_out(consistency.run_check, run_id)


def run_mirror(run_id: int) -> None:
    carry_out(legacy_mirror.run_mirror, run_id)


def run_undo(run_id: int) -> None:
    carry_out(legacy_undo.run_undo, run_id)


def run_repair(run_id: int) -> None:
    carry_out(legacy_repair.run_repair, run_id)


def run_cutover(run_id: int) -> None:
    carry_out(legacy_cutover.run_cutover, run_id)
