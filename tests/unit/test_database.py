"""All callers share one engine, and a hurry ends with its block."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import pytest
from sqlalchemy import Engine

from config import database
from config.database import engine, hurry
from tests.support import databases


def test_threads_that_come_at_once_share_one_engine() -> None:
    all_here = Barrier(8)

    def come(_: int) -> Engine:
        all_here.wait()
        return engine()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 1


def test_an_error_that_leaves_a_hurry_leaves_the_thread_as_it_was() -> None:
    patience = database._patience()
    with suppress(ZeroDivisionError), hurry(2), hurry(1):
        assert database._patience() == 1
        raise ZeroDivisionError
    assert database._patience() == patience > 2


@pytest.mark.usefixtures("environment")
def test_a_connection_that_comes_back_after_its_process_was_forgotten_is_closed() -> None:
    with engine().connect() as late:
        held = late.connection.dbapi_connection
        databases.forget_process_state()
        assert held is not None
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        held.cursor()
