"""Faults of web, worker and clock by their heartbeats: one is missing, hangs, restarts, or differs from the rest."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from handlers.metrics.heartbeats import GONE_AFTER, last_sign
from handlers.operator.same_settings import differing_settings
from handlers.tables.models import Heartbeat

PROCESS_KINDS = {
    "web": "no delivery is taken",
    "worker": "nothing is applied, and nobody is mailed",
    "clock": "sweep, reconcile and purge have stopped",
}
_UNHEARD = timedelta(seconds=5)  # five ticks, for a worker that listens: a busy machine may keep some back
_ENDED_FOR = timedelta(minutes=1)  # for a kind whose process said that it ends: a deploy, or a restart
_BEGINS_FOR = timedelta(seconds=10)  # then the other kinds ought to be there, and a worker has heard the clock
_HANGS_AFTER = timedelta(minutes=2)  # longer than any lease
_CRASHES, _WITHIN = 3, timedelta(minutes=10)  # of one kind: processes that began within this time, and died
_BESIDE_FOR = timedelta(minutes=10)  # two versions may run in a rolling deploy

Complaint = tuple[bool, str, str]  # whether it needs somebody now, the fault, and what to do


def ill_processes(known: Sequence[Heartbeat], at: datetime, *, hears_clocks: bool) -> Iterator[Complaint]:
    """The faults of processes, given the youngest first. Clocks are heard by a worker, over the broker."""
    living = [one for one in known if last_sign(one) > at - GONE_AFTER and not one.ended_at]
    yield from _missing(known, living, at, hears_clocks=hears_clocks)
    yield from _silent(known, living, at)
    yield from _crashing(known, at)
    for one in living:
        if one.last_at - one.worked_at > _HANGS_AFTER:
            words = (
                f"{one.name} lives, and has ended nothing since {one.worked_at:%F %T} UTC: all threads of a kind hang"
            )
            yield True, words, "restart it; its log says which kind (threads.hanging)"
    yield from _left_behind(living, at)
    for words, to_do in differing_settings(living):
        yield True, words, to_do


def _left_behind(living: Sequence[Heartbeat], at: datetime) -> Iterator[Complaint]:
    """The processes of another version than the youngest: in a rolling deploy they end soon."""
    is_over = bool(living) and living[0].started_at < at - _BESIDE_FOR
    to_do = (
        "has it missed the deploy?" if is_over else "it ends with the deploy; ten minutes after that began, this fails"
    )
    for one in living:
        if one.version != living[0].version:
            yield is_over, f"{one.name} is of {one.version}, and {living[0].version} runs beside it", to_do


def _silent(known: Sequence[Heartbeat], living: Sequence[Heartbeat], at: datetime) -> Iterator[Complaint]:
    """The web and the worker that gave their last sign just now, though nobody misses their kind: another one lives.

    Where one has begun since for each of them, a platform has started it again. Of two clocks, one may be heard all the
    time and the other not.
    """
    for kind in {one.kind for one in living} - {"clock"}:
        gone = [one for one in known if one.kind == kind and not one.ended_at and at - _WITHIN < one.last_at]
        if silent := [one for one in gone if one.last_at < at - GONE_AFTER]:
            last = max(silent, key=last_sign)
            others = f", nor have {len(silent) - 1} others" if len(silent) > 1 else ""
            begun = [one for one in living if one.kind == kind and one.started_at > min(map(last_sign, silent))]
            is_short = len(begun) < len(silent)
            instead = f"no {kind} has begun in its place" if is_short else f"another {kind} has begun since"
            words = f"{last.name} has given no sign of life since {last.last_at:%F %T} UTC{others}: {instead}"
            yield is_short, words, "did it die, or does it stand still? Its own log, or its platform's, says which"


def _crashing(known: Sequence[Heartbeat], at: datetime) -> Iterator[Complaint]:
    """The kinds that begin, and die without a word, again and again; another process of the kind may be alive."""
    for kind in PROCESS_KINDS:
        died = [
            one
            for one in known
            if one.kind == kind and not one.ended_at and at - _WITHIN < one.started_at <= at
            if last_sign(one) < at - GONE_AFTER and (kind != "clock" or _was_heard(known, one))
        ]
        if len(died) >= _CRASHES:
            words = f"{kind} keeps restarting: {len(died)} that began within ten minutes have died without a word"
            yield True, words, "its log says why; has it memory enough?"


def _was_heard(known: Sequence[Heartbeat], clock: Heartbeat) -> bool:
    """Whether a worker has outlived the clock, and would have heard its end: on one machine Ctrl-C ends both."""
    since, until = last_sign(clock), last_sign(clock) + GONE_AFTER
    return any(one.kind == "worker" and one.started_at < since and one.last_at > until for one in known)


def _missing(
    known: Sequence[Heartbeat], living: Sequence[Heartbeat], at: datetime, *, hears_clocks: bool
) -> Iterator[Complaint]:
    kinds = {one.kind for one in living}
    youngest = {one.kind: one for one in reversed(known)}  # an end that was announced excuses no later death
    restarting = {kind for kind, one in youngest.items() if one.ended_at and one.ended_at > at - _ENDED_FOR}
    begun = {one.kind for one in living if one.started_at < at - _BEGINS_FOR}
    for kind, words in PROCESS_KINDS.items():
        if kind in kinds or kind in restarting or (living and not begun):
            continue
        last = max((last_sign(one) for one in known if one.kind == kind), default=None)
        if kind == "clock" and kinds and not (hears_clocks and "worker" in begun and _is_silent(living, last)):
            continue
        since = f"since {last:%F %T} UTC" if last else "as yet"
        yield True, f"no {kind} runs {since}: {words}", f"start {kind}, or scale it to one or more"


def _is_silent(living: Sequence[Heartbeat], last: datetime | None) -> bool:
    """Whether a worker has listened for long without hearing a clock: one whose threads are busy does not listen."""
    workers = [one for one in living if one.kind == "worker"]
    since = last or min(one.started_at for one in workers)
    return any(one.listened_at and one.listened_at > since + _UNHEARD for one in workers)
