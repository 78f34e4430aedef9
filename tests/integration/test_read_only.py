"""A worker's connections, after a failover that left them on a replica."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from config.database import DATABASE_TROUBLE, statement, transaction
from tests.support import databases

pytestmark = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no replicas"),
]

_WRITE = text("UPDATE inbox_event SET attempts = attempts")


@pytest.mark.parametrize("way", [transaction, statement])
def test_a_connection_that_can_only_read_is_the_databases_trouble_and_left(
    database_url: str, way: Callable[[], AbstractContextManager[Session | Connection]]
) -> None:
    with databases.read_only(database_url), pytest.raises(DATABASE_TROUBLE) as raised, way() as connection:
        connection.execute(_WRITE)
    assert isinstance(raised.value, DBAPIError)
    assert isinstance(raised.value.orig, psycopg.errors.ReadOnlySqlTransaction)
    with way() as connection:
        connection.execute(_WRITE)
