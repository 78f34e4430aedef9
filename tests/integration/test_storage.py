"""The receiver's own way to PostgreSQL: an event is stored or it is not, whatever happens to the server."""

import asyncio
import gc
import socket
import struct
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import asyncpg
import pytest
import uvloop
from sqlalchemy import make_url, text

from config.database import statement
from handlers.queue.failures import NotNowError
from receiver.webhooks.storage import _OnTheLoop
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite is written by a thread"),
]

_SLEEP = "SELECT pg_sleep(%s::text::float)::text"
_NAMES = "SELECT name FROM pg_prepared_statements WHERE statement LIKE %s"
_KINDS = ("created", "processing", "verified")


def with_storage(use: Callable[[_OnTheLoop], Awaitable[object]]) -> None:
    complaints: list[dict[str, object]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        inbox = _OnTheLoop()
        try:
            await use(inbox)
        finally:
            await inbox.close()
        del inbox
        gc.collect()

    uvloop.run(run())  # as in web: its sockets differ from asyncio's where a connection breaks
    assert complaints == []


async def _stores(inbox: _OnTheLoop, kind: str) -> None:
    said = event(kind)
    assert (await inbox.receive([said])).accepted == {said.id}


async def _asked_for_long(inbox: _OnTheLoop) -> "asyncio.Task[frozenset[str]]":
    answer = asyncio.create_task(inbox._ids(_SLEEP, "60"))
    await asyncio.sleep(0.1)
    return answer


def test_each_statement_is_prepared_once() -> None:
    async def use(inbox: _OnTheLoop) -> None:
        for _ in range(2):
            for kind in _KINDS:
                await inbox.receive([event(kind)])
        assert len(await inbox._ids(_NAMES, "%inbox_event%")) == 2

    with_storage(use)


def test_a_statement_has_one_name_on_all_connections() -> None:
    """A pooler that tracks no statements may run one connection's name on a server that another has prepared."""
    names: set[str] = set()

    async def use(inbox: _OnTheLoop) -> None:
        await inbox.receive([event("created")])
        names.update(await inbox._ids(_NAMES, "INSERT%"))

    async def use_in_another_order(inbox: _OnTheLoop) -> None:
        await inbox._ids(_SLEEP, "0")
        await use(inbox)

    with_storage(use)
    with_storage(use_in_another_order)
    assert len(names) == 1


def test_statements_that_a_pooler_has_mixed_up_cost_a_new_connection_and_no_event() -> None:
    async def use(inbox: _OnTheLoop) -> None:
        await _stores(inbox, "created")
        assert inbox._connection is not None
        await inbox._connection.execute("DEALLOCATE ALL")
        await _stores(inbox, "processing")
        inbox._prepared.clear()  # the names exist, and are another connection's
        await _stores(inbox, "verified")

    with_storage(use)
    assert len(facts.event_rows()) == len(_KINDS)


def test_an_event_that_is_refused_costs_no_connection(database_url: str) -> None:
    databases.refuse(database_url, "inbox_event", "id", "evt_bad")

    async def use(inbox: _OnTheLoop) -> None:
        await _stores(inbox, "created")
        before = inbox._connection
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await inbox.receive([event("processing", event_id="evt_bad")])
        await _stores(inbox, "verified")
        assert inbox._connection is before

    with_storage(use)


def test_a_database_that_cannot_take_any_event_is_not_now_for_each() -> None:
    async def use(inbox: _OnTheLoop) -> None:
        with pytest.raises(NotNowError, match="UndefinedTableError"):
            await inbox.receive([event("created")])

    with statement() as connection:
        connection.execute(text("ALTER TABLE inbox_event RENAME TO moved"))
    with_storage(use)


def test_a_server_that_goes_away_amid_a_statement_is_not_now(database_url: str) -> None:
    async def use(inbox: _OnTheLoop) -> None:
        answer = await _asked_for_long(inbox)
        with databases.down(database_url), pytest.raises(NotNowError):
            await answer
        await _stores(inbox, "created")

    with_storage(use)


@contextmanager
def _server_that_dies_of_the_first_question(last_words: bytes) -> Iterator[str]:
    """A server that leaves the question unread, as PostgreSQL does in an immediate shutdown."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(65536)
                version = _message(b"S", b"server_version\x0018.0\x00")
                client.sendall(_message(b"R", struct.pack("!i", 0)) + version + _message(b"Z", b"I"))
                client.recv(1, socket.MSG_PEEK)
                client.sendall(last_words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/postgres?sslmode=disable"
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
def test_last_words_and_a_reset_in_one_are_an_end(environment: pytest.MonkeyPatch, last_words: bytes) -> None:
    async def use(inbox: _OnTheLoop) -> None:
        with pytest.raises(NotNowError):
            await asyncio.wait_for(inbox.receive([event("created")]), PATIENCE)

    with _server_that_dies_of_the_first_question(last_words) as url:
        environment.setenv("DATABASE_URL", url)
        databases.forget_process_state()
        with_storage(use)


def test_an_answer_that_nobody_awaits_any_more_is_not_taken_for_another() -> None:
    async def use(inbox: _OnTheLoop) -> None:
        answer = await _asked_for_long(inbox)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await asyncio.wait_for(_stores(inbox, "created"), PATIENCE)

    with_storage(use)


def test_a_host_that_does_not_answer_is_left_for_the_next(environment: pytest.MonkeyPatch, database_url: str) -> None:
    real = make_url(database_url)
    words = {"host": str(real.query.get("host", real.host)), "port": str(real.port or 5432)}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{folder}/.s.PGSQL.5432")
        silent.listen()
        several = {"host": f"{folder},{words['host']}", "port": f"5432,{words['port']}", "connect_timeout": "1"}
        url = real.set(host=None, port=None).update_query_dict(several)
        environment.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        databases.forget_process_state()
        with_storage(lambda inbox: _stores(inbox, "created"))
    assert len(facts.event_rows()) == 1
