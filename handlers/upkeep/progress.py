"""Bookmarks: how far each scheduled task has come, so that its next run goes on there."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, select
from sqlmodel import col

from config.database import statement, transaction
from config.inserts import NOW, Now, insert_or
from handlers.tables.models import Bookmark, VerificationRecord

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)  # no row is older

RUN = "reconcile"  # the bookmark of reconcile's last run
_PAGE = 10_000  # records: some ten milliseconds of PostgreSQL's

_MOVED = "(name) DO UPDATE SET reached = excluded.reached"
_BEGUN = "(name) DO UPDATE SET asked_at = excluded.asked_at"


def reached(name: str) -> datetime | None:
    """The moment that the last run reached; None before the first run."""
    with transaction() as session:
        bookmark = session.get(Bookmark, name)
    return bookmark.reached if bookmark else None


def begin(name: str, at: datetime) -> None:
    """Notes that the task asks now; a new bookmark begins at `at`."""
    row = {"name": name, "reached": at, "asked_at": NOW}
    with statement() as connection:
        insert_or(connection, Bookmark, [row], on_conflict=_BEGUN, returning="name")


def move(name: str, to: datetime | Now) -> None:
    """Sets the moment at which the next run begins; NOW is the database's."""
    with statement() as connection:
        insert_or(connection, Bookmark, [{"name": name, "reached": to}], on_conflict=_MOVED, returning="name")


def asked(prefix: str) -> dict[str, datetime]:
    """The time at which each bookmark of this prefix was asked last, by the rest of its name."""
    rows = select(col(Bookmark.name), col(Bookmark.asked_at)).where(
        col(Bookmark.name).startswith(prefix, autoescape=True), col(Bookmark.asked_at).is_not(None)
    )
    with transaction() as session:
        return {row.name.removeprefix(prefix): row.asked_at for row in session.execute(rows)}


def forget(prefix: str, *, but_for: str) -> None:
    """Deletes the bookmarks of this prefix but for one, so that their tasks begin anew."""
    named = col(Bookmark.name).startswith(prefix, autoescape=True)
    with statement() as connection:
        connection.execute(delete(Bookmark).where(named, col(Bookmark.name) != but_for))


def page_of_records(start: datetime) -> tuple[Sequence[ColumnElement[bool]], datetime | None]:
    """The conditions of the page of records made from `start` on, and the start of the page after; None after the last.

    The index on created_at finds it, however many records there are.
    """
    made_at = col(VerificationRecord.created_at)
    beyond = select(made_at).where(made_at > start).order_by(made_at).offset(_PAGE).limit(1)
    with statement() as connection:
        end = connection.scalar(beyond)
    return [made_at >= start, *([made_at < end] if end else [])], end
