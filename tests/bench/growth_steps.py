"""The service's steps on one database, in a process of its own: prints the cost of each as JSON."""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psycopg

from config.logs import configure_logging
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics.exposition import exposition
from handlers.operator.lists import LISTS, page_of
from handlers.operator.persons import person, sessions_of
from handlers.operator.queries import Filter, SessionFilter, find_sessions
from handlers.outbox.perform import perform
from handlers.queue.claims import due
from handlers.record.events import VerificationEvent, parse
from handlers.sessions.reminders import remind
from handlers.tables.models import InboxEvent, OutboxAction
from handlers.upkeep.limits import judge_limits
from handlers.upkeep.purge import purge
from handlers.upkeep.reconcile import reconcile
from tests.bench import load
from worker.commands.show import status

_BATCH = 50
_BATCHES = 10
_TIMES = 5
_SWEPT = 10_000  # ids, as in worker/tasks.py
_CONNECTIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""

Seconds = dict[str, float]


def main() -> None:
    """Does the steps of its argument."""
    configure_logging()  # to standard error
    json.dump(STEPS[sys.argv[1]](), sys.stdout)


def service() -> Seconds:
    """The cost of applying events and performing actions, as messages bring them, and of the sweep."""
    requests = load.deliveries(f"G{datetime.now(UTC):%H%M%S%f}", _BATCH * (_BATCHES + 1))
    parsed = [parse(orjson.loads(request.partition(b"\r\n\r\n")[2])) for _, request in requests]
    events = [one for one in parsed if isinstance(one, VerificationEvent)]
    stored, applied, acted, swept = [], [], [], []
    for start in range(0, len(events), _BATCH):
        some = events[start : start + _BATCH]
        owed: list[int] = []
        stored.append(_cost(partial(receive, some)) / _BATCH)
        applied.append(_cost(partial(_applied, some, owed)) / _BATCH)
        acted += [_cost(partial(perform, action_id)) for action_id in owed]
    return {
        "an event stored in a batch": median(stored[1:]),
        "an event applied": median(applied[1:]),
        "an action done": median(acted[len(acted) // _BATCHES :]),
        "an id swept": _usual(lambda: swept.append(_swept())) / median(swept),
    }


def _applied(some: list[VerificationEvent], owed: list[int]) -> None:
    owed += process([one.id for one in some])


def _swept() -> int:
    found = [due(table, _SWEPT, timedelta()) for table in (InboxEvent, OutboxAction)]
    return sum(len(ids) for some in found for ids in some)


def upkeep() -> Seconds:
    """The cost of the scheduled tasks, without the sweep."""
    rows = 0

    def purged() -> None:
        nonlocal rows
        gone = purge()
        rows = gone.events + gone.actions

    seconds = _cost(purged)
    return {
        "a row purged": seconds / rows,
        "reconcile, its own statements": _usual(lambda: (judge_limits(), reconcile())),
        "reminders": _usual(remind),
    }


def operator() -> Seconds:
    """The cost of the looks of people and monitors."""
    found = find_sessions(SessionFilter(), 1)[0]
    pages = {f"console: {name}": (lambda name=name: page_of(name, Filter(), None)) for name in LISTS}
    looks: dict[str, Callable[[], object]] = {
        "python -m worker status": lambda: status(argparse.Namespace(json=True)),
        "/metrics": exposition,
        "sessions, the latest": lambda: find_sessions(SessionFilter(), 50),
        "a person by user id": lambda: sessions_of(str(found.user_id)),
        "a person's page": lambda: person(found.session_id),
        **pages,
    }
    with redirect_stdout(io.StringIO()):
        return {what: _usual(look) for what, look in looks.items()}


STEPS: dict[str, Callable[[], Seconds]] = {"service": service, "upkeep": upkeep, "operator": operator}


def _usual(work: Callable[[], object]) -> float:
    """The median of some tries, after a first that does not count."""
    return median([_cost(work) for _ in range(_TIMES + 1)][1:])


def _cost(work: Callable[[], object]) -> float:
    """The seconds of processor of this process, and of the server's processes that work for it."""
    server_before, before = _server(), time.process_time()
    work()
    ours = time.process_time() - before
    server = _server()
    return ours + sum(seconds - server_before.get(pid, 0.0) for pid, seconds in server.items())


def _server() -> dict[int, float]:
    """The seconds of processor of each connection to this database so far, but for the one that asks."""
    pids = [row[0] for row in _watching().execute(_CONNECTIONS).fetchall()]
    return {pid: int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 for pid in pids}


@cache
def _watching() -> psycopg.Connection[Any]:
    return psycopg.connect(settings().database_url.get_secret_value(), autocommit=True)


if __name__ == "__main__":
    main()
