"""Intake: all waiting events go into one insert-or-ignore and one commit, and the commit releases the answers.

A thread that nobody waits for does the rest: a line in the log, and the ids to the broker.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog

from config.broker import publish_events
from config.database import DATABASE_TROUBLE
from config.trouble import trouble_of
from handlers.inbox.receive import Receipt
from handlers.metrics import counting, heartbeats, outside
from handlers.queue.failures import NotNowError, describe
from handlers.record.events import VerificationEvent
from receiver.webhooks.storage import storage

log = structlog.stdlib.get_logger(__name__)

_MOST_AT_ONCE = 500  # rows a commit: more gain nothing, and a refused batch is tried row by row
_ANSWER_SECONDS = 10.0  # when the database hangs: Stripe has given up by then, and delivers again
# While the database hangs; Stripe keeps the others, and delivers again. Fewer than connections, so that a question for
# this process's health still finds a place.
_MOST_WAITING = 900
_AGAIN_SECONDS = 2.0  # between two tries, while the database takes no event
_MOST_BATCHES = 1000  # published at once
_PAUSE = 0.025  # seconds after a message: ids that come meanwhile travel together, and the first after it at once


class UnavailableError(Exception):
    """The database cannot be written to now; Stripe delivers again."""

    status, reason = 503, "the event could not be stored now"


class RefusedEventError(Exception):
    """The database refuses this event's values."""

    status, reason = 400, "the database cannot store this event"


_Stored = str | UnavailableError | RefusedEventError
_Waiting = tuple[VerificationEvent, asyncio.Future[str]]


class Intake:
    """The one writer of a web process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._in_work: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._again: asyncio.TimerHandle | None = None
        self._storage = storage()
        self._publisher = _Publisher()
        self._writer = asyncio.create_task(self._write())

    async def accept(self, event: VerificationEvent) -> str:
        """Returns `accepted`, `duplicate` or `ignored` once the event is committed.

        Raises UnavailableError, RefusedEventError.
        """
        if self._closing or len(self._waiting) >= _MOST_WAITING:
            raise UnavailableError
        committed: asyncio.Future[str] = self._loop.create_future()
        self._waiting.append((event, committed))
        self._wake.set()
        return await committed

    async def close(self) -> None:
        """Stores the waiting events, publishes their ids, and ends."""
        self._closing = True
        if self._again:
            self._again.cancel()
        self._wake.set()
        await self._writer
        await self._storage.close()
        await asyncio.to_thread(self._publisher.close)

    async def _write(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._storage.open()
        except Exception as error:  # the first delivery tries again
            log.error("database.not_connected", error=describe(error))
        while self._waiting or not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._in_work, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    stored = await self._store([event for event, _ in self._in_work])
            except TimeoutError:
                stored = self._refuse_all()
            for (_, committed), result in zip(self._in_work, stored, strict=True):
                if committed.done():  # its request has gone away
                    continue
                if isinstance(result, str):
                    committed.set_result(result)
                else:
                    committed.set_exception(result)

    def _refuse_all(self) -> list[_Stored]:
        """Refuses the events in work and the waiting ones, too: Stripe delivers them again the sooner."""
        self._in_work, self._waiting = [*self._in_work, *self._waiting], []
        self._note_in_vain(NotNowError("no answer in time"), [event for event, _ in self._in_work])
        return [UnavailableError() for _ in self._in_work]

    async def _store(self, events: Sequence[VerificationEvent]) -> list[_Stored]:
        """One result for each event, in their order. Never raises."""
        try:
            receipt = await self._storage.receive(events)
        except (NotNowError, *DATABASE_TROUBLE) as error:
            self._note_in_vain(error, events)
            return [UnavailableError() for _ in events]
        except Exception as error:
            if len(events) > 1:
                return [result for event in events for result in await self._store([event])]
            if self._again:
                self._note_answer(self._again)
            counting.note_in_vain("deliveries", error, events[0].id)
            log.error("event.refused", event_id=events[0].id, error=describe(error))
            return [RefusedEventError()]
        if self._again:
            self._note_answer(self._again)
        self._publisher.publish(receipt)
        first_deliveries = set(receipt.accepted)
        outcomes: list[_Stored] = []
        for event in events:
            outcomes.append("ignored" if event.ignored else "accepted" if event.id in first_deliveries else "duplicate")
            first_deliveries.discard(event.id)
        return outcomes

    def _note_in_vain(self, error: Exception, events: Sequence[VerificationEvent]) -> None:
        """Notes why nothing is stored, and tries one of the events again later: its delivery was refused, and the next
        one, which would say that the trouble is over, may be hours away.
        """
        heartbeats.stores(trouble_of(error.__context__ or error))
        counting.note_in_vain("deliveries", error)
        log.error("events.not_stored", events=len(events), error=describe(error))
        if not self._closing:
            if self._again:
                self._again.cancel()
            self._again = self._loop.call_later(_AGAIN_SECONDS, self._try_again, events[0])

    def _note_answer(self, again: asyncio.TimerHandle) -> None:
        """Notes that the database takes events, or refuses one for its values, once more."""
        again.cancel()
        self._again = None
        heartbeats.stores(None)
        outside.note_answer(outside.DATABASE, "deliveries")

    def _try_again(self, event: VerificationEvent) -> None:
        nobody: asyncio.Future[str] = self._loop.create_future()
        nobody.cancel()
        self._waiting.append((event, nobody))
        self._wake.set()


class _Publisher:
    """Takes receipts of committed batches, and makes one message of all ids that came while it was at work."""

    def __init__(self) -> None:
        self._receipts: queue.SimpleQueue[Receipt | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, receipt: Receipt) -> None:
        """Returns at once; ids that the broker does not take are left to the sweep."""
        self._receipts.put(receipt)

    def close(self) -> None:
        """Publishes the waiting ids, and ends."""
        self._receipts.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            receipts, more = self._with_the_rest(self._receipts.get())
            accepted = sorted(event_id for receipt in receipts for event_id in receipt.accepted)
            repeated = sorted(event_id for receipt in receipts for event_id in receipt.unprocessed)
            if receipts:
                duplicates = sum(receipt.duplicates for receipt in receipts)
                publish_events([*accepted, *repeated])
                log.info("events.stored", event_ids=accepted, duplicates=duplicates)
            time.sleep(_PAUSE)

    def _with_the_rest(self, first: Receipt | None) -> tuple[list[Receipt], bool]:
        receipts: list[Receipt] = []
        with suppress(queue.Empty):
            while first is not None:
                receipts.append(first)
                if len(receipts) == _MOST_BATCHES:
                    return receipts, True
                first = self._receipts.get_nowait()
            return receipts, False
        return receipts, True
