"""Workers on another database at the same Redis, where each takes what is meant for the other."""

import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import text
from sqlmodel import col, select

from config.database import DATABASE_TROUBLE, transaction
from config.inserts import NOW, insert_or
from handlers.metrics import outside
from handlers.tables.models import Bookmark

_MOMENT = "database"  # the bookmark whose moment is a database's own, however it is reached
_FIRST = "(name) DO NOTHING"
_NUMBER = {  # of a copy it is another one
    "postgresql": "SELECT oid FROM pg_database WHERE datname = current_database()",
    "sqlite": "SELECT 0",
}
_MESSAGES = "messages"
_OVER_AFTER = 20.0  # seconds without another name: of several workers, only the next to look sees it


class _Seen:
    """The memory of this worker: its database's name, and how often and when it has seen another."""

    def __init__(self) -> None:
        self.name = ""
        self.times = 0
        self.last = 0.0


_seen = _Seen()


def look_for_workers(exchange: Callable[[str], str | None]) -> None:
    """Leaves this database's name at Redis for the one that was left there last, by `exchange`; called each second."""
    if not _seen.name:
        with suppress(*DATABASE_TROUBLE):  # there is a finding for it
            _seen.name = _name()
    left = exchange(_seen.name) if _seen.name else None
    if left and left != _seen.name:
        _seen.times, _seen.last = _seen.times + 1, time.monotonic()
        word = "has a worker on another database, too"
        outside.note_refusal(outside.BROKER, word, doing=_MESSAGES, about=str(_seen.times))
    elif _seen.times and time.monotonic() - _seen.last > _OVER_AFTER:
        _seen.times = 0
        outside.note_answer(outside.BROKER, _MESSAGES)


def _name() -> str:
    with transaction() as session:
        connection = session.connection()
        insert_or(connection, Bookmark, [{"name": _MOMENT, "reached": NOW}], on_conflict=_FIRST, returning="name")
        moment = session.scalars(select(col(Bookmark.reached)).where(col(Bookmark.name) == _MOMENT)).one()
        return f"{moment.isoformat()} {connection.scalar(text(_NUMBER[connection.dialect.name]))}"
