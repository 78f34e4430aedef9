"""The worker: python -m worker.app. The tasks, the consumer's guard and the log context.

Not `python -m celery`, whose command line alone weighs seven megabytes.
"""

import sys

if __name__ == "__main__":  # as in worker/clock.py
    sys.modules["rich"] = None  # type: ignore[assignment]

import argparse
import logging
import os
import time
import warnings
from threading import Thread, Timer
from typing import Any

import structlog
from celery import platforms, signals
from celery.exceptions import CPendingDeprecationWarning

from config import postgres
from config.broker import exchange_names, publish_tick, say_whom_we_trust, trouble_now
from config.database import DATABASE_TROUBLE, end_soon, keep_connections
from config.logs import configure_logging
from config.settings import SettingsError, settings
from handlers.catalogue.check import check
from handlers.metrics import counting, heartbeats, outside
from handlers.metrics.counting import start_flushing, stop_flushing
from handlers.operator import other_databases
from handlers.queue import failures
from handlers.queue.failures import describe
from worker import foreign, tasks
from worker.clock import Clock
from worker.consumer import celery_app

_CONNECTIONS = 4  # of a worker: its threads need one for moments only, and wait for the outside without any

_QUIET = 2.5  # seconds without a tick, of which there is one a second
_DEAF = 1.5  # seconds without a look at the queues, of which there is one a second
_LOOKS_EVERY = 0.5  # seconds

_ENDS_WITHIN = 25.0  # seconds: a platform gives thirty, and a database and a broker away may each take most of them

_clock = Clock()
_failed: set[str] = set()  # tasks, by name

log = structlog.stdlib.get_logger(__name__)

__all__ = ["celery_app", "foreign", "tasks"]

celery_app.steps["consumer"].add(foreign.ForeignGuard)

# Running as root is dangerous with pickled messages only, and worker/consumer.py accepts JSON alone.
warnings.simplefilter("ignore", platforms.SecurityWarning)


def check_words(**_: Any) -> None:
    """Ends the worker before it takes a message, if a template or a language is not whole."""
    try:
        check()
    except SettingsError as error:
        sys.exit(str(error))


def configure(**_: Any) -> None:
    """Configures the worker's logs; a receiver of this signal keeps Celery from configuring its own."""
    configure_logging()
    say_whom_we_trust()
    # Celery's two lines per task would bury ours, which say what a task did; its failures are above this level.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


def fit_to_concurrency(instance: Any, **_: Any) -> None:
    """Sets the threads for actions: half as many for each destination as the worker has for events."""
    half = instance.concurrency // 2
    tasks.performers.allow(settings().action_threads or max(1, half), crowd=half)
    postgres.name_connections("worker")
    keep_connections(_CONNECTIONS)


def silence_advice(**_: Any) -> None:
    """Silences Celery's warning, at each lost connection, of a setting that worker/consumer.py makes on purpose."""
    warnings.simplefilter("ignore", CPendingDeprecationWarning)


def bind_task(task_id: str, task: Any, **_: Any) -> None:
    """Puts the task's id and name into every line that it logs."""
    heartbeats.IN_HAND["tasks"][task_id] = time.monotonic()
    if task.name == tasks.process_events.name:
        heartbeats.EVENTS_IN_HAND.add(task_id)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task_id=task_id, task=task.name)


def unbind_task(task_id: str, task: Any = None, state: str = "", **_: Any) -> None:
    """Clears the log context: the thread lives on, and the next task's lines must not carry this one's ids."""
    heartbeats.IN_HAND["tasks"].pop(task_id, None)
    heartbeats.EVENTS_IN_HAND.discard(task_id)
    structlog.contextvars.clear_contextvars()
    if state == "SUCCESS" and task.name in _failed:
        _failed.discard(task.name)
        outside.note_answer(outside.OURSELVES, task.name)


def note_failed_task(exception: Exception, sender: Any, **_: Any) -> None:
    """Makes a finding of an error that a task itself has not caught, until the task succeeds."""
    if isinstance(exception, DATABASE_TROUBLE):
        counting.note_in_vain(tasks.SCHEDULE, exception)
        return
    _failed.add(sender.name)
    outside.note_refusal(
        outside.OURSELVES, f"fails at the task {sender.name} ({describe(exception)})", doing=sender.name
    )


def hand_back(**_: Any) -> None:
    """Says that the worker ends: the events and actions that wait for their turn go back."""
    failures.stopping.set()
    end_soon()


def end_in_time(**_: Any) -> None:
    """Ends the process before the platform does, whatever it waits for; what is under way is left to its lease."""
    last = Timer(_ENDS_WITHIN, _end_now)
    last.daemon = True  # it keeps no worker that has ended
    last.start()


def _end_now() -> None:
    log.warning("worker.ended_unfinished", after_seconds=_ENDS_WITHIN)
    os._exit(1)


def begin_counting(**_: Any) -> None:
    """Starts the thread that writes down the tasks' figures and the worker's heartbeat."""
    start_flushing("worker")
    Thread(target=_listen, name="listening", daemon=True).start()


def _listen() -> None:
    """While no clock is heard, tries whether the broker would bring a tick: it may take none and still be read.
    Looks for workers on another database there, too.

    While all threads have work, and no message is read, it hears the clock itself. A tick that it takes for that is
    put back for the threads, but for a sweep, of which there is another in a second.
    """
    arguments, held = foreign.arguments_of(celery_app.tasks), set[str]()
    while not failures.stopping.wait(_LOOKS_EVERY):
        if heartbeats.heard_nobody_for() > _QUIET and trouble_now():
            heartbeats.cut_off()
        elif foreign.unread_for() > _DEAF:
            held.add(foreign.hear_waiting(arguments))
        else:
            _put_back(held)
            other_databases.look_for_workers(exchange_names)
    _put_back(held)


def _put_back(held: set[str]) -> None:
    for task in held - {"", tasks.sweep.name}:
        publish_tick(task, {})
    held.clear()


def end_counting(**_: Any) -> None:
    """Ends the actions that are under way, and then writes down the last seconds' figures."""
    was_told = failures.stopping.is_set()  # a worker that ends by itself starts again and again
    failures.stopping.set()  # else the worker would first do all actions that it holds
    tasks.performers.end()
    stop_flushing(was_told=was_told)


def start_clock(**_: Any) -> None:
    """Starts the clock in a thread of its own, which needs neither the worker's threads nor its connection."""
    Thread(target=_clock.run, name="clock").start()


def end_clock(**_: Any) -> None:
    """Tells the clock to end; it does so, and says so, while the worker ends its actions."""
    _clock.end()


signals.celeryd_init.connect(check_words, weak=False)
signals.setup_logging.connect(configure, weak=False)
signals.celeryd_after_setup.connect(fit_to_concurrency, weak=False)
signals.worker_ready.connect(silence_advice, weak=False)  # setting up the logs switches it on
signals.worker_ready.connect(begin_counting, weak=False)
signals.worker_shutting_down.connect(hand_back, weak=False)
signals.worker_shutting_down.connect(end_in_time, weak=False)
signals.worker_shutdown.connect(end_counting, weak=False)
signals.task_prerun.connect(bind_task, weak=False)
signals.task_postrun.connect(unbind_task, weak=False)
signals.task_failure.connect(note_failed_task, weak=False)


def main() -> int:
    """Works until it is told to end. Returns the exit code."""
    try:
        settings()
    except SettingsError as error:
        sys.exit(str(error))
    parser = argparse.ArgumentParser(prog="python -m worker.app", description="The worker.")
    parser.add_argument("--concurrency", type=int, default=8, help="threads for events (default: 8)")
    parser.add_argument("--with-clock", action="store_true", help="and the clock; any number does no harm")
    arguments = parser.parse_args()
    if arguments.with_clock:
        signals.worker_ready.connect(start_clock, weak=False)
        signals.worker_shutting_down.connect(end_clock, weak=False)
    # Gossip, mingling and heartbeats are for remote control, which worker/consumer.py switches off.
    worker = celery_app.Worker(
        pool="threads",
        concurrency=arguments.concurrency,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    try:
        worker.start()
    finally:  # a clock does not outlive its worker
        _clock.end()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
