"""Heartbeats: the state of each process, in one small row of its own, written every few seconds.

The clock opens no database: its ticks name it, and the worker that hears one writes its row beside the worker's own.
/readyz tells the result of the last write: a process that cannot write this row can store no delivery either.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import structlog
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Connection, and_, exc, func, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import col

from config.database import host_clock, measure_clock, now, reading, statement_at_once, true_now
from config.inserts import NOW, insert_or
from config.process import myself
from config.trouble import Trouble, hindrance, trouble_of
from handlers.metrics import outside
from handlers.operator import same_settings, signings
from handlers.operator.tokens import note_tokens
from handlers.queue.failures import describe
from handlers.tables.models import Heartbeat

BEAT_SECONDS = 2.0
MEASURED_EVERY = 60.0  # seconds between two looks at the database's clock
WRONG = 5.0  # seconds apart: more than any of the small errors of a clock that is set by NTP
MOST_APART = 120.0  # seconds: one of the two clocks is wrong, and nobody knows which
GONE_AFTER = timedelta(seconds=7)  # without a sign of life: three beats, and the time of a commit
_SECOND_LOOK = BEAT_SECONDS + 1.0  # seconds: all who live have beaten by then
_HEARS_AGAIN = 6.0  # seconds from the end of an outage of the broker: the next tick of a clock, and two beats
_READY_SECONDS = 5.0  # after which the last write is out of date
_JUMP = 2.0  # seconds: more than passes between two looks at a clock
_HANGS_AFTER = 120.0  # seconds without progress, after which the threads are logged
_MAY_TAKE = {"mail": 360.0}  # seconds: a mail server has five minutes to answer
_KNOWN_FOR = timedelta(minutes=15)
_MOST_HEARD = 20  # clocks
_COLUMNS = ("kind", "version", "host", "started_at", "last_at", "ahead_seconds", "worked_at", "listened_at", "outside")
# Another worker may hear an older tick of a clock after the one that announces its end.
_LATEST = f"""(name) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)},
ended_at = CASE WHEN excluded.started_at < identity_heartbeat.ended_at THEN identity_heartbeat.ended_at
ELSE excluded.ended_at END"""

log = structlog.stdlib.get_logger(__name__)

# The units of work of each kind of thread of this process, with their starts by time.monotonic(): a thread puts its
# unit in at the start, and takes it out at the end.
IN_HAND: defaultdict[str, dict[object, float]] = defaultdict(dict)
EVENTS_IN_HAND: set[str] = set()  # those of its tasks that apply events
_Word = Annotated[str, Field(pattern="^[ -~]{1,255}$")]


@dataclass(frozen=True, slots=True)
class Said:
    """A process's description of itself, as in a clock's tick."""

    name: _Word
    version: _Word
    host: _Word
    age_seconds: Annotated[float, Field(ge=0, lt=1e9)]
    is_ending: bool


_SAID: TypeAdapter[Said] = TypeAdapter(Said)


class _Process:
    """The memory of this process: of itself, and of clocks it has heard."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        # The database's clock, our time of reading it, and the statement's length: it may be read at the start of that.
        self.shown: tuple[datetime, float, float] | None = None
        self.heard_at = time.monotonic()
        self.listened: float | None = None
        self.cut_off = -_HEARS_AGAIN
        self.ahead: float | None = None
        self.measured = -MEASURED_EVERY
        self.apart = 0.0
        self.opens = True
        self.heard: dict[str, tuple[Said, float]] = {}
        self.trouble: Trouble | None = None
        self.not_stored: Trouble | None = None
        self.wrote = -_READY_SECONDS
        self.lock = threading.Lock()


_process = _Process()


def hear(said: object) -> None:
    """Remembers the clock that describes itself in a tick; anything else is passed over."""
    try:
        clock = _SAID.validate_python(said)
    except ValidationError:
        return
    with _process.lock:
        _process.heard_at = time.monotonic()
        if len(_process.heard) < _MOST_HEARD:
            _process.heard[clock.name] = clock, _process.heard_at


def listened() -> None:
    """Notes that no tick waits for a worker now."""
    _process.listened = time.monotonic()


def heard_nobody_for() -> float:
    """The seconds since this process has heard a clock."""
    return time.monotonic() - _process.heard_at


def cut_off() -> None:
    """Notes that the broker takes no message of a clock now: for a while, silence says nothing of clocks."""
    _process.cut_off = time.monotonic()


def stores(trouble: Trouble | None) -> None:
    """Notes why the last event was not stored; None if it was. The heartbeat is another table, on another disk even."""
    _process.not_stored = trouble


def write_trouble() -> Trouble | None:
    """The reason why this process can store nothing now, by its last write; None if it can."""
    is_fresh = time.monotonic() - _process.wrote < _READY_SECONDS
    return (_process.trouble or _process.not_stored) if is_fresh else Trouble("unreachable")


def beat(kind: str, *, is_ending: bool = False) -> None:
    """Writes the heartbeats of this process, with its work's progress, and of the clocks it has heard. Never raises."""
    with _process.lock:
        heard, _process.heard = _process.heard, {}
    clocks, found = [("clock", *clock) for clock in heard.values()], None
    _try_to_open(kind)
    outside.note_shown(outside.SETTINGS, same_settings.own_fingerprints())
    try:
        if time.monotonic() - _process.measured >= MEASURED_EVERY or abs(host_clock() - _process.apart) > _JUMP:
            with suppress(exc.TimeoutError):  # all connections of the pool are held up
                _measure()
        with statement_at_once() as connection:
            note_tokens(connection)  # first: what it finds is told by this beat
            said = [(kind, Said(**myself(kind, is_ending=is_ending)), time.monotonic()), *clocks]
            if before := _write(connection, said):  # the database's clock has jumped
                _take_along(connection, before)
                _write(connection, said)
            signings.note_signing(connection)
            found = hindrance(connection)  # a role may be allowed to write this table, and not the inbox
    except Exception as error:  # a heartbeat must never disturb the work
        found = trouble_of(error)
        if found != _process.trouble:
            log.warning("heartbeat.not_written", reason=found.word, error=describe(error))
    _process.trouble, _process.wrote = found, time.monotonic()


def known_processes() -> Sequence[Heartbeat]:
    """The processes with a heartbeat in the last minutes, and the last one of each kind; the youngest first.

    If no heartbeat is fresh, the database's clock may have jumped: the rows are read again after the next beats, unless
    this process cannot write its own, since then nobody can.
    """
    found = _known()
    if (
        (_process.shown is None or write_trouble() is None)
        and any(not one.ended_at for one, _ in found)
        and not any(is_fresh for _, is_fresh in found)
    ):
        time.sleep(_SECOND_LOOK)
        found = _known()
    return [one for one, _ in found]


def _known() -> list[tuple[Heartbeat, bool]]:
    other = aliased(Heartbeat)
    latest = select(func.max(col(other.last_at))).where(col(other.kind) == col(Heartbeat.kind)).scalar_subquery()
    at = col(Heartbeat.last_at)
    rows = (
        select(Heartbeat, at > now(timedelta(seconds=_SECOND_LOOK) - GONE_AFTER))
        .where(or_(at > now(-_KNOWN_FOR), at == latest))
        .order_by(col(Heartbeat.started_at).desc(), col(Heartbeat.name))
    )
    with reading() as session:
        return [(row[0], bool(row[1])) for row in session.execute(rows)]


def last_sign(of: Heartbeat) -> datetime:
    """The last sign of life: for a clock, a worker heard it then, and has written it down later."""
    return of.worked_at if of.kind == "clock" else of.last_at


def _write(connection: Connection, said: Sequence[tuple[str, Said, float]]) -> datetime | None:
    """Writes the rows; returns the time that the database's clock would have shown if it had not jumped, or None."""
    before = time.monotonic()
    shown, then, took = _process.shown or (true_now(), before, 0.0)
    expected = shown + timedelta(seconds=before - then)
    rows = [_row(kind, one, expected - timedelta(seconds=before - at)) for kind, one, at in said]
    rows[0] |= {
        "worked_at": expected - timedelta(seconds=before - _works_since(before)),
        "ahead_seconds": _process.ahead,
        "listened_at": _listened_at(expected, before),
        "outside": outside.said(),
    }
    rows.sort(key=lambda row: str(row["name"]))  # one order for all: no deadlock
    (last_at, *_), *_ = insert_or(connection, Heartbeat, rows, on_conflict=_LATEST, returning="last_at")
    is_known, after = _process.shown is not None, time.monotonic()
    shown = last_at if isinstance(last_at, datetime) else datetime.fromisoformat(last_at)
    _process.shown = shown, after, after - before
    off = (shown - expected).total_seconds()
    return expected if is_known and not -_JUMP < off < _JUMP + took + after - before else None


def _listened_at(at: datetime, now: float) -> datetime | None:
    """The last moment at which a living clock would have been heard, if any."""
    if _process.listened is None or _process.listened < _process.cut_off + _HEARS_AGAIN:
        return None
    return at - timedelta(seconds=now - _process.listened)


def _take_along(connection: Connection, before: datetime) -> None:
    """Moves the rows along with a jump: a living process might look dead until its next beat, or a dead one alive."""
    at = col(Heartbeat.last_at)
    lived = or_(at > now(timedelta(seconds=_JUMP)), and_(at > before - GONE_AFTER, at <= before))
    connection.execute(update(Heartbeat).where(lived).values(last_at=now(), worked_at=now()))
    log.warning("clock.jumped")


def _works_since(at: float) -> float:
    """The start of the newest unit of the kind of thread that has not got on for longest; `at` if all are idle."""
    since = at
    for of, units in list(IN_HAND.items()):
        begun = max(list(units.values()), default=at)
        if at - begun > _MAY_TAKE.get(of, 0.0):
            since = min(since, begun)
        if at - begun <= max(_HANGS_AFTER, _MAY_TAKE.get(of, 0.0)):
            _process.hanging.discard(of)
        elif of not in _process.hanging:
            _process.hanging.add(of)
            log.error("threads.hanging", of=of, seconds=round(at - begun))
    return since


def _measure() -> None:
    _process.apart = host_clock()
    _process.measured = time.monotonic()  # also if no connection came free: else each beat would wait twice
    _process.ahead = measure_clock()
    if abs(_process.ahead) > WRONG:
        log.warning("clock.wrong", ahead_seconds=round(_process.ahead, 3))


def _try_to_open(kind: str) -> None:
    """Notes when this process can open no file and no connection more: the beat goes by one that it has."""
    name = str(myself(kind)["name"])
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        _process.opens = False
        outside.note_refusal(outside.FILES, f"is reached by {name}", doing=name)  # another's answer does not end it
    else:
        if not _process.opens:
            _process.opens = True
            outside.note_answer(outside.FILES, name)


def _row(kind: str, said: Said, at: datetime) -> dict[str, Any]:
    return {
        "name": said.name,
        "kind": kind,
        "version": said.version,
        "host": said.host,
        "started_at": at - timedelta(seconds=said.age_seconds),
        "last_at": NOW,
        "ahead_seconds": None,
        "worked_at": at,
        "listened_at": None,
        "outside": None,
        "ended_at": at if said.is_ending else None,
    }
