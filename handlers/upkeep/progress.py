"""How far a scheduled task has come, so that the next run goes on there."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, select
from sqlmodel import col

from config.database import statement, transaction
from config.inserts import NOW, Now, insert_or
from handlers.tables.models import Bookmark, VerificationRecord

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)  # nothing was made before

_PAGE = 10_000  # records: some ten milliseconds of PostgreSQL's

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


def forget(prefix: str, *, but_for: str) -> None:
    """What is named so is begun anew, but for this one."""
    named = col(Bookmark.name).startswith(prefix, autoescape=True)
    with statement() as connection:
        connection.execute(delete(Bookmark).where(named, col(Bookmark.name) != but_for))


def page(start: datetime) -> tuple[Sequence[ColumnElement[bool]], datetime | None]:
    """Which records are next, of those made from then on, and where the page after them starts; None after the last.

    However many there are, it is found by the index on when they were made.
    """
    made_at = col(VerificationRecord.created_at)
    beyond = select(made_at).where(made_at > start).order_by(made_at).offset(_PAGE).limit(1)
    with statement() as connection:
        end = connection.scalar(beyond)
    return [made_at >= start, *([made_at < end] if end else [])], end
