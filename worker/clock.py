"""The schedule's sender: each due task as one message, and nothing that piles up while nobody takes them."""

from typing import Any

from celery.beat import Scheduler

from config.broker import publish_tick


class Clock(Scheduler):  # type: ignore[misc]  # its base is untyped
    """Celery's scheduler in memory, since a dyno's disk is lost anyway, and without a broker connection of its own.

    Celery's own waits up to thirty seconds between tries while the broker is away and prints a stack trace per message.
    """

    producer = None

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002  # Celery passes it
        """Sends one due task, or leaves it to the next time."""
        publish_tick(entry.task)
