"""How much stands in the database."""

from sqlalchemy import func, select

from webapp.db import Base, db


def stored() -> dict[str, int]:
    """How many rows each table has, but for the runs, which say what was tried."""
    db.session.rollback()
    counts = {
        table.name: db.session.scalar(select(func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
        if table.name not in {"runs", "keyring_checks"}
    }
    db.session.rollback()
    return counts
