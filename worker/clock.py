"""The clock: each due task as one message, and nothing that piles up while nobody takes them.

By itself (python -m worker.clock), or in a worker (--with-clock). It imports nothing that knows the database, nor
Celery: half of what a worker weighs.
"""

import sys

if __name__ == "__main__":  # structlog loads Rich wherever it is installed, and only the commands print by it
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's own way to say that it is not there

import signal
import time
from queue import Empty, SimpleQueue

import structlog

from config.broker import publish_tick, say_whom_we_trust
from config.logs import configure_logging
from config.process import myself
from config.settings import settings

log = structlog.stdlib.get_logger(__name__)


class Clock:
    """Ticks until it is told to end, which it hears where it waits, and not half-way through something else."""

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()  # whose put may interrupt its own get

    def run(self) -> None:
        """Sends what is due, each task by the monotonic clock: no step of the host's hastens it or holds it up.

        What could not be sent is left to its next time. Its last tick says that it ends.
        """
        every = timetable()
        due = {task: time.monotonic() + seconds for task, seconds in every.items()}
        log.info("clock.started")
        while not self._is_told(within=min(due.values()) - time.monotonic()):
            task = min(due, key=lambda one: due[one])
            publish_tick(task, myself("clock"))
            due[task] = max(due[task] + every[task], time.monotonic())  # what was missed is not made up for
        publish_tick("sweep", myself("clock", is_ending=True))

    def end(self) -> None:
        """May be called from anywhere, and from a signal's handler."""
        self._told.put(None)

    def _is_told(self, within: float) -> bool:
        try:
            self._told.get(timeout=max(0.0, within))
        except Empty:
            return False
        return True


def timetable() -> dict[str, float]:
    """Every task that is due again and again, and its seconds."""
    return {
        "sweep": 1.0,  # not minutes: after a lost message or a Redis outage this is how long the work waits
        "reconcile": settings().reconcile_seconds,
        "remind": 60.0,
        "purge": 3600.0,
    }


def main() -> None:
    """Sends what is due until it is told to end."""
    clock = Clock()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clock.end())
    configure_logging()
    say_whom_we_trust()
    clock.run()


if __name__ == "__main__":
    main()
