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
        if not _has_revisions():
            return Health(
                ("migrations",),
                {"migrations": ["the database is not up to date; run: flask db upgrade"]},
            )
        problems = keyring_problems()
    except UNREACHABLE:
        return Health(("database",), {"database": ["the database cannot be reached"]})
    if problems:
        return Health(("master_keys",), {"master_keys": problems})
    return Health(queue=queues.redis_state())


def _has_revisions() -> bool:
    """Whether everything that this release needs has run.

    More may have: the next release migrates before it replaces this one, and both work then.
    """
    found = MigrationContext.configure(db.session.connection()).get_current_heads()
    head = _head()
    return bool(found) and all(one == head or (one.isdecimal() and one > head) for one in found)


@cache
def _head() -> str:
    """Return the newest revision of this release; they are numbered with four digits."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None  # noqa: S101 - there is a first one
    return head
