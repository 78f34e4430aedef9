"""The few threads that may be in the hands of a mail server, Stripe or the application: the others are for events."""

import threading
import time
from collections.abc import Sequence

from config.broker import publish_actions
from handlers.outbox import perform as outbox
from handlers.queue.failures import stopping

MOST = 4  # half of the Procfile's threads: while a mail server hangs, the other half goes on applying events
_TURN = 120.0  # seconds for one message, below the visibility timeout, after which Redis would hand it out again


class Performers:
    """Takes action ids from any number of tasks, and performs them in a few of these tasks' threads."""

    def __init__(self, most: int = MOST) -> None:
        self._free = threading.Semaphore(most)
        self._waiting: dict[int, None] = {}  # in order, and each once however often the sweep names it
        self._lock = threading.Lock()

    def perform(self, action_ids: Sequence[int]) -> None:
        """Performs them now, or leaves them to the threads that are at it; what those leave, the sweep finds."""
        with self._lock:
            self._waiting.update(dict.fromkeys(action_ids))
        deadline = time.monotonic() + _TURN
        while self._waiting and time.monotonic() < deadline and not stopping.is_set():
            if not self._free.acquire(blocking=False):
                return
            try:
                self._perform_next()
            finally:
                self._free.release()

    def _perform_next(self) -> None:
        with self._lock:
            action_id = next(iter(self._waiting), None)
            if action_id is None:
                return
            del self._waiting[action_id]
        publish_actions(outbox.perform(action_id))
