"""The clock: it sends each due task as one message, and lets no messages pile up while no worker takes them.

It runs by itself (python -m worker.clock), or in a worker (--with-clock). It imports neither the database's modules
nor Celery, which are half of a worker's memory.
"""

import sys

if __name__ == "__main__":  # structlog loads Rich wherever it is installed, and only the commands need it
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's own way to say that it is not there

import signal
import time
from queue import Empty, SimpleQueue

import structlog

from config.broker import publish_tick, say_whom_we_trust
from config.logs import configure_logging
from config.process import myself
from config.settings import SettingsError, settings

log = structlog.stdlib.get_logger(__name__)


class Clock:
    """Ticks until it is told to end; it ends only while it waits, never half-way through sending a task."""

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()  # a signal's handler may put while the same thread gets

    def run(self) -> None:
        """Sends each due task, by the monotonic clock: no step of the host's clock hastens or delays one.

        A task that could not be sent waits for its next time. The last tick says that this clock ends.
        """
        every = timetable()
        due = {task: time.monotonic() + seconds for task, seconds in every.items()}
        log.info("clock.started")
        while not self._is_told(within=min(due.values()) - time.monotonic()):
            task = min(due, key=lambda one: due[one])
            publish_tick(task, myself("clock"))
            due[task] = max(due[task] + every[task], time.monotonic())  # missed times are not made up for
        publish_tick("sweep", myself("clock", is_ending=True))

    def end(self) -> None:
        """Tells the clock to end; any thread and a signal's handler may call it."""
        self._told.put(None)

    def _is_told(self, within: float) -> bool:
        try:
            self._told.get(timeout=max(0.0, within))
        except Empty:
            return False
        return True


def timetable() -> dict[str, float]:
    """The seconds between two times of each task of the schedule."""
    return {
        "sweep": 1.0,  # not minutes: after a lost message or a Redis outage the work waits for this long
        "reconcile": settings().reconcile_seconds,
        "remind": 60.0,
        "purge": 3600.0,
    }


def main() -> None:
    """Sends the due tasks until a signal tells it to end."""
    try:
        settings()
    except SettingsError as error:
        sys.exit(str(error))
    clock = Clock()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clock.end())
    configure_logging()
    say_whom_we_trust()
    clock.run()


if __name__ == "__main__":
    main()
