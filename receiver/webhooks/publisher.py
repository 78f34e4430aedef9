"""What follows a commit: a line in the log and the ids to the broker, from a thread that nobody waits for."""

import queue
import threading
import time
from contextlib import suppress

import structlog

from config.broker import publish_events
from handlers.inbox.receive import Receipt

log = structlog.stdlib.get_logger(__name__)

_MOST_AT_ONCE = 1000  # batches
_PAUSE = 0.025  # seconds after a message: what comes meanwhile travels together, and the first after it at once


class Publisher:
    """Takes receipts of committed batches, and makes one of all that came while it was at work."""

    def __init__(self) -> None:
        self._receipts: queue.SimpleQueue[Receipt | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, receipt: Receipt) -> None:
        """Returns at once; what the broker does not take is left to the sweep."""
        self._receipts.put(receipt)

    def close(self) -> None:
        """Publishes what waits, and ends."""
        self._receipts.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            receipts, more = self._with_the_rest(self._receipts.get())
            _publish(receipts)
            time.sleep(_PAUSE)

    def _with_the_rest(self, first: Receipt | None) -> tuple[list[Receipt], bool]:
        receipts: list[Receipt] = []
        with suppress(queue.Empty):
            while first is not None:
                receipts.append(first)
                if len(receipts) == _MOST_AT_ONCE:
                    return receipts, True
                first = self._receipts.get_nowait()
            return receipts, False
        return receipts, True


def _publish(receipts: list[Receipt]) -> None:
    if not receipts:
        return
    accepted = sorted(event_id for receipt in receipts for event_id in receipt.accepted)
    repeated = sorted(event_id for receipt in receipts for event_id in receipt.unprocessed)
    log.info("events.stored", event_ids=accepted, duplicates=sum(receipt.duplicates for receipt in receipts))
    publish_events([*accepted, *repeated])
