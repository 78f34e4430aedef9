"""Celery with tasks that do nothing, in its own queues on the same broker: what the worker is compared with."""

import itertools
import os
import time
from typing import Any

import redis
from celery import Celery

from config.broker import server

STARTED, ENDED, SPENT = "noop-started", "noop-ended", "noop-spent"

# Celery's own defaults for everything that costs or saves: early acknowledgement, a prefetch of four.
app: Any = Celery("noop")
app.conf.update(
    broker_transport_options={**server().settings["broker_transport_options"], "global_keyprefix": "noop:"},
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
    """Nothing; the first and the last of a run tell the time, and what the worker has used of its processor's."""
    number = next(_numbers)
    if number in (1, _last) and _clock:
        _clock.rpush(SPENT, time.process_time())
        _clock.set(STARTED if number == 1 else ENDED, time.monotonic())


@app.task(name="answer")  # type: ignore[untyped-decorator]
def answer() -> None:
    """Nothing, with a result: that it has run."""
