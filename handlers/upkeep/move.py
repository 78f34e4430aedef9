"""Moving: all rows of a SQLite file, whatever waits among them, into PostgreSQL, and each compared there."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Table, delete, exists, func, inspect, literal, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlmodel import col

from config.database import transaction
from config.inserts import NOW, insert_new
from handlers.operator.audit import By, note
from handlers.tables.models import Audited, Bookmark, InboxEvent, OutboxAction, Verification, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

_BATCH = 500  # rows a transaction of PostgreSQL's
_MOVING = "moving"  # the bookmark that is there from the first row until all of them are compared
_TELLING = (InboxEvent, VerificationRecord, Verification, OutboxAction)  # that a database is in use
_SINCE = "the database has been at work since, or is another's"
_NUMBERED = (OutboxAction, Audited)


class NotMovedError(Exception):
    """It cannot be done like this; the message says why, and holds no value."""


@dataclass(frozen=True, slots=True)
class Step:
    """So many rows of a table that were copied, or compared."""

    table: str
    rows: int
    is_comparison: bool


def count_rows(source: Engine) -> int:
    """Of all tables of the file. Raises NotMovedError where these are not the tables of this version."""
    with source.begin() as rows:
        found = inspect(rows)
        for table in _tables():
            has = {column["name"] for column in found.get_columns(table.name)} if found.has_table(table.name) else set()
            if {column.name for column in table.columns} - has:
                raise NotMovedError("The file is an older version's: python -m worker migrate, and then again")
        return sum(rows.execute(select(func.count()).select_from(table)).scalar_one() for table in _tables())


def move(source: Engine, by: By) -> Generator[Step, None, None]:
    """Into DATABASE_URL, which has our schema; a batch at each step. Raises NotMovedError.

    1. takes the file's write lock until the end: whoever is still at work on it is refused, and nothing is left behind;
    2. copies each table in the order of its keys, and goes on numbering where the file had come; where all is there
       already it copies nothing, so that nothing is undone that was done since;
    3. compares each row of the file with its copy, column by column.

    May be cut off at any moment, and run again.
    """
    with source.begin() as rows:
        if _begin():
            for table in _tables():
                for batch in _batches(rows, table):
                    _copy(table, batch)
                    yield Step(table.name, len(batch), is_comparison=False)
        for table in _tables():
            for batch in _batches(rows, table):
                _compare(table, batch)
                yield Step(table.name, len(batch), is_comparison=True)
        _end(by)


def _begin() -> bool:
    """Whether there is something to copy: not where another move has come to its end."""
    with transaction() as session:
        is_used = session.execute(select(or_(*(exists(select(table)) for table in _TELLING)))).scalar_one()
        is_moving = session.get(Bookmark, _MOVING) is not None
        if not is_used and not is_moving:
            insert_new(session.connection(), Bookmark, [{"name": _MOVING, "reached": NOW}])
    return is_moving or not is_used


def _end(by: By) -> None:
    with transaction() as session:
        connection = session.connection()
        for table in _NUMBERED:
            last = select(func.coalesce(func.max(col(table.id)), 0) + 1).scalar_subquery()
            sequence = func.pg_get_serial_sequence(str(table.__tablename__), "id")
            connection.execute(select(func.setval(sequence, last, literal(False))))
        ended = connection.execute(delete(Bookmark).where(col(Bookmark.name) == _MOVING)).rowcount
        if ended:
            note(session, by, "move", [])
    log.info("move.ended", copied=bool(ended))


def _tables() -> Sequence[Table]:
    return InboxEvent.metadata.sorted_tables


def _batches(rows: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """All rows of the file's table, in the order of their keys."""
    keys = tuple(table.primary_key)
    some, batch = select(table).order_by(*keys).limit(_BATCH), list[dict[str, Any]]()
    while True:
        last = [batch[-1][key.name] for key in keys] if batch else None
        rest = some if last is None else some.where(tuple_(*keys) > tuple_(*map(literal, last)))
        batch = [dict(row._mapping) for row in rows.execute(rest)]
        if not batch:
            return
        yield batch


def _copy(table: Table, batch: list[dict[str, Any]]) -> None:
    given = insert(table)
    anew = given.on_conflict_do_update(index_elements=list(table.primary_key), set_=dict(given.excluded.items()))
    try:
        with transaction() as session:
            session.connection().execute(anew, batch)
    except DataError:
        raise NotMovedError(f"PostgreSQL cannot hold a value of {table.name}") from None


def _compare(table: Table, batch: list[dict[str, Any]]) -> None:
    keys = tuple(table.primary_key)
    wanted = [tuple(row[key.name] for key in keys) for row in batch]
    with transaction() as session:
        found = session.connection().execute(select(table).where(tuple_(*keys).in_(wanted)))
        there = {tuple(row._mapping[key.name] for key in keys): dict(row._mapping) for row in found}
    for key, row in zip(wanted, batch, strict=True):
        if key not in there:
            raise NotMovedError(f"A row of {table.name} is missing there: {_SINCE}")
        if others := [name for name in row if row[name] != there[key][name]]:
            raise NotMovedError(f"A row of {table.name} differs there in {', '.join(others)}: {_SINCE}")
