"""Doubt about the secret: a delivery that is refused for its signature may be Stripe's own, and Stripe knows its event.

Anybody can send refused deliveries, so that they alone say little; nobody else knows an event's id.
"""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from config.settings import settings
from handlers.metrics import outside
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api.account import find_event

_SECONDS = 10.0  # from one question to the next, whoever sends what
_EVENT_ID = re.compile(rb'"id": *"(evt_[A-Za-z0-9]{8,64})"')


class Doubt:
    """The asking, in a thread of its own that nobody waits for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "doubt")
        self._asked = -_SECONDS

    def note(self, body: bytes) -> None:
        """Takes a refused delivery's body; asks Stripe about its event, unless another one was asked about just now."""
        if not settings().stripe_api_key or time.monotonic() - self._asked < _SECONDS:
            return
        self._asked = time.monotonic()
        if found := _EVENT_ID.search(body):
            self._thread.submit(_ask, found[1].decode())

    def end(self) -> None:
        """Begins nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _ask(event_id: str) -> None:
    with suppress(NotNowError, PermanentError):  # another finding tells it, or nobody knows the event
        if find_event(event_id).get("type") in EVENT_TYPES:
            outside.refused(outside.SIGNED, "was refused for its signature")
