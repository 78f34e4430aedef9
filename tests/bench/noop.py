"""Celery with tasks that do nothing, in queues of their own on the same broker: the worker is compared with it."""

import itertools
import os
import time
from typing import Any

import redis
from celery import Celery

from config.broker import server

STARTED, ENDED, SPENT = "noop-started", "noop-ended", "noop-spent"

# Celery's own defaults for all settings that cost or save time: early acknowledgement, a prefetch of four, a note at
# Redis of each message in hand.
app: Any = Celery("noop")
app.conf.update(
    broker_transport_options={
        **server().settings["broker_transport_options"],
        "global_keyprefix": "noop:",
        "ack_emulation": True,
    },
    worker_enable_remote_control=False,
    task_default_queue="noop",
)
_numbers = itertools.count(1)
_last = int(os.environ.get("NOOP_TASKS", "0"))


def connect(url: str) -> Any:
    """Points the app at the bench's Redis, and returns a client of it."""
    app.conf.update(broker_url=url, result_backend=url)
    return redis.Redis(unix_socket_path=url.removeprefix("redis+socket://"))


_clock = connect(os.environ["REDIS_URL"]) if "REDIS_URL" in os.environ else None


@app.task(name="noop", ignore_result=True)  # type: ignore[untyped-decorator]  # celery ships no types
def noop() -> None:
    """Does nothing; the first and the last of a run note the time, and the worker's seconds of processor."""
    number = next(_numbers)
    if number in (1, _last) and _clock:
        _clock.rpush(SPENT, time.process_time())
        _clock.set(STARTED if number == 1 else ENDED, time.monotonic())


@app.task(name="answer")  # type: ignore[untyped-decorator]
def answer() -> None:
    """Does nothing; its result shows that it has run."""
