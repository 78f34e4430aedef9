"""How a batch gets into the inbox: on PostgreSQL from the event loop itself, on SQLite from a thread."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import psycopg

from config import database
from config.settings import settings
from handlers import arrivals
from handlers.arrivals import Receipt
from handlers.events import VerificationEvent

_UNPROCESSED = "SELECT id FROM inbox_event WHERE id = ANY(%s) AND status = 'received'"


class Storage(Protocol):
    """The inbox, as the one writer of a web process sees it."""

    async def receive(self, events: Sequence[VerificationEvent]) -> Receipt:
        """As handlers.arrivals.receive."""

    async def close(self) -> None:
        """Nothing more will come."""


def storage() -> Storage:
    """What fits this process's database."""
    return _OnTheLoop() if settings().sqlalchemy_url.startswith("postgresql") else _InAThread()


class _OnTheLoop:
    """A connection of the event loop's own: no thread has to be woken for a batch, and none takes its turn from it."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def receive(self, events: Sequence[VerificationEvent]) -> Receipt:
        insertion = arrivals.insertion("postgresql", events)
        accepted = await self._ids(*insertion)
        known = {event.id for event in events} - accepted
        unprocessed = await self._ids(_UNPROCESSED, sorted(known)) if known else frozenset[str]()
        return Receipt(accepted, unprocessed, len(events) - len(accepted))

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()

    async def _ids(self, statement: str, parameter: object) -> frozenset[str]:
        connection = await self._connected()
        try:
            return await _ids(connection, statement, parameter)
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            # The server was restarted behind an idle connection's back: a new one may do, and Stripe's next try is far.
            return await _ids(await self._connected(), statement, parameter)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await database.connect_async()
        return self._connection


class _InAThread:
    """SQLite writes where it is called, and waits there for the other writer."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "intake")

    async def receive(self, events: Sequence[VerificationEvent]) -> Receipt:
        return await asyncio.get_running_loop().run_in_executor(self._thread, arrivals.receive, events)

    async def close(self) -> None:
        self._thread.shutdown()


async def _ids(connection: psycopg.AsyncConnection[Any], statement: str, parameter: object) -> frozenset[str]:
    cursor = await connection.execute(statement, (parameter,))
    return frozenset(row[0] for row in await cursor.fetchall())
