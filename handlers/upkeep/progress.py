"""How far a scheduled task has come, so that the next run goes on there."""

from datetime import datetime

from config.database import insert_into, transaction
from handlers.tables.models import Bookmark


def reached(name: str) -> datetime | None:
    """Where the last run stopped; None before the first."""
    with transaction() as session:
        bookmark = session.get(Bookmark, name)
    return bookmark.reached if bookmark else None


def move(name: str, to: datetime) -> None:
    """Where the next run begins."""
    with transaction() as session:
        row = {"name": name, "reached": to}
        insert = insert_into(Bookmark, session).values(row)
        session.connection().execute(insert.on_conflict_do_update(index_elements=["name"], set_=row))
