"""Moving: copies all rows of a SQLite file into PostgreSQL, waiting ones too, and compares each of them there."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Table, exists, func, inspect, literal, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlmodel import col

from config.database import transaction
from handlers.operator.audit import By, note
from handlers.tables.models import Audited, InboxEvent, OutboxAction, Verification, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

_BATCH = 500  # rows a statement
_SINCE = "the database has been at work since, or is another's"
_NUMBERED = (OutboxAction, Audited)
_IS_USED = select(
    or_(*(exists(select(table)) for table in (InboxEvent, VerificationRecord, Verification, OutboxAction)))
)


class NotMovedError(Exception):
    """The move is not possible; the message says why, and quotes no value."""


@dataclass(frozen=True, slots=True)
class Step:
    """A batch of a table's rows that was copied or compared."""

    table: str
    rows: int
    is_comparison: bool


def count_rows(source: Engine) -> int:
    """The number of rows in all tables of the file. Raises NotMovedError if they are not the tables of this version."""
    with source.begin() as rows:
        found = inspect(rows)
        for table in _tables():
            has = {column["name"] for column in found.get_columns(table.name)} if found.has_table(table.name) else set()
            if {column.name for column in table.columns} - has:
                raise NotMovedError("The file is an older version's: python -m worker migrate, and then again")
        return sum(rows.execute(select(func.count()).select_from(table)).scalar_one() for table in _tables())


def move_database(source: Engine, by: By) -> Generator[Step, None, None]:
    """Copies the file into DATABASE_URL, which has our schema, a batch at each step. Raises NotMovedError.

    1. takes the file's write lock until the end: a process still at work on it is refused, and no row is left behind;
    2. copies each table in the order of its keys, and numbers new rows after the file's last; if there are rows in
       DATABASE_URL already, it copies nothing, so that no later work is undone;
    3. compares each row of the file with its copy, column by column.

    One transaction does it all and locks the tables: until it ends nobody sees a part of the copy, or writes a row with
    a number of the file's. May be cut off at any moment, and run again.
    """
    with source.begin() as rows, transaction() as session:
        there = session.connection()
        is_new = not there.execute(_IS_USED).scalar_one()
        if is_new:
            _keep_others_out(there)
            for table in _tables():
                for batch in _batches(rows, table):
                    _copy(there, table, batch)
                    yield Step(table.name, len(batch), is_comparison=False)
            _go_on_numbering(there)
        for table in _tables():
            for batch in _batches(rows, table):
                _compare(there, table, batch)
                yield Step(table.name, len(batch), is_comparison=True)
        if is_new:
            note(session, by, "move", [])
    log.info("move.ended", copied=is_new)


def _keep_others_out(there: Connection) -> None:
    """Locks the tables: a process that is at work already waits, and then goes on behind the moved rows."""
    names = ", ".join(there.dialect.identifier_preparer.format_table(table) for table in _tables())
    there.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
    if there.execute(_IS_USED).scalar_one():
        raise NotMovedError(f"There are rows meanwhile: {_SINCE}")


def _go_on_numbering(there: Connection) -> None:
    for table in _NUMBERED:
        last = select(func.coalesce(func.max(col(table.id)), 0) + 1).scalar_subquery()
        sequence = func.pg_get_serial_sequence(str(table.__tablename__), "id")
        there.execute(select(func.setval(sequence, last, literal(False))))


def _tables() -> Sequence[Table]:
    return InboxEvent.metadata.sorted_tables


def _batches(rows: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """All rows of the file's table in batches, in the order of their keys."""
    keys = tuple(table.primary_key)
    some, batch = select(table).order_by(*keys).limit(_BATCH), list[dict[str, Any]]()
    while True:
        last = [batch[-1][key.name] for key in keys] if batch else None
        rest = some if last is None else some.where(tuple_(*keys) > tuple_(*map(literal, last)))
        batch = [dict(row._mapping) for row in rows.execute(rest)]
        if not batch:
            return
        yield batch


def _copy(there: Connection, table: Table, batch: list[dict[str, Any]]) -> None:
    try:
        # The comparison judges a row that is there already.
        there.execute(insert(table).on_conflict_do_nothing(), batch)
    except DataError:
        raise NotMovedError(f"PostgreSQL cannot hold a value of {table.name}") from None


def _compare(there: Connection, table: Table, batch: list[dict[str, Any]]) -> None:
    keys = tuple(table.primary_key)
    wanted = [tuple(row[key.name] for key in keys) for row in batch]
    found = there.execute(select(table).where(tuple_(*keys).in_(wanted)))
    copies = {tuple(row._mapping[key.name] for key in keys): dict(row._mapping) for row in found}
    for key, row in zip(wanted, batch, strict=True):
        if key not in copies:
            raise NotMovedError(f"A row of {table.name} is missing there: {_SINCE}")
        if others := [name for name in row if row[name] != copies[key][name]]:
            raise NotMovedError(f"A row of {table.name} differs there in {', '.join(others)}: {_SINCE}")
