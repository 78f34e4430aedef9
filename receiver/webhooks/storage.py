"""How a batch gets into the inbox: on PostgreSQL from the event loop itself, on SQLite from a thread."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import orjson
import psycopg

from config.settings import settings
from handlers.inbox import receive as arrivals
from handlers.inbox.receive import Receipt
from handlers.record.events import VerificationEvent
from receiver.webhooks.wire import Wire

_UNPROCESSED = (
    "SELECT id FROM inbox_event WHERE id = ANY(ARRAY(SELECT json_array_elements_text(%s))) AND status = 'received'"
)


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
        self._wire: Wire | None = None

    async def receive(self, events: Sequence[VerificationEvent]) -> Receipt:
        accepted = await self._ids(*arrivals.insertion("postgresql", events))
        known = {event.id for event in events} - accepted
        unprocessed = await self._ids(_UNPROCESSED, orjson.dumps(sorted(known)).decode()) if known else frozenset[str]()
        return Receipt(accepted, unprocessed, len(events) - len(accepted))

    async def close(self) -> None:
        if self._wire:
            self._wire.close()

    async def _ids(self, statement: str, parameter: str) -> frozenset[str]:
        wire = await self._connected()
        try:
            return frozenset(await wire.column(statement, parameter))
        except psycopg.OperationalError:
            if not wire.closed:
                raise
            # The server was restarted behind an idle connection's back: a new one may do, and Stripe's next try is far.
            return frozenset(await (await self._connected()).column(statement, parameter))

    async def _connected(self) -> Wire:
        if self._wire is None or self._wire.closed:
            self._wire = await Wire.connect()
        return self._wire


class _InAThread:
    """SQLite writes where it is called, and waits there for the other writer."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "intake")

    async def receive(self, events: Sequence[VerificationEvent]) -> Receipt:
        return await asyncio.get_running_loop().run_in_executor(self._thread, arrivals.receive, events)

    async def close(self) -> None:
        self._thread.shutdown()
