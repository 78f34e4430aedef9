"""Counters and histograms of all processes: counted in memory, added up in the database every few seconds.

Web and workers are many processes on several machines, and only web has a port. What each counts is therefore added
to the rows of one small table by a thread of its own, one transaction for all of it and none when nothing happened, so
that any web process can show the sum for all of them, across restarts. An event costs dictionary additions only. What a
killed process had not yet written, at most FLUSH_SECONDS of it, is lost: these are figures, not the record.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass

import structlog

from config.database import insert_into, transaction
from handlers.queue.failures import describe
from handlers.tables.models import Metric

FLUSH_SECONDS = 5.0  # well below the 15 s or more between two scrapes

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Histogram:
    """What it is about, and the upper bounds of its buckets, in seconds."""

    words: str
    bounds: tuple[float, ...]


_AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

COUNTERS = {
    "identity_deliveries_total": "Deliveries answered, by outcome and, where refused, reason.",
    "identity_events_total": "Events processed or given up, by type and outcome.",
    "identity_actions_total": "Actions that came to an end, by name and status.",
    "identity_recovered_events_total": "Events that Stripe could not deliver and reconcile has fetched.",
    "identity_drifted_sessions_total": "Sessions that reconcile found otherwise at Stripe.",
}
HISTOGRAMS = {
    "identity_accept_seconds": Histogram(
        "From a delivery's arrival to its committed row.", (0.001, 0.0025, 0.005, *_AGES[:10])
    ),
    "identity_event_age_seconds": Histogram("From an event's receipt to its processing.", _AGES),
    "identity_action_age_seconds": Histogram("From an action's being owed to its end.", _AGES),
}

_Key = tuple[str, tuple[tuple[str, str], ...]]  # a name and labels; text is made of them when they are written down

_BUCKETS: dict[str, list[_Key]] = {
    name: [(f"{name}_bucket", (("le", bound),)) for bound in (*map(str, histogram.bounds), "+Inf")]
    for name, histogram in HISTOGRAMS.items()
}

_lock = threading.Lock()
_counted: defaultdict[_Key, float] = defaultdict(float)
_thread: threading.Thread | None = None
_ended = threading.Event()


def count(name: str, by: float = 1, /, **labels: str) -> None:
    """Raises a counter; its labels come from closed vocabularies of ours."""
    key = (name, tuple(labels.items()))
    with _lock:
        _counted[key] += by


def count_end(noun: str, kind: str, end: str) -> None:
    """An event or an action has come to an end."""
    if noun == "event":
        count("identity_events_total", type=kind, outcome=end)
    else:
        count("identity_actions_total", name=kind, status=end)


def observe(name: str, seconds: float) -> None:
    """Notes a duration."""
    bucket = _BUCKETS[name][bisect_left(HISTOGRAMS[name].bounds, seconds)]
    with _lock:
        _counted[bucket] += 1
        _counted[f"{name}_sum", ()] += max(seconds, 0.0)


def start_flushing() -> None:
    """Begins to write down what this process counts; once for each process, at any time."""
    global _thread
    if _thread is None or not _thread.is_alive():
        _ended.clear()
        _thread = threading.Thread(target=_flush_on, name="metrics", daemon=True)
        _thread.start()


def stop_flushing() -> None:
    """Ends that, and writes down the last seconds' figures."""
    _ended.set()
    if _thread is not None:
        _thread.join()
    flush()


def flush() -> None:
    """Adds what was counted to the database's rows; keeps it for the next time when that fails."""
    with _lock:
        counted = dict(sorted(_counted.items()))  # one order for all processes: no deadlock
        _counted.clear()
    if not counted:
        return
    try:
        _write(counted)
    except Exception as error:  # figures must never disturb the work
        log.warning("metrics.kept_back", error=describe(error))
        with _lock:
            for key, by in counted.items():
                _counted[key] += by


def _write(counted: dict[_Key, float]) -> None:
    rows = [
        {"name": name, "labels": ",".join(f'{label}="{text}"' for label, text in labels), "value": value}
        for (name, labels), value in counted.items()
    ]
    with transaction() as session:
        insert = insert_into(Metric, session)
        added = {"value": Metric.value + insert.excluded.value}
        session.connection().execute(insert.on_conflict_do_update(index_elements=["name", "labels"], set_=added), rows)


def _flush_on() -> None:
    while not _ended.wait(FLUSH_SECONDS):
        flush()
