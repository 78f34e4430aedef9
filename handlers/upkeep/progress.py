"""How far a scheduled task has come, so that the next run goes on there."""

from datetime import datetime

from sqlalchemy import select
from sqlmodel import col

from config.database import statement, transaction
from config.inserts import NOW, Now, insert_or
from handlers.tables.models import Bookmark

_MOVED = "(name) DO UPDATE SET reached = excluded.reached"
_BEGUN = "(name) DO UPDATE SET asked_at = excluded.asked_at"


def reached(name: str) -> datetime | None:
    """Where the last run stopped; None before the first."""
    with transaction() as session:
        bookmark = session.get(Bookmark, name)
    return bookmark.reached if bookmark else None


def begin(name: str, at: datetime) -> None:
    """It is asked now; where it never was before, it begins at that moment."""
    row = {"name": name, "reached": at, "asked_at": NOW}
    with statement() as connection:
        insert_or(connection, Bookmark, [row], on_conflict=_BEGUN, returning="name")


def move(name: str, to: datetime | Now) -> None:
    """Where the next run begins; NOW is the database's."""
    with statement() as connection:
        insert_or(connection, Bookmark, [{"name": name, "reached": to}], on_conflict=_MOVED, returning="name")


def asked(prefix: str) -> dict[str, datetime]:
    """When each of these was asked last, by the rest of its name."""
    rows = select(col(Bookmark.name), col(Bookmark.asked_at)).where(
        col(Bookmark.name).startswith(prefix, autoescape=True), col(Bookmark.asked_at).is_not(None)
    )
    with transaction() as session:
        return {row.name.removeprefix(prefix): row.asked_at for row in session.execute(rows)}
