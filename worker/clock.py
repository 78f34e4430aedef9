"""The clock: python -m worker.clock. Each due task as one message, and nothing that piles up while nobody takes them.

It imports nothing that knows the database: half of what a worker weighs.
"""

import signal
import time
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

from celery import signals
from celery.beat import Scheduler
from celery.schedules import schedule

from config.broker import celery_app, publish_tick, say_whom_we_trust
from config.logs import configure_logging
from config.process import myself
from config.settings import settings


def every(seconds: float) -> Any:
    """A task's schedule that no step of this machine's clock hastens or holds up."""
    return schedule(seconds, nowfun=lambda: datetime.fromtimestamp(time.monotonic(), UTC))


class Clock(Scheduler):  # type: ignore[misc]  # its base is untyped
    """Celery's scheduler in memory, since a dyno's disk is lost anyway, and without a broker connection of its own.

    Celery's own waits up to thirty seconds between tries while the broker is away and prints a stack trace per message.
    It also ends by an exception that its signal handler raises wherever the process is just then, half-way through an
    import or in a __del__, which drops it. This one is told, and ends where it waits.
    """

    producer = None

    def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        self._told_to_end: SimpleQueue[int] = SimpleQueue()  # whose put may interrupt its own get
        if not lazy:  # the banner makes one that never runs
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._end)
        super().__init__(*args, lazy=lazy, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Sends what is due and waits for what comes next; 0.0. Raises SystemExit when told to end, and says so."""
        try:
            self._told_to_end.get(timeout=max(0.0, super().tick(*args, **kwargs)))
        except Empty:
            return 0.0
        publish_tick("sweep", myself("clock", is_ending=True))
        raise SystemExit

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002  # Celery passes it
        """Sends one due task, or leaves it to the next time."""
        publish_tick(entry.task, myself("clock"))

    def _end(self, number: int, _frame: object) -> None:
        self._told_to_end.put(number)


def timetable() -> dict[str, Any]:
    """Every task that is due again and again, as Celery has them."""
    seconds = {
        "sweep": 1.0,  # not minutes: after a lost message or a Redis outage this is how long the work waits
        "reconcile": settings().reconcile_seconds,
        "remind": 60.0,
        "purge": 3600.0,
    }
    return {task: {"task": task, "schedule": every(each)} for task, each in seconds.items()}


def configure(**_: Any) -> None:
    """Its logs; that this signal has a receiver keeps Celery from configuring its own."""
    configure_logging()
    say_whom_we_trust()


def main() -> None:
    """Sends what is due until it is told to end."""
    signals.setup_logging.connect(configure, weak=False)
    celery_app.conf.beat_schedule = timetable()
    celery_app.Beat(quiet=True, scheduler_cls=Clock).run()


if __name__ == "__main__":
    main()
