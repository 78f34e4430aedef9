"""Storage of a batch in the inbox: on PostgreSQL from the event loop itself, on SQLite from a thread.

The reasons against psycopg, which everything else uses: docs/decisions/0012.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import asyncpg

from config import postgres
from config.database import is_data
from config.names import look_up
from config.settings import settings
from handlers.inbox import receive
from handlers.inbox.receive import Receipt
from handlers.queue.failures import NotNowError, describe
from handlers.record.events import VerificationEvent

_ANOTHER_HOST_MAY_DO = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
# A server's answers to a setting that it does not take, or that holds from its start, or from a connection's;
# elsewhere the first two are about stored data.
_NOT_TAKEN = (
    asyncpg.DataError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.ActiveSQLTransactionError,
)
_PAUSE = 0.25  # seconds, while the server has no connection free


class Storage(Protocol):
    """The inbox, as the one writer of a web process sees it."""

    async def open(self) -> object:
        """Connects, before others have taken all connections; if it fails, the next batch tries again."""

    def receive(self, events: Sequence[VerificationEvent], /) -> Awaitable[Receipt]:
        """Does as handlers.inbox.receive.receive; the database's trouble is NotNowError or one of DATABASE_TROUBLE."""

    async def close(self) -> None:
        """Ends the storage: no batch comes any more."""


def storage() -> Storage:
    """The storage for this process's database."""
    return _OnTheLoop() if settings().on_postgres else _InAThread()


class _OnTheLoop:
    """A connection of the event loop's own: no thread has to be woken for a batch, and none takes its turn from it."""

    def __init__(self) -> None:
        self._connection: asyncpg.Connection | None = None
        self._is_pooled = False
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}

    async def open(self) -> asyncpg.Connection:
        if self._connection is None:
            self._connection, self._is_pooled = await _connected()
        return self._connection

    async def receive(self, events: Sequence[VerificationEvent], /) -> Receipt:
        if ignored := [event for event in events if event.ignored]:
            await self._ids(*receive.storing("postgresql", ignored))
        ours = [event for event in events if not event.ignored]
        accepted = await self._ids(*receive.storing("postgresql", ours)) if ours else frozenset[str]()
        known = {event.id for event in ours} - accepted
        left = await self._ids(*receive.unprocessed("postgresql", known)) if known else frozenset[str]()
        return Receipt(accepted, left, len(ours) - len(accepted))

    async def close(self) -> None:
        self._leave()

    async def _ids(self, statement: str, parameter: str) -> frozenset[str]:
        if self._connection:
            # After a restart, a failover or a pooler's change a new connection may do, and Stripe's next try is far.
            with suppress(NotNowError):
                return await self._ask(statement, parameter)
        return await self._ask(statement, parameter)

    async def _ask(self, statement: str, parameter: str) -> frozenset[str]:
        """Runs a transaction of one statement. A failure that is not the data's, or a timeout, ends the connection."""
        try:
            connection = await self.open()
            if self._is_pooled:
                rows = await _fetched(connection, statement.replace("%s", "$1"), parameter)
                return frozenset(row[0] for row in rows)
            if statement not in self._prepared:
                # By its text: behind a pooler the same name must never mean another statement, as asyncpg's own may.
                name = f"identity_{hashlib.sha256(statement.encode()).hexdigest()[:32]}"
                self._prepared[statement] = await connection.prepare(statement.replace("%s", "$1"), name=name)
            return frozenset(row[0] for row in await self._prepared[statement].fetch(parameter))
        except Exception as error:
            if isinstance(error, asyncpg.PostgresError) and is_data(error):
                raise
            self._leave()
            raise NotNowError(describe(error)) from None
        except asyncio.CancelledError:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._connection:
            self._connection.terminate()
        self._connection, self._prepared = None, {}


async def _connected() -> tuple[asyncpg.Connection, bool]:
    """A connection as config.database has them, and whether there is a pooler; waits while the server has none free."""
    while True:
        try:
            connection = await _reached()
            break
        except asyncpg.PostgresError as error:
            if not postgres.is_full(error):
                raise
            await asyncio.sleep(_PAUSE)
    try:
        postgres.keep_alive(connection._transport.get_extra_info("socket"))  # there is no public way to it
        rows, our_pid = await _fetched(connection, postgres.settings_query()), connection.get_server_pid()
        try:
            await connection.execute(postgres.setting(rows, our_pid))
        except _NOT_TAKEN:
            raise postgres.not_taken() from None
    except BaseException:
        connection.terminate()
        raise
    return connection, postgres.is_pooled(rows, our_pid)


async def _fetched(connection: asyncpg.Connection, statement: str, *parameters: str) -> Sequence[Any]:
    """The rows, by one transaction: behind a pooler a prepared statement lasts no longer."""
    async with connection.transaction():
        rows: Sequence[Any] = await connection.fetch(statement, *parameters)
    return rows


async def _reached() -> asyncpg.Connection:
    *others, last = postgres.asyncpg_addresses()
    for address in others:
        with suppress(*_ANOTHER_HOST_MAY_DO):
            return await _connect(address)
    return await _connect(last)


async def _connect(address: Mapping[str, Any]) -> asyncpg.Connection:
    host = address["host"]
    if host and not host.startswith("/"):
        # uvloop looks names up by four threads, and each that waits for a silent name server is lost.
        await asyncio.to_thread(look_up, host, address["port"])
    return await asyncpg.connect(**address)


class _InAThread:
    """A thread for SQLite, which writes in the calling thread, and waits there for the other writer."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "intake")
        in_thread = asyncio.get_running_loop().run_in_executor
        self.receive = partial(in_thread, self._thread, receive.receive)  # type: ignore[arg-type]  # the rest follows

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self._thread.shutdown()
