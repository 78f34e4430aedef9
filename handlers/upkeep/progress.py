"""How far a scheduled task has come, so that the next run goes on there."""

from datetime import datetime

from config.database import statement, transaction
from config.inserts import Now, insert_or
from handlers.tables.models import Bookmark

_MOVED = "(name) DO UPDATE SET reached = excluded.reached"


def reached(name: str) -> datetime | None:
    """Where the last run stopped; None before the first."""
    with transaction() as session:
        bookmark = session.get(Bookmark, name)
    return bookmark.reached if bookmark else None


def move(name: str, to: datetime | Now) -> None:
    """Where the next run begins; NOW is the database's."""
    with statement() as connection:
        insert_or(connection, Bookmark, [{"name": name, "reached": to}], on_conflict=_MOVED, returning="name")
