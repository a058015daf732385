"""Whether this process can do its work."""

from dataclasses import dataclass, field
from functools import cache

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from webapp import queues
from webapp.config import ROOT
from webapp.db import UNREACHABLE, db
from webapp.services.keyring import keyring_problems


@dataclass(frozen=True)
class Health:
    """`problems` names what is wrong: database, migrations, master_keys. `detail` says how.

    A queue that does not answer only degrades: jobs wait in the database.
    """

    problems: tuple[str, ...] = ()
    detail: dict[str, list[str]] = field(default_factory=dict)
    queue: str = "ok"

    @property
    def status(self) -> str:
        """`ready`, `degraded` or `unready`."""
        if self.problems:
            return "unready"
        return "ready" if self.queue == "ok" else "degraded"


def check_health() -> Health:
    """Look at the database, its revision, the master keys and the queue. Never raises."""
    try:
        if not _is_migrated():
            return Health(
                ("migrations",),
                {"migrations": ["the database is at another revision; run: flask db upgrade"]},
            )
        problems = keyring_problems()
    except UNREACHABLE:
        return Health(("database",), {"database": ["the database cannot be reached"]})
    if problems:
        return Health(("master_keys",), {"master_keys": problems})
    return Health(queue=queues.redis_state())


def _is_migrated() -> bool:
    context = MigrationContext.configure(db.session.connection())
    return set(context.get_current_heads()) == set(_heads())


@cache
def _heads() -> tuple[str, ...]:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    return tuple(ScriptDirectory.from_config(config).get_heads())
