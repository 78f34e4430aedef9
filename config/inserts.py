"""Inserts of new rows alone: one statement with one parameter, however many rows there are.

No library does this on both databases: docs/decisions/0009, https://github.com/zzzeek/sqlalchemy/pull/243.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Final

import orjson
from sqlalchemy import Connection
from sqlmodel import SQLModel

from config.database import CLOCK, past_sqlalchemy


class Now(Enum):
    """A column's value, as NOW: the moment of the insertion, by the database's clock."""

    NOW = None


NOW: Final = Now.NOW


def insert_new(connection: Connection, table: type[SQLModel], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Inserts rows that all name the same columns, in their order; returns the new ones' key (its first column).

    A column that is NOW in the first row is NOW in all.
    """
    key = next(iter(table.__mapper__.primary_key)).name  # type: ignore[attr-defined]
    # rule: a row that is there already is not new
    return [row[0] for row in insert_or(connection, table, rows, on_conflict="DO NOTHING", returning=key)]


def insert_or(
    connection: Connection, table: type[SQLModel], rows: Sequence[dict[str, Any]], *, on_conflict: str, returning: str
) -> Sequence[Sequence[Any]]:
    """As insert_new, with another ON CONFLICT in SQL; returns these columns of the inserted or updated rows."""
    if not rows:
        return []
    dialect = connection.dialect.name
    statement, parameter = insertion(dialect, table, rows, on_conflict=on_conflict, returning=returning)
    if dialect != "postgresql":
        return connection.exec_driver_sql(statement, (parameter,)).all()
    with past_sqlalchemy(connection) as driver:
        return driver.execute(statement, (parameter,)).fetchall()


def insertion(
    dialect: str, table: type[SQLModel], rows: Sequence[dict[str, Any]], *, on_conflict: str, returning: str
) -> tuple[str, str]:
    """The statement and its parameter, as the dialect's driver takes them.

    The rows travel as one JSON text: twenty parameters would be most of a row's cost.
    """
    moments = frozenset(column for column, value in rows[0].items() if value is NOW)
    statement = _statement(dialect, str(table.__tablename__), tuple(rows[0]), moments, on_conflict, returning)
    option = None if dialect == "postgresql" else orjson.OPT_PASSTHROUGH_DATETIME
    return statement, orjson.dumps(rows, default=_as_sqlalchemy_stores_it, option=option).decode()


@cache
def _statement(
    dialect: str, table: str, columns: tuple[str, ...], moments: frozenset[str], on_conflict: str, returning: str
) -> str:
    given, source = "{}", f"json_populate_recordset(NULL::{table}, %s)"
    if dialect == "sqlite":
        given, source = "json_extract(value, '$.{}')", "json_each(?)"
    values = ", ".join(CLOCK[dialect] if column in moments else given.format(column) for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {source} WHERE true"  # noqa: S608  # names of our own models
        f" ON CONFLICT {on_conflict} RETURNING {returning}"
    )


def _as_sqlalchemy_stores_it(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")
