"""Performs actions: claims each, checks that it is still owed, does it, and ends it or puts it back."""

import threading
import time
from asyncio import CancelledError
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from math import inf
from threading import Timer
from typing import Any

import structlog
from sqlalchemy import String, Table, and_, bindparam, exists, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased, class_mapper
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import col

from config.database import CLOCK, brief, engine, now, past_sqlalchemy, statement, steady, transaction, true_now
from config.settings import settings
from handlers.metrics import counting, heartbeats
from handlers.outbox import turns
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS, LIMIT_CAUSE, TELLING, Kind
from handlers.owed.limits import ELSEWHERE
from handlers.owed.owe import note_told
from handlers.queue.claims import (
    Claim,
    LostClaimError,
    attempt,
    change_claimed,
    claim,
    insist,
    put_back,
    unless_used_up,
    write_down,
)
from handlers.queue.failures import (
    AwayError,
    NotItsTurnError,
    NotNowError,
    UnknownOutcomeError,
    describe,
    stopping,
)
from handlers.record.decide import AT_LIMIT, SUPERSEDED, owed_still, why_not_owed
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    VerificationRecord,
    status_of,
)

log = structlog.stdlib.get_logger(__name__)


class _Version(FunctionElement[str]):
    """The version of a record's row: it changes with each update on PostgreSQL, and never on SQLite."""

    inherit_cache = True
    type = String()


@compiles(_Version, "postgresql")
def _(_: _Version, __: Any, **___: Any) -> str:
    return "CAST(verification_record.xmin AS TEXT)"


@compiles(_Version, "sqlite")
def _(_: _Version, __: Any, **___: Any) -> str:
    return "''"


_OTHER = aliased(OutboxAction)
_RECORDS: Table = VerificationRecord.__table__  # type: ignore[attr-defined]  # SQLModel hides it
# They make objects of rows as the ORM does: SQLModel's own constructor takes an eighth of a mail's time.
_ACTION: Any = class_mapper(OutboxAction).class_manager
_RECORD: Any = class_mapper(VerificationRecord).class_manager
# In one statement, whether an event waits its turn (not after a try in vain: it may wait for Stripe, and for long) and
# whether another mail is under way (an ended one is noted in the record). A claim clears last_error; the end of an
# action, or its putting back, ends its lease.
_LOOKS = (
    select(
        col(OutboxAction.id),
        col(OutboxAction.attempts),
        col(OutboxAction.created_at),
        *_RECORDS.columns,
        exists().where(
            col(InboxEvent.session_id) == col(OutboxAction.session_id),
            status_of(InboxEvent) == InboxStatus.RECEIVED,
            col(InboxEvent.attempts) <= 1,
            col(InboxEvent.last_error).is_(None),
        ),
        exists().where(
            col(_OTHER.session_id) == col(OutboxAction.session_id),
            col(_OTHER.id) != col(OutboxAction.id),
            col(_OTHER.name).in_(TELLING),
            status_of(_OTHER) == ActionStatus.PENDING,
            col(_OTHER.attempts) > 0,
            col(_OTHER.last_error).is_(None),
            col(_OTHER.due_at) > now(),
        ),
        and_(*OutboxAction.goes_on()),
        ELSEWHERE,
        _Version(),
    )
    .join(VerificationRecord, col(VerificationRecord.session_id) == col(OutboxAction.session_id))
    .where(col(OutboxAction.id).in_(bindparam("ids", expanding=True)))
    .where(status_of(OutboxAction) == ActionStatus.PENDING)
)
# One statement ends a mail and notes that its person was told; it changes nothing if the record has changed.
_TELL_AND_END = f"""
WITH told AS (
  UPDATE verification_record SET told_cause = %(cause)s, told_count = told_count + 1
  WHERE session_id = %(session_id)s AND CAST(xmin AS text) = %(version)s
  RETURNING told_count
), ended AS (
  UPDATE outbox_action
  SET status = 'done', reason = NULL, done_at = {CLOCK["postgresql"]}, waits = %(waits)s, last_error = NULL,
    mail_number = told.told_count - 1
  FROM told
  WHERE id = %(action_id)s AND attempts = %(attempts)s AND created_at = %(since)s AND coalesce(status, '') = 'pending'
  RETURNING id
)
SELECT (SELECT count(*) FROM told), (SELECT count(*) FROM ended)"""  # noqa: S608  # our own words
_PENDING = select(
    col(OutboxAction.id),
    col(OutboxAction.name),
    col(OutboxAction.session_id),
    col(OutboxAction.created_at),
    (col(OutboxAction.attempts) > col(OutboxAction.waits)).label("was_tried"),
).where(col(OutboxAction.id).in_(bindparam("ids", expanding=True)), status_of(OutboxAction) == ActionStatus.PENDING)
_MOST_HELD = 10_000  # ids of a destination, about a megabyte: the sweep names all others again
_ENOUGH_HELD = 1_000  # ids: work for seconds, in which the sweep looks for other kinds
_QUIET_SECONDS, _MOST_QUIET_SECONDS = 2.0, 30.0  # before one try more, doubled with each
_GIVES_WAY = 8.0  # seconds of rest per second of the processor that a destination's threads took, while events wait
_WAITED_LONG = 20.0  # seconds: then an action gives way to nothing; before, the less the longer it has waited
_LOOKS_EVERY = 0.05  # seconds, between looks whether events still wait
_MOST_AT_ONCE = 50  # actions under one claim: more gain little, and a worker that dies costs each of them a try
_AT_ONCE_SECONDS = 0.25  # for all actions under one claim, by the pace so far
_TOGETHER_SECONDS = 1.0  # an action that has not begun by then is put back
_GOOD_FOR_SECONDS = 0.1  # of a look: after that it is repeated


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a claimed action and its record."""

    record: VerificationRecord
    version: str  # of the record
    is_behind: bool  # an event of its session waits its turn
    is_under_way: bool  # another mail to its person is under way
    goes_on: bool  # nobody has paused it
    limit: int  # of its session's own submissions
    why_not: str | None  # the reason if it is no longer owed
    at: float


def perform(
    *action_ids: int,
    begun: Callable[[], object] = int,
    answered: Callable[[bool], object] = bool,
    catch_up: Callable[[str], object] = str,
) -> list[int]:
    """Performs actions that are due, unclaimed and still owed; returns the ids of actions that are due because of it.

    Of several, each of another session, it performs only those without a try that counts.

    1. claims them, and reads their records as they are now;
    2. skips an action if its cause is no longer the record's, or the person is forgotten, or the last mail told the
       same; an event of its session that waits its turn may change that, and is applied first, by `catch_up`;
    3. performs one after the other, outside any transaction: a kind that is told in order waits while a lower number
       is pending, and a mail to the person while another one is under way;
    4. writes down the end of each by itself (only this keeps an action from being done again), and the words that the
       person was told: if the record says something else by now, its mail is due again;
    5. releases the next action of a kind that is told in order;
    6. puts back actions that have not begun within a second, when nobody answers there, or once this process shall end.

    A failed action is put back or buried by itself: nothing is raised for its own failure. `begun` is called for each
    action that is tried, and `answered` with whether the destination answered, if that was seen.
    """
    first_try = True if len(action_ids) > 1 else None  # rule: an action that was tried before is performed alone
    taken = [] if stopping.is_set() else claim(OutboxAction, action_ids, first_try=first_try)
    by_age = sorted((claimed.id, claimed, row) for claimed, row in taken)  # no two ids are equal
    waiting = deque[tuple[Claim, OutboxAction]]()
    for _, claimed, row in by_age:
        action: OutboxAction = _ACTION.new_instance()
        action.__dict__.update(row._asdict())
        waiting.append((claimed, action))
    alarm = Timer(_TOGETHER_SECONDS, _give_back, (waiting, "its turn did not come in time"))
    # rule: an action that waits for long behind another is put back
    if len(waiting) > 1:
        try:
            alarm.start()
        except RuntimeError:
            _give_back(waiting, "this process may have no more threads")
    looks: dict[int, _Look] = {}
    owed, looked_at, soon = [], -inf, len(waiting)
    with suppress(IndexError):  # raised once there are no more, or the alarm has put them back
        while True:
            is_old = steady() - looked_at > _GOOD_FOR_SECONDS
            if len(waiting) > 1 and (is_old or waiting[0][0].id not in looks):
                looked_at = steady()
                looks, soon = _skip_together(waiting, soon), 0
            claimed, action = waiting.popleft()
            soon += 2  # the next look takes twice as many as this one was good for
            begun()
            about = {"action_id": action.id, "session_id": action.session_id, "action": action.name}
            with structlog.contextvars.bound_contextvars(**about), attempt(claimed):
                unless_used_up(claimed)
                try:
                    reason, look = _do(action, looks, catch_up)
                except (AwayError, UnknownOutcomeError):
                    answered(False)
                    _give_back(waiting, "nobody answers there")
                    raise
                owed += end_actions([(claimed, action)], reason, look)
                if reason is None:
                    answered(True)
            # rule: the end of an action that is told in order releases the next one
            if action.name in KINDS and KINDS[action.name].in_order:
                owed += turns.release_next(action)
            if stopping.is_set():
                _give_back(waiting, "the worker was asked to end")
    alarm.cancel()
    return owed


def end_actions(some: Sequence[tuple[Claim, OutboxAction]], reason: str | None, look: _Look | None = None) -> list[int]:
    """Ends an action as done, or as skipped for a reason; returns the ids of the actions that are owed because of it.

    Several at once are skipped ones of one kind and one try, of which no record learns.
    """
    (claimed, action), status = some[0], ActionStatus.SKIPPED if reason else ActionStatus.DONE
    end = {"status": status, "reason": reason, "done_at": timedelta(), "waits": claimed.waits, "last_error": None}
    # rule: a mail that may have arrived counts as told
    may_be_told = reason is None or action.given_away_at is not None
    told = action.cause if may_be_told and KINDS[action.name].tells_the_person else None
    # rule: the limit is judged again after a change of it has skipped an action
    is_other_limit = reason == AT_LIMIT or (reason == SUPERSEDED and action.cause == LIMIT_CAUSE)

    def write() -> tuple[int, list[int]]:
        is_one = told and look and not reason and engine().dialect.name == "postgresql"
        if is_one and look and (ended := _told_and_ended(claimed, action, look)) is not None:
            return ended, []
        with transaction() as session:
            number, owed = note_told(session, action, told, is_certain=reason is None)
            if number is not None:
                end["mail_number"] = number
            return change_claimed(session.connection(), [claimed], **end), owed

    together = [one for one, _ in some]
    written, owed = (insist(write) or (0, [])) if told or is_other_limit else (write_down(together, **end), [])
    # An end that is not written down leads to a second try: its mail has the same Message-ID, so a reader sees one.
    if written < len(some):
        log.warning("action.unrecorded")
    for claimed, action in some[:written]:
        counting.ENDED_ACTIONS.labels(name=claimed.kind, status=status).inc()
        if reason:
            counting.SKIPPED_ACTIONS.labels(name=claimed.kind, reason=reason).inc()
        counting.ACTION_AGE_SECONDS.observe(claimed.age)
        about = {"action_id": action.id, "session_id": action.session_id, "action": action.name}
        log.info(f"action.{status}", **about, **({"reason": reason} if reason else {}))
    return owed


def _told_and_ended(claimed: Claim, action: OutboxAction, look: _Look) -> int | None:
    """Ends a mail as done, and notes that its person was told; returns how many were still claimed. Returns None, and
    writes nothing, if the record has moved on, or owes something by now.
    """
    if owed_still(replace(look.record.state, told=action.cause), look.limit):
        return None
    mine = {"action_id": claimed.id, "attempts": claimed.attempts, "waits": claimed.waits, "cause": action.cause}
    with past_sqlalchemy() as connection:
        about = {"session_id": action.session_id, "since": claimed.since, "version": look.version}
        told, ended = connection.execute(_TELL_AND_END, mine | about).fetchone() or (0, 0)
    return ended if told else None


def _skip_together(waiting: deque[tuple[Claim, OutboxAction]], most: int) -> dict[int, _Look]:
    """Takes out and skips those of the first `most` that are no longer owed, unless a record must learn of it; returns
    the looks.
    """
    together = list(waiting)[:most]  # the alarm may take them meanwhile
    try:
        looks = _look([action for _, action in together])
    except Exception:  # each action is looked at by itself later, and waits or is buried by itself
        return {}
    skipped = defaultdict(list)
    for claimed, action in together:
        reason = looks[action.id].why_not if action.id in looks else None
        is_told = action.given_away_at or reason == AT_LIMIT or action.cause == LIMIT_CAUSE
        if reason and not is_told and claimed.tries <= claimed.most_tries:
            with suppress(ValueError, IndexError):  # unless the alarm has it
                waiting.remove((claimed, action))
                skipped[action.name, reason, claimed.attempts, claimed.waits].append((claimed, action))
    for (_, reason, *_), some in skipped.items():
        end_actions(some, reason)
    return looks


def _look(actions: Sequence[OutboxAction]) -> dict[int, _Look]:
    """Looks at claimed actions; returns the looks by action id, without the actions whose claim is lost."""
    mine, looks, at = {action.id: action for action in actions}, {}, steady()
    found = brief(_LOOKS, {"ids": list(mine)})
    for id_, attempts, created_at, *columns, is_behind, is_under_way, goes_on, elsewhere, version in found:
        record: VerificationRecord = _RECORD.new_instance()
        record.__dict__.update(zip(_RECORDS.columns.keys(), columns, strict=True))
        action, limit = mine[id_], settings().submission_limit - elsewhere
        is_mine = (attempts, created_at) == (action.attempts, action.created_at)
        if is_mine and action.name in KINDS:
            # rule: a mail that an operator sends again may repeat the last one
            state = replace(record.state, told=None) if action.resent_at else record.state
            why_not = why_not_owed(state, action.name, action.cause, limit)
            looks[id_] = _Look(record, version, is_behind, is_under_way, goes_on, limit, why_not, at)
    return looks


def _give_back(waiting: deque[tuple[Claim, OutboxAction]], why: str) -> None:
    """Puts back the actions that have not begun."""
    late = []
    with suppress(IndexError):  # another thread may take the last ones
        while True:
            late.append(replace(waiting.popleft()[0], before={}))  # none is given away by this claim
    if late:
        put_back(late, NotNowError(why), has_begun=False)


def _do(action: OutboxAction, looks: dict[int, _Look], catch_up: Callable[[str], object]) -> tuple[str | None, _Look]:
    if action.name not in KINDS:
        # The action is of a newer version, which runs beside this one or has come and gone: its row is not buried.
        raise NotNowError(f"there is no action {action.name!r} in this version")
    kind, id_ = KINDS[action.name], action.id or 0
    for has_caught_up in (False, True):
        seen = looks.pop(id_, None)
        # rule: an old look at an action is repeated
        if seen is None or steady() - seen.at > _GOOD_FOR_SECONDS:
            seen = _look([action]).get(id_)
        if seen is None:
            raise LostClaimError
        look = seen
        # rule: an action that is no longer owed is not done
        if look.why_not:
            return look.why_not, look
        # rule: an action that a newer state may supersede waits for the events that wait
        if not look.is_behind or kind.survives_superseding:
            break
        if has_caught_up:
            raise NotItsTurnError("an event of its session waits its turn")
        catch_up(action.session_id)
    # rule: an action that is paused meanwhile is not begun
    if not look.goes_on:
        raise NotNowError("it is paused")
    if kind.in_order:  # rule: an action that is told in order waits for its turn
        turns.unless_lower_is_pending(action)
    # rule: a person gets one mail at a time; else nobody knew which was the last
    if look.is_under_way and kind.tells_the_person:
        raise NotItsTurnError("another mail to this person is under way")
    try:
        return REGISTRY[action.name](action, look.record), look
    except (SystemExit, CancelledError) as end:  # a team's own action may end so, and must not end our thread
        raise RuntimeError(type(end).__name__) from end


class Performers:
    """The threads that wait for the mail server, the application or Stripe: some for each, apart from those of events.

    Takes action ids from any number of tasks, and hands on the ids of the actions that waited for one of them.
    `catch_up` applies the events of a session that wait their turn.
    """

    def __init__(
        self, hand_on: Callable[[Sequence[int]], object], catch_up: Callable[[str], object], most: int = 1
    ) -> None:
        self._hand_on, self._catch_up = hand_on, catch_up
        self.allow(most)

    def allow(self, most: int, crowd: float = inf) -> None:
        """Sets the most threads per destination, before any of them is at work; events count as waiting while more than
        `crowd` tasks apply some.
        """
        destinations = {kind.destination for kind in KINDS.values()}
        self._lanes = {name: _Lane(name, most, crowd, self._hand_on, self._catch_up) for name in destinations}

    def perform(self, action_ids: Sequence[int], *, soon: bool = False) -> list[int]:
        """Leaves each action to the threads of its destination, and the rest to the sweep; with `soon`, leaves only the
        actions that they will do in a moment, and returns the others.
        """
        with statement() as connection:
            rows = {row.id: row for row in connection.execute(_PENDING, {"ids": action_ids})}
        others = []
        for name, lane in self._lanes.items():
            found = (rows[action_id] for action_id in action_ids if action_id in rows)
            theirs = [row for row in found if KINDS.get(row.name, Kind()).destination == name]
            room = lane.room() if soon else len(theirs)
            lane.take({row.id: (row.session_id, row.was_tried, row.created_at) for row in theirs[:room]})
            others += [row.id for row in theirs[room:]]
        return others

    def engaged(self) -> list[str]:
        """The kinds of action that this process needs no more of for now."""
        return [name for name, kind in KINDS.items() if self._lanes[kind.destination].is_engaged()]

    def end(self) -> None:
        """Waits for the actions under way; once this process is asked to end, nothing more is begun."""
        for lane in self._lanes.values():
            lane.end()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An action that waits for a thread."""

    session_id: str
    was_tried: bool
    since: datetime  # when it became owed
    context: dict[str, Any]  # of its task's log lines: one object for all actions of a message


class _Lane:
    """The actions that wait for one destination, and its threads: no two of them work for one session.

    A thread takes as many actions at once as it has done in a moment so far. While nobody answers there, one thread
    tries one action, and seldom. While events wait, they have most of this process: after its time on the processor, a
    thread rests for some times as long.
    """

    def __init__(
        self,
        name: str,
        most: int,
        crowd: float,
        hand_on: Callable[[Sequence[int]], object],
        catch_up: Callable[[str], object],
    ) -> None:
        self._crowd = crowd
        self._name, self._most, self._hand_on, self._catch_up = name, most, hand_on, catch_up
        self._threads = ThreadPoolExecutor(most, f"to-{name}")
        self._lock = threading.Lock()
        # The longest first, each once, however often the sweep names it.
        self._waiting: dict[int, _Waiting] = {}
        self._sessions: set[str] = set()  # in work
        self._at_work = 0
        self._at_once = 1
        self._silences = 0  # in a row
        self._quiet_until = 0.0

    def take(self, actions: Mapping[int, tuple[str, bool, datetime]] = {}) -> None:
        """Has actions done after those that wait already, by as many threads as allowed: by id, the session, whether
        it was tried before, and the moment from which it is owed.
        """
        context = structlog.contextvars.get_contextvars()
        with self._lock:
            if len(self._waiting) < _MOST_HELD:
                self._waiting.update((action_id, _Waiting(*seen, context)) for action_id, seen in actions.items())
            most, wanted = 1 if self._silences else self._most, -(-len(self._waiting) // self._at_once)
            more = 0 if stopping.is_set() else min(most - self._at_work, wanted)
        for _ in range(more):
            try:
                self._threads.submit(self._work)
            except RuntimeError as error:  # no more threads now: the next sweep names the actions again
                log.warning("actions.left_to_the_sweep", actions=len(self._waiting), error=describe(error))
                return

    def room(self) -> int:
        """The number of further actions that it will do in a moment."""
        with self._lock:
            is_still = self._silences or stopping.is_set()
            return 0 if is_still else max(0, self._most * self._at_once - len(self._waiting))

    def is_engaged(self) -> bool:
        """Whether it needs no more for now."""
        return len(self._waiting) >= (1 if self._silences else _ENOUGH_HELD)

    def answered(self, answers: bool) -> None:
        """Notes whether the destination answers: silence is a reason to leave it alone, an answer to go on."""
        with self._lock:
            before, now = self._silences, time.monotonic()
            if answers:
                self._silences, self._quiet_until = 0, 0.0
            elif now >= self._quiet_until:  # else the call was under way when another one met the same silence
                quiet = min(_QUIET_SECONDS * 2**self._silences, _MOST_QUIET_SECONDS)
                self._silences, self._quiet_until = self._silences + 1, now + quiet
        if answers == (before > 0):
            log.warning("destination.answers" if answers else "destination.silent", destination=self._name)
        if answers and before:
            self.take()

    def end(self) -> None:
        """Waits for the threads at work."""
        self._threads.shutdown(cancel_futures=True)

    def _work(self) -> None:
        first, spent, ended = _Waiting("", False, datetime.max.replace(tzinfo=UTC), {}), 0.0, 0.0
        with self._lock:
            if self._at_work >= self._most:  # more threads were asked for than allowed
                return
            self._at_work += 1
        while True:
            chosen: dict[int, str] = {}  # the action that has waited longest, and those behind it that may join it
            with self._lock:
                for action_id, one in self._waiting.items():
                    if one.session_id in self._sessions or one.session_id in chosen.values():
                        continue
                    first = first if chosen else one
                    # rule: an action that was tried before is not handed out with others
                    if chosen and (first.was_tried or one.was_tried or one.context is not first.context):
                        break
                    chosen[action_id] = one.session_id
                    if self._silences or len(chosen) >= self._at_once:
                        break
                if not chosen or stopping.is_set() or (self._silences and self._at_work > 1):
                    self._at_work -= 1
                    return
                quiet = self._quiet_until - time.monotonic()
                # rule: events that wait go before actions, but for a share
                if quiet <= 0 and len(heartbeats.EVENTS_IN_HAND) > self._crowd:
                    # rule: the longer an action has waited, the less it gives way
                    youth = 1 - (true_now() - first.since).total_seconds() / _WAITED_LONG
                    way = spent * _GIVES_WAY * self._most * max(0.0, min(youth, 1.0))  # owed ahead of our clock: 1
                    quiet = min(ended + way - time.monotonic(), _LOOKS_EVERY)
                if quiet <= 0:
                    # A number names no unit: a failover may give it again, and two sessions be in work under it.
                    unit = object()
                    heartbeats.IN_HAND[self._name][unit] = time.monotonic()
                    self._sessions.update(self._waiting.pop(action_id).session_id for action_id in chosen)
            if quiet > 0:
                stopping.wait(quiet)
                continue
            began, begun, spent_before = time.monotonic(), count(), time.thread_time()
            try:
                with structlog.contextvars.bound_contextvars(**first.context):
                    owed = perform(*chosen, begun=partial(next, begun), answered=self.answered, catch_up=self._catch_up)
                if owed:
                    self._hand_on(owed)
            except Exception as error:  # the database's trouble above all: the actions are still due when that is over
                log.warning(
                    "actions.left_to_the_sweep", actions=len(chosen) + len(self._waiting), error=describe(error)
                )
                with self._lock:
                    self._waiting.clear()
            finally:
                pace = next(begun) / max(time.monotonic() - began, 0.001)
                spent, ended = time.thread_time() - spent_before, time.monotonic()
                with self._lock:
                    del heartbeats.IN_HAND[self._name][unit]
                    self._sessions.difference_update(chosen.values())
                    if pace:  # no pace is seen if no action was begun
                        most = min(2 * self._at_once, _MOST_AT_ONCE)
                        self._at_once = max(1, min(most, int(pace * _AT_ONCE_SECONDS)))
