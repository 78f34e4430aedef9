"""Counters and histograms of all processes: counted in memory, added up in the database every few seconds.

Web and workers are many processes on several machines, and only web has a port. So a thread of each adds its counts to
the rows of one small table, in one statement, or in none when nothing happened, and any web process can show the sum
for all of them, across restarts. A killed process loses its last counts, of FLUSH_SECONDS at most: these are figures,
not the record.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from config.database import DATABASE_TROUBLE, hurry, transaction
from config.inserts import insert_or
from config.trouble import trouble_of
from handlers.metrics import heartbeats, outside, tallies
from handlers.queue.failures import NotNowError, describe
from handlers.record.events import OTHER_MODE
from handlers.tables.models import Metric

_IMPATIENT = "SET LOCAL lock_timeout = '1s'"  # the same thread writes the heartbeat
_WAITS_SECONDS = 1.0  # for a connection: a longer wait makes a heartbeat late
_LOOKS_WITHIN = 5.0  # seconds
_ENDS_WITHIN = 5.0  # seconds: a platform gives thirty, of which web gives its requests twenty
FLUSH_SECONDS = 5.0  # well below the 15 s or more between two scrapes
_ADDED = "(name, labels) DO UPDATE SET value = identity_metric.value + excluded.value"
_AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

log = structlog.stdlib.get_logger(__name__)

# The counts of this process; labels come from closed vocabularies of ours.
COUNTED = CollectorRegistry()
UNSIGNED = "the signature does not match"  # the reason of a refusal if the secret is another one
STRIPPED = "Stripe's signature is missing"  # of a sender with Stripe's name: a proxy may have taken it away
DELIVERIES = Counter(
    "identity_deliveries_total",
    "Deliveries answered, by outcome and, where refused or ignored, reason.",
    ("outcome", "reason"),
    registry=COUNTED,
)
ENDED_CONNECTIONS = Counter(
    "identity_connections_ended_total",
    "Connections that web ended by itself, by reason; of those that were merely idle, only to make room.",
    ("reason",),
    registry=COUNTED,
)
UNKNOWN_SENDERS = Counter(
    "identity_unknown_senders_total",
    "Visits by a link of ours whose sender nobody knows: through other proxies than TRUSTED_PROXIES says.",
    registry=COUNTED,
)
API_REQUESTS = Counter(
    "identity_api_requests_total",
    "Requests with a bearer token, by whether it is one of API_TOKENS: accepted or refused.",
    ("outcome",),
    registry=COUNTED,
)
ENDED_EVENTS = Counter(
    "identity_events_total", "Events processed or given up, by type and outcome.", ("type", "outcome"), registry=COUNTED
)
IGNORED_EVENTS = Counter(
    "identity_ignored_events_total",
    "Events that a worker found to be none to apply, by why.",
    ("reason",),
    registry=COUNTED,
)
ENDED_ACTIONS = Counter(
    "identity_actions_total", "Actions that came to an end, by name and status.", ("name", "status"), registry=COUNTED
)
SKIPPED_ACTIONS = Counter(
    "identity_skipped_actions_total",
    "Actions that were not done, by name and why.",
    ("name", "reason"),
    registry=COUNTED,
)
ENDED_BY_NOUN = {"event": ENDED_EVENTS, "action": ENDED_ACTIONS}  # labels: its kind and its outcome
_GETS_ON = {"deliveries": DELIVERIES, "events": ENDED_EVENTS, "actions": ENDED_ACTIONS}
_IN_VAIN = ("refused", "dead", OTHER_MODE)
# Deliveries that say, if a new process takes no other, that its secret or its key is not the endpoint's.
_NOT_TAKEN = {
    UNSIGNED: "was refused for its signature",
    STRIPPED: "was refused as Stripe's signature is missing",
    OTHER_MODE: "was of the other mode than STRIPE_API_KEY",
}
# Words of a trouble that some statements meet, and others do not.
_OF_STATEMENTS = ("no schema", "not granted", "disk full", "failed")
_FIGURES = "figures"
_FEW = 3  # which anybody may have sent
RECOVERED_EVENTS = Counter(
    "identity_recovered_events_total",
    "Events that Stripe could not deliver and reconcile has fetched.",
    registry=COUNTED,
)
DRIFTED_SESSIONS = Counter(
    "identity_drifted_sessions_total", "Sessions that reconcile found otherwise at Stripe.", registry=COUNTED
)
NO_ANSWERS = Counter(
    "identity_no_answers_total",
    "Calls that got no verdict, by whom we asked and why: not allowed, unreached, wants quiet, unreadable, failing.",
    ("of", "why"),
    registry=COUNTED,
)
DROPPED_MESSAGES = Counter(
    "identity_dropped_messages_total", "Messages in Redis that none of ours wrote.", ("queue",), registry=COUNTED
)
UNANSWERED = Counter(
    "identity_unanswered_total",
    "What reconcile got no answer about, by what it was (events, sessions or the list of an account, one session, one"
    " second of a list, one event) and why.",
    ("what", "reason"),
    registry=COUNTED,
)
ACCEPT_SECONDS = Histogram(
    "identity_accept_seconds",
    "From a delivery's arrival to its committed row.",
    buckets=(0.001, 0.0025, 0.005, *_AGES[:10]),
    registry=COUNTED,
)
EVENT_AGE_SECONDS = Histogram(
    "identity_event_age_seconds", "From an event's receipt to its processing.", buckets=_AGES, registry=COUNTED
)
ACTION_AGE_SECONDS = Histogram(
    "identity_action_age_seconds", "From an action's being owed to its end.", buckets=_AGES, registry=COUNTED
)
# A process's start says nothing of rows that all processes share.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations

_Row = tuple[str, str]  # its name and labels

_lock = threading.Lock()
_written: defaultdict[_Row, float] = defaultdict(float)
_thread: threading.Thread | None = None
_ended = threading.Event()
_looked = threading.Event()
_was_told = True
_got_on = defaultdict[str, float](float)
_failing: set[str] = set()  # tables and kinds of work that failed, and of which nothing was done since


def start_flushing(kind: str) -> None:
    """Begins to write down the counts and heartbeats of this process (a web or a worker); at any time.

    Returns when its clock has been measured for the first time, or after _LOOKS_WITHIN seconds.
    """
    global _thread
    if _thread is None or not _thread.is_alive():
        _ended.clear()
        _looked.clear()
        _thread = threading.Thread(target=_flush_on, args=(kind,), name="metrics", daemon=True)
        _thread.start()
    _looked.wait(_LOOKS_WITHIN)


def stop_flushing(*, was_told: bool = True) -> None:
    """Ends that, and writes down the last seconds' counts, and the end of this process if it was told to end.

    A database that does not answer within _ENDS_WITHIN seconds learns neither.
    """
    global _was_told
    _was_told = was_told
    _ended.set()
    if _thread is not None:
        _thread.join(_ENDS_WITHIN)


def note_in_vain(doing: str, error: Exception, about: str = "", kind: str = "") -> None:
    """Notes that the database or a fault of ours lets some work fail: `about` one thing, or all that is tried.

    Work of a `kind` may fail for ever while others of its table are done.
    """
    _note_progress()
    name = describe(getattr(error, "orig", None) or error)
    is_the_databases = isinstance(error, (NotNowError, *DATABASE_TROUBLE))
    if not is_the_databases or trouble_of(error).word in _OF_STATEMENTS:
        doing = _of_kind(doing, kind)
        _failing.add(doing)
    if is_the_databases:
        outside.note_refusal(outside.DATABASE, f"lets {doing} fail ({name})", doing=doing)
    else:
        outside.note_refusal(outside.OURSELVES, f"fails at {doing} ({name})", doing=doing, about=about)


def _of_kind(doing: str, kind: str) -> str:
    return f"{doing} of kind {kind.rpartition('.')[2]}" if kind else doing


def flush() -> None:
    """Adds the counts since the last time to the database's rows; keeps them for the next time when that fails."""
    with _lock:
        # Only rows that grew: a clock behind another's makes an age negative, and a row never falls.
        grown = {row: value for row, value in sorted(_rows()) if value > _written[row]}
        added = {row: value - _written[row] for row, value in grown.items()}
        _written.update(grown)
    if not added:
        return
    try:
        _add_up(added)
        if _FIGURES in _failing:
            _note_done(_FIGURES)
    except Exception as error:  # figures must never disturb the work
        log.warning("metrics.kept_back", error=describe(error))
        if not isinstance(error, DATABASE_TROUBLE) or trouble_of(error).word in _OF_STATEMENTS:  # findings go by them
            note_in_vain(_FIGURES, error)
        with _lock:
            for row, value in added.items():
                _written[row] -= value


def _note_progress() -> None:
    """Work that has ended well since the last look contradicts the failures before it."""
    for table, counter in _GETS_ON.items():
        ended = defaultdict[str, float](float)
        for sample in (sample for metric in counter.collect() for sample in metric.samples):
            if not {*sample.labels.values()}.intersection(_IN_VAIN):
                kind = sample.labels.get("type") or sample.labels.get("name", "")
                for doing in {table, _of_kind(table, kind)}:
                    ended[doing] += sample.value
        for doing, count in ended.items():
            if count > _got_on[doing]:
                _got_on[doing] = count
                if doing == table or doing in _failing:  # else each heartbeat would carry all kinds
                    _note_done(doing)
                if doing == "deliveries":
                    for of in (outside.STARTED, outside.SIGNED, outside.BODY):
                        outside.note_answer(of)
    if _got_on["deliveries"]:
        return
    samples = [sample for metric in DELIVERIES.collect() for sample in metric.samples]
    for reason, word in _NOT_TAKEN.items():
        count = sum(sample.value for sample in samples if sample.labels["reason"] == reason)
        if count >= _FEW and count > _got_on[reason]:
            _got_on[reason] = count
            outside.note_refusal(outside.STARTED, word)


def _note_done(doing: str) -> None:
    _failing.discard(doing)
    outside.note_answer(outside.DATABASE, doing)
    outside.note_answer(outside.OURSELVES, doing)


def _rows() -> Iterator[tuple[_Row, float]]:
    """The rows; a bucket counts no lower one: an observation adds to one row, and the total is the buckets' sum."""
    for metric in COUNTED.collect():
        below = 0.0
        for sample in metric.samples:
            labels = ",".join(f'{label}="{text}"' for label, text in sample.labels.items())
            if sample.name.endswith("_count"):
                below = 0.0
            elif "le" in sample.labels:
                yield (sample.name, labels), sample.value - below
                below = sample.value
            else:
                yield (sample.name, labels), sample.value


def _add_up(added: dict[_Row, float]) -> None:
    # Sorted by their key, as in every process: no deadlock.
    rows = [{"name": name, "labels": labels, "value": value} for (name, labels), value in added.items()]
    with transaction() as session:
        if session.connection().dialect.name == "postgresql":
            session.connection().exec_driver_sql(_IMPATIENT)
        insert_or(session.connection(), Metric, rows, on_conflict=_ADDED, returning="name")
        tallies.add(session.connection(), rows)


def _flush_on(kind: str) -> None:
    flushed = time.monotonic()
    with hurry(_WAITS_SECONDS):
        while True:
            _note_progress()
            heartbeats.beat(kind)
            _looked.set()
            if _ended.wait(heartbeats.BEAT_SECONDS):
                break
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                flush()
                flushed = time.monotonic()
        flush()
        heartbeats.beat(kind, is_ending=_was_told)
