"""Rows inserted where they are new: one statement with one parameter, however many rows there are.

No library does this on both databases: docs/decisions/0009.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, Row
from sqlmodel import SQLModel


def insert_new(connection: Connection, table: type[SQLModel], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Inserts rows that all name the same columns, in their order; returns the new ones' key (its first column)."""
    key = next(iter(table.__mapper__.primary_key)).name  # type: ignore[attr-defined]
    # rule: what is there already is not new
    return [row[0] for row in insert_or(connection, table, rows, on_conflict="DO NOTHING", returning=key)]


def insert_or(
    connection: Connection, table: type[SQLModel], rows: Sequence[dict[str, Any]], *, on_conflict: str, returning: str
) -> Sequence[Row[Any]]:
    """The same with another ON CONFLICT, in words of SQL; returns columns of what was inserted or updated."""
    if not rows:
        return []
    statement, parameter = insertion(connection.dialect.name, table, rows, on_conflict=on_conflict, returning=returning)
    return connection.exec_driver_sql(statement, (parameter,)).all()


def insertion(
    dialect: str, table: type[SQLModel], rows: Sequence[dict[str, Any]], *, on_conflict: str, returning: str
) -> tuple[str, str]:
    """The statement and its parameter, as the dialect's driver takes them.

    The rows travel as one JSON text: the cost of a row with twenty parameters is the parameters'.
    """
    statement = _statement(dialect, str(table.__tablename__), tuple(rows[0]), on_conflict, returning)
    text = orjson.dumps(rows) if dialect == "postgresql" else _sqlite_json(rows)
    return statement, text.decode()


@cache
def _statement(dialect: str, table: str, columns: tuple[str, ...], on_conflict: str, returning: str) -> str:
    names = ", ".join(columns)
    if dialect == "postgresql":
        values, source = names, f"json_populate_recordset(NULL::{table}, %s)"
    else:
        values, source = ", ".join(f"json_extract(value, '$.{column}')" for column in columns), "json_each(?)"
    return (
        f"INSERT INTO {table} ({names}) SELECT {values} FROM {source} WHERE true"  # noqa: S608  # names of our own models
        f" ON CONFLICT {on_conflict} RETURNING {returning}"
    )


def _sqlite_json(rows: Sequence[dict[str, Any]]) -> bytes:
    return orjson.dumps(rows, default=_as_sqlalchemy_stores_it, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _as_sqlalchemy_stores_it(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")
