"""Everything that waits goes into one insert-or-ignore and one commit; the commit releases the answers."""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from config.broker import publish_events
from config.database import DATABASE_TROUBLE
from handlers import arrivals
from handlers.events import VerificationEvent
from handlers.retries import describe

log = structlog.stdlib.get_logger(__name__)

_MOST_AT_ONCE = 500  # rows a commit: more gain nothing, and a refused batch is tried row by row
_ANSWER_SECONDS = 10.0  # when the database hangs: Stripe has given up by then, and delivers again
_PUBLISH_AT_ONCE = 1000
_PAUSE = 0.01  # seconds after a message: what comes meanwhile travels together, and the first after it at once
_MOST_WAITING = 5000  # events in memory while the database hangs; Stripe keeps the others, and delivers again


class UnavailableError(Exception):
    """The database cannot be written to now; Stripe delivers again."""


class RefusedEventError(Exception):
    """The database refuses this event's values."""


_Stored = str | UnavailableError | RefusedEventError
_Waiting = tuple[VerificationEvent, asyncio.Future[str]]


class Intake:
    """The one writer of a web process, and the publisher behind it."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._database = ThreadPoolExecutor(1, "intake")
        self._publisher = Publisher()
        self._writer = asyncio.create_task(self._write())

    async def accept(self, event: VerificationEvent) -> str:
        """Returns `accepted` or `duplicate` once the event is committed; raises UnavailableError, RefusedEventError."""
        if self._closing or len(self._waiting) >= _MOST_WAITING:
            raise UnavailableError
        committed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, committed))
        self._wake.set()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await committed
        except TimeoutError:
            raise UnavailableError from None

    async def close(self) -> None:
        """Stores what waits, publishes it, and ends."""
        self._closing = True
        self._wake.set()
        await self._writer
        self._database.shutdown()
        await asyncio.to_thread(self._publisher.close)

    async def _write(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            events = [event for event, _ in batch]
            stored = await asyncio.get_running_loop().run_in_executor(self._database, _store, events, self._publisher)
            for (_, committed), result in zip(batch, stored, strict=True):
                _answer(committed, result)


class Publisher:
    """Hands committed ids to the broker from a thread that nobody waits for."""

    def __init__(self) -> None:
        self._ids: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._publish, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, event_ids: list[str]) -> None:
        """Returns at once; what the broker does not take is left to the sweep."""
        self._ids.put(event_ids)

    def close(self) -> None:
        """Publishes what waits, and ends."""
        self._ids.put(None)
        self._thread.join()

    def _publish(self) -> None:
        more = True
        while more:
            first = self._ids.get()
            batches, more = self._with_the_rest(first)
            publish_events([event_id for batch in batches for event_id in batch])
            time.sleep(_PAUSE)

    def _with_the_rest(self, first: list[str] | None) -> tuple[list[list[str]], bool]:
        batches: list[list[str]] = []
        with suppress(queue.Empty):
            while first is not None:
                batches.append(first)
                if len(batches) == _PUBLISH_AT_ONCE:
                    return batches, True
                first = self._ids.get_nowait()
            return batches, False
        return batches, True


def _answer(committed: asyncio.Future[str], stored: _Stored) -> None:
    if committed.done():  # its request has gone away
        return
    if isinstance(stored, str):
        committed.set_result(stored)
    else:
        committed.set_exception(stored)


def _store(events: Sequence[VerificationEvent], publisher: Publisher) -> list[_Stored]:
    """One result an event, in their order. Never raises."""
    try:
        receipt = _receive(events)
    except DATABASE_TROUBLE as error:
        log.error("events.not_stored", events=len(events), error=describe(error))
        return [UnavailableError() for _ in events]
    except Exception as error:
        if len(events) > 1:
            return [result for event in events for result in _store([event], publisher)]
        log.error("event.refused", event_id=events[0].id, error=describe(error))
        return [RefusedEventError()]
    log.info("events.stored", event_ids=sorted(receipt.accepted), duplicates=len(events) - len(receipt.accepted))
    publisher.publish(sorted(receipt.accepted | receipt.unprocessed))
    return _outcomes(events, receipt)


def _receive(events: Sequence[VerificationEvent]) -> arrivals.Receipt:
    try:
        return arrivals.receive(events)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        # The server was restarted behind an idle connection's back: a new one may do, and Stripe's next try is far off.
        return arrivals.receive(events)


def _outcomes(events: Sequence[VerificationEvent], receipt: arrivals.Receipt) -> list[_Stored]:
    first_deliveries = set(receipt.accepted)
    outcomes: list[_Stored] = []
    for event in events:
        outcomes.append("accepted" if event.id in first_deliveries else "duplicate")
        first_deliveries.discard(event.id)
    return outcomes
