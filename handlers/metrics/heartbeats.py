"""That each process lives, and how: one small row of its own, written every few seconds.

The clock opens no database: its ticks say who it is, and the worker that hears one writes it down with its own row.
How the last write went is what /readyz tells: whoever cannot write this row can store no delivery either.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import structlog
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import col

from config.database import measure_clock, reading, statement_at_once, true_now
from config.inserts import NOW, insert_or
from config.process import myself
from config.trouble import Trouble, hindrance, trouble_of
from handlers.queue.failures import describe
from handlers.tables.models import Heartbeat

BEAT_SECONDS = 2.0
MEASURED_EVERY = 60.0  # seconds between two looks at the database's clock
WRONG = 5.0  # seconds apart: more than any of the small errors of a clock that is set by NTP
MOST_APART = 120.0  # seconds: one of the two clocks is wrong, and who knows which
GONE_AFTER = timedelta(seconds=8)  # without a word: three beats, and what a commit may take
_READY_SECONDS = 5.0  # after which the last write says nothing any more
_ASKED_AFTER = 20.0  # seconds without an end of work, after which it is asked whether there is any in hand
_MOST_HEARD = 20  # clocks
_COLUMNS = ("kind", "version", "host", "started_at", "last_at", "ahead_seconds", "worked_at", "listened_at")
# What a clock said before it announced its end may be heard by another worker afterwards.
_LATEST = f"""(name) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)},
ended_at = CASE WHEN excluded.started_at < identity_heartbeat.ended_at THEN identity_heartbeat.ended_at
ELSE excluded.ended_at END"""

log = structlog.stdlib.get_logger(__name__)

_Word = Annotated[str, Field(pattern="^[ -~]{1,255}$")]


@dataclass(frozen=True, slots=True)
class Said:
    """What a clock's tick says of the process that sent it."""

    name: _Word
    version: _Word
    host: _Word
    age_seconds: Annotated[float, Field(ge=0, lt=1e9)]
    is_ending: bool


_SAID: TypeAdapter[Said] = TypeAdapter(Said)


class _Process:
    """What this process remembers of itself, and has heard of clocks."""

    def __init__(self) -> None:
        self.worked = time.monotonic()
        self.listened: float | None = None
        self.ahead: float | None = None
        self.measured = -MEASURED_EVERY
        self.heard: dict[str, Said] = {}
        self.trouble: Trouble | None = None
        self.wrote = -_READY_SECONDS
        self.lock = threading.Lock()


_process = _Process()


def hear(said: object) -> None:
    """A tick has come, with what its clock says of itself; anything else is not listened to."""
    try:
        clock = _SAID.validate_python(said)
    except ValidationError:
        return
    with _process.lock:
        if len(_process.heard) < _MOST_HEARD:
            _process.heard[clock.name] = clock


def worked() -> None:
    """A unit of work has ended, or there was none."""
    _process.worked = time.monotonic()


def listened() -> None:
    """No tick waits for a worker now."""
    _process.listened = time.monotonic()


def trouble() -> Trouble | None:
    """Why this process can store nothing now, by its last write; None where it can."""
    is_fresh = time.monotonic() - _process.wrote < _READY_SECONDS
    return _process.trouble if is_fresh else Trouble("unreachable")


def beat(kind: str, is_idle: Callable[[], bool] = bool, *, is_ending: bool = False) -> None:
    """Writes down that this process lives, and the clocks it has heard; `is_idle` says whether it has no work in hand.

    Never raises.
    """
    if time.monotonic() - _process.worked > _ASKED_AFTER and is_idle():
        worked()
    with _process.lock:
        heard, _process.heard = _process.heard, {}
    found: Trouble | None = None
    try:
        if time.monotonic() - _process.measured >= MEASURED_EVERY:
            with suppress(PoolTimeoutError):  # of a pool whose connections all are held up
                _measure()
        own = _row(kind, Said(**myself(kind, is_ending=is_ending)), _process.worked)
        own |= {"ahead_seconds": _process.ahead, "listened_at": _moment(_process.listened)}
        rows = [own, *(_row("clock", clock, time.monotonic()) for clock in heard.values())]
        rows.sort(key=lambda row: str(row["name"]))  # one order for all: no deadlock
        with statement_at_once() as connection:
            insert_or(connection, Heartbeat, rows, on_conflict=_LATEST, returning="name")
            found = hindrance(connection)  # a role may write this table, and not the inbox
    except Exception as error:  # it must never disturb the work
        found = trouble_of(error)
        if found != _process.trouble:
            log.warning("heartbeat.not_written", reason=found.word, error=describe(error))
    _process.trouble, _process.wrote = found, time.monotonic()


def known() -> Sequence[Heartbeat]:
    """Each process that gave a sign of life within a day, the youngest first."""
    with reading() as session:
        return session.scalars(select(Heartbeat).order_by(col(Heartbeat.started_at).desc(), col(Heartbeat.name))).all()


def _measure() -> None:
    _process.ahead = measure_clock()
    _process.measured = time.monotonic()
    if abs(_process.ahead) > WRONG:
        log.warning("clock.wrong", ahead_seconds=round(_process.ahead, 3))


def _moment(then: float | None) -> datetime | None:
    return None if then is None else true_now() - timedelta(seconds=time.monotonic() - then)


def _row(kind: str, said: Said, worked: float) -> dict[str, Any]:
    at = true_now()
    return {
        "name": said.name,
        "kind": kind,
        "version": said.version,
        "host": said.host,
        "started_at": at - timedelta(seconds=said.age_seconds),
        "last_at": NOW,
        "ahead_seconds": None,
        "worked_at": _moment(worked),
        "listened_at": None,
        "ended_at": at if said.is_ending else None,
    }
