"""The receiver's own way to PostgreSQL: answers in their order, whatever becomes of the connection."""

import asyncio
import gc
import socket
import struct
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import orjson
import psycopg
import pytest
import uvloop

from receiver.webhooks.wire import Wire
from tests.support import databases
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite is written by a thread"),
]

_LIST = "SELECT json_array_elements_text(%s)"
_SLEEP = "SELECT pg_sleep(%s::float)::text"


def on_a_wire(use: Callable[[Wire], Awaitable[object]]) -> None:
    complaints: list[dict[str, object]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        wire = await Wire.connect()
        try:
            await use(wire)
        finally:
            wire.close()
        del wire
        gc.collect()

    uvloop.run(run())  # as web does: its readers differ from asyncio's where a connection breaks
    assert complaints == []


async def _asked_for_long(wire: Wire) -> "asyncio.Task[list[str]]":
    answer = asyncio.create_task(wire.column(_SLEEP, "60"))
    await asyncio.sleep(0.1)
    return answer


@pytest.mark.parametrize("size", [0, 1, 1000, 400_000])
def test_any_number_of_values_goes_there_and_comes_back(size: int) -> None:
    values = [f"evt_{number}é" for number in range(size)]

    async def use(wire: Wire) -> None:
        assert await wire.column(_LIST, orjson.dumps(values).decode()) == values

    on_a_wire(use)


def test_a_statement_is_prepared_once() -> None:
    async def use(wire: Wire) -> None:
        for number in range(20):
            assert await wire.column("SELECT %s || '!'", f"{number}") == [f"{number}!"]
        names = "SELECT name FROM pg_prepared_statements WHERE statement LIKE %s"
        assert len(await wire.column(names, "%!%")) == 1

    on_a_wire(use)


def test_a_statement_has_one_name_on_all_connections() -> None:
    """A pooler that knows of no statements may run one connection's name on a server that another has prepared."""
    names = set()

    async def use(wire: Wire) -> None:
        await wire.column(_LIST, "[]")
        names.update(await wire.column("SELECT name FROM pg_prepared_statements WHERE statement LIKE %s", "%array%"))

    async def use_in_another_order(wire: Wire) -> None:
        await wire.column("SELECT %s", "first")
        await use(wire)

    on_a_wire(use)
    on_a_wire(use_in_another_order)
    assert len(names) == 1


def test_a_connection_that_has_forgotten_its_statements_is_closed() -> None:
    async def use(wire: Wire) -> None:
        await wire.column(_LIST, "[]")
        wire._libpq.exec_(b"DEALLOCATE ALL")  # as a pooler does between clients
        with pytest.raises(psycopg.OperationalError):
            await wire.column(_LIST, "[]")
        assert wire.closed

    on_a_wire(use)


def test_what_the_server_refuses_is_raised_and_the_next_statement_goes_through() -> None:
    async def use(wire: Wire) -> None:
        for _ in range(2):
            with pytest.raises(psycopg.DataError):
                await wire.column(_LIST, "[")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await wire.column("SELECT %s FROM nowhere", "")
        assert not wire.closed
        assert await wire.column(_LIST, '["still here"]') == ["still here"]

    on_a_wire(use)


def test_a_server_that_goes_away_amid_a_statement_is_an_operational_error(database_url: str) -> None:
    async def use(wire: Wire) -> None:
        answer = await _asked_for_long(wire)
        with databases.down(database_url), pytest.raises(psycopg.OperationalError):
            await answer
        assert wire.closed

    on_a_wire(use)


@contextmanager
def _server_that_dies_of_the_first_question(last_words: bytes) -> Iterator[str]:
    """As PostgreSQL does in an immediate shutdown: the question stays unread."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/.s.PGSQL.5432")
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(_message(b"R", struct.pack("!i", 0)) + _message(b"Z", b"I"))
                client.recv(1, socket.MSG_PEEK)
                client.sendall(last_words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgresql://postgres@/postgres?host={folder}"
        thread.join()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param(_message(b"N", b"SWARNING\0C57P01\0Mterminating connection\0\0"), id="a warning"),
        pytest.param(_message(b"E", b"SFATAL\0C57P01\0Mterminating connection\0\0"), id="a fatal error"),
        pytest.param(_message(b"Z", b"I"), id="ready without a result"),
        pytest.param(b"X" * 5, id="no message at all"),
    ],
)
def test_last_words_and_a_reset_in_one_are_an_end(last_words: bytes) -> None:
    async def run() -> None:
        with _server_that_dies_of_the_first_question(last_words) as url:
            wire = Wire(await psycopg.AsyncConnection.connect(url, autocommit=True))
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(wire.column(_LIST, "[]"), PATIENCE)
            assert wire.closed

    uvloop.run(run())


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_server_that_went_away_meanwhile_is_noticed(database_url: str, size: int) -> None:
    async def use(wire: Wire) -> None:
        assert await wire.column(_LIST, '["here"]') == ["here"]
        with databases.down(database_url):
            pass
        with pytest.raises(psycopg.OperationalError):
            await wire.column(_LIST, orjson.dumps(["there"] * size).decode())
        assert wire.closed

    on_a_wire(use)


def test_an_answer_that_nobody_awaits_any_more_is_not_taken_for_another() -> None:
    async def use(wire: Wire) -> None:
        answer = await _asked_for_long(wire)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert wire.closed

    on_a_wire(use)


def test_closing_ends_the_wait_for_an_answer() -> None:
    async def use(wire: Wire) -> None:
        answer = await _asked_for_long(wire)
        wire.close()
        wire.close()
        with pytest.raises(psycopg.OperationalError):
            await answer

    on_a_wire(use)
