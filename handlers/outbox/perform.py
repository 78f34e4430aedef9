"""What is owed, done: claimed, still owed?, performed, and then done, skipped, due later or dead."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import bindparam, exists, func, select, update
from sqlmodel import Session, col

from config.database import now, statement, transaction
from config.settings import settings
from handlers.metrics import counting, heartbeats
from handlers.outbox import turns
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS, LIMIT_CAUSE, TELLING, Kind
from handlers.owed.limits import ELSEWHERE
from handlers.owed.owe import owe
from handlers.queue.claims import Claim, attempt, change_claimed, claim, insist, unless_used_up, write_down
from handlers.queue.failures import AwayError, NotNowError, UnknownOutcomeError, describe, stopping
from handlers.record.decide import AT_LIMIT, SUPERSEDED, owed_still, why_not_owed
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

# Not one that was tried in vain: it may wait for Stripe, and for long.
_WAITS_ITS_TURN = exists().where(
    col(InboxEvent.session_id) == bindparam("session_id"),
    col(InboxEvent.status) == InboxStatus.RECEIVED,
    col(InboxEvent.attempts) <= 1,
    col(InboxEvent.last_error).is_(None),
)
# A claim clears last_error, and whatever ends or puts back an action ends its lease.
_UNDER_WAY = exists().where(
    col(OutboxAction.session_id) == bindparam("session_id"),
    col(OutboxAction.id) != bindparam("action_id"),
    col(OutboxAction.name).in_(TELLING),
    col(OutboxAction.status) == ActionStatus.PENDING,
    col(OutboxAction.attempts) > 0,
    col(OutboxAction.last_error).is_(None),
    col(OutboxAction.due_at) > now(),
)
# In one statement: a mail that is under way no more has left its trace in the record.
_RECORD = select(
    *VerificationRecord.__table__.columns,  # type: ignore[attr-defined]  # SQLModel hides it
    _WAITS_ITS_TURN.label("is_behind"),
    _UNDER_WAY.label("is_under_way"),
    ELSEWHERE.label("submissions_elsewhere"),
).where(col(VerificationRecord.session_id) == bindparam("session_id"))
# Where the person was told nothing, it locks the record all the same.
_TOLD = (
    update(VerificationRecord)
    .where(col(VerificationRecord.session_id) == bindparam("about"))
    .values(
        told_cause=func.coalesce(bindparam("told"), col(VerificationRecord.told_cause)),
        told_count=col(VerificationRecord.told_count) + bindparam("mails"),
    )
    .returning(VerificationRecord, now())
)
_TOLD_SINCE = select(col(OutboxAction.id)).where(
    col(OutboxAction.session_id) == bindparam("session_id"),
    col(OutboxAction.name).in_(TELLING),
    col(OutboxAction.status) == ActionStatus.DONE,
    col(OutboxAction.done_at) > bindparam("since"),
)
_PENDING = select(col(OutboxAction.id), col(OutboxAction.name), col(OutboxAction.session_id)).where(
    col(OutboxAction.id).in_(bindparam("ids", expanding=True)), col(OutboxAction.status) == ActionStatus.PENDING
)
_MOST_HELD = 10_000  # ids of a destination, about a megabyte: what is left out the sweep names again
_ENOUGH_HELD = 1_000  # ids: work for seconds, and as long the sweep looks for other kinds
_QUIET_SECONDS, _MOST_QUIET_SECONDS = 2.0, 30.0  # before one try more, doubled with each


def perform(
    action_id: int, answered: Callable[[bool], object] = bool, catch_up: Callable[[str], object] = str
) -> list[int]:
    """Does what is owed, if it is due, unclaimed and still owed; returns the ids of actions that are due because of it.

    1. claims it, and reads its record as it is now;
    2. skips it where its cause is no longer the record's, the person is forgotten, or was told so by the last mail; an
       event of its session that waits its turn may say so, and gets it by `catch_up`;
    3. does it, outside any transaction: a kind that is told in order waits while a lower one is pending, and a mail to
       the person while another one is under way;
    4. writes down that it is done or skipped, which alone keeps it from being done again, and what the person was told:
       should the record say something else by now, its mail is due again;
    5. releases the next one of a kind that is told in order.

    Whatever fails is put back or buried: nothing is raised for the action's own failure. `answered` hears whether its
    destination did, where that was seen.
    """
    found = None if stopping.is_set() else claim_action(action_id)
    if found is None:
        return []
    claimed, action = found
    with structlog.contextvars.bound_contextvars(action_id=action_id, session_id=action.session_id, action=action.name):
        owed: list[int] = []
        with attempt(claimed):
            unless_used_up(claimed)
            try:
                reason = _do(action, catch_up)
            except (AwayError, UnknownOutcomeError):
                answered(False)
                raise
            if reason is None:
                answered(True)
            owed = end_action(claimed, action, reason)
        # rule: the end of what is told in order releases the next
        return turns.release_next(action) if action.name in KINDS and KINDS[action.name].in_order else owed


def claim_action(action_id: int) -> tuple[Claim, OutboxAction] | None:
    """Takes an action that is due and that nobody holds; None for any other."""
    for claimed, row in claim(OutboxAction, [action_id]):
        return claimed, OutboxAction(**row._mapping)
    return None


def end_action(claimed: Claim, action: OutboxAction, reason: str | None) -> list[int]:
    """An action is done, or skipped for a reason; returns the ids of what the record owes because of that."""
    status = ActionStatus.SKIPPED if reason else ActionStatus.DONE
    end = {"status": status, "reason": reason, "done_at": timedelta(), "waits": claimed.waits, "last_error": None}
    # rule: what may have been told counts as told
    may_be_told = reason is None or action.given_away_at is not None
    told = action.cause if may_be_told and KINDS[action.name].tells_the_person else None
    # rule: whoever finds another limit than the one it was owed by judges it again
    is_other_limit = reason == AT_LIMIT or (reason == SUPERSEDED and action.cause == LIMIT_CAUSE)

    def write() -> tuple[int, list[int]]:
        with transaction() as session:
            number, owed = note_told(session, action, told, is_certain=reason is None)
            if number is not None:
                end["mail_number"] = number
            return change_claimed(session.connection(), [claimed], **end), owed

    owes_anew = told or is_other_limit
    written, owed = (insist(write) or (0, [])) if owes_anew else (write_down([claimed], **end), [])
    # Should it not be written down, it is done again: mails carry the same Message-ID, so a reader sees one.
    if not written:
        log.warning("action.unrecorded")
        return owed
    counting.ENDED_ACTIONS.labels(name=claimed.kind, status=status).inc()
    if reason:
        counting.SKIPPED_ACTIONS.labels(name=claimed.kind, reason=reason).inc()
    counting.ACTION_AGE_SECONDS.observe(claimed.age)
    log.info(f"action.{status}", **({"reason": reason} if reason else {}))
    return owed


def note_told(
    session: Session, action: OutboxAction, told: str | None, *, is_certain: bool
) -> tuple[int | None, list[int]]:
    """Writes into an action's record of what the person was told by it, or may have been, and owes what the record owes
    because of that; returns the mail's number, where it is the last word, and the ids of what is due.
    """
    about = {"about": action.session_id, "told": told, "mails": 1 if told else 0}
    if told and not is_certain:
        session.execute(_TOLD, {**about, "told": None, "mails": 0})  # holds the record: no mail ends meanwhile
        # rule: what may have been told before another mail is not the last word
        if session.execute(_TOLD_SINCE, {"session_id": action.session_id, "since": action.given_away_at}).first():
            about |= {"told": None, "mails": 0}
    record, at = session.execute(_TOLD, about).one()
    limit = settings().submission_limit
    if record.verification_id:
        theirs = select(ELSEWHERE).where(col(VerificationRecord.session_id) == action.session_id)
        limit -= session.execute(theirs).scalar_one()
    # rule: what the person was told in between makes the mail of the record's state due again
    owed = owe(session, [(action.session_id, owed_still(record.state, limit))], at)
    return record.told_count - 1 if about["mails"] else None, owed


def _do(action: OutboxAction, catch_up: Callable[[str], object]) -> str | None:
    if action.name not in KINDS:
        # A newer version's, which runs beside this one or has come and gone: it is no row to bury.
        raise NotNowError(f"there is no action {action.name!r} in this version")
    about = {"session_id": action.session_id, "action_id": action.id}
    kind = KINDS[action.name]
    for has_caught_up in (False, True):
        with statement() as connection:
            found = connection.execute(_RECORD, about).one()
        *columns, is_behind, is_under_way, elsewhere = found
        record = VerificationRecord(**dict(zip(found._fields, columns, strict=False)))
        # rule: what an operator sends again may have been told already
        state = replace(record.state, told=None) if action.resent_at else record.state
        # rule: what is no longer owed is not done
        if reason := why_not_owed(state, action.name, action.cause, settings().submission_limit - elsewhere):
            return reason
        # rule: what a newer state may supersede waits for the events that wait
        if not is_behind or kind.survives_superseding:
            break
        if has_caught_up:
            raise NotNowError("an event of its session waits its turn")
        catch_up(action.session_id)
    if kind.in_order:  # rule: what is told in order waits for its turn
        turns.unless_lower_is_pending(action)
    # rule: a person gets one mail at a time; else nobody knew which was the last
    if is_under_way and kind.tells_the_person:
        raise NotNowError("another mail to this person is under way")
    return REGISTRY[action.name](action, record)


class Performers:
    """The threads that are in the hands of a mail server, the application or Stripe: so many for each, none of events'.

    Takes action ids from any number of tasks, and hands on the ids of the actions that waited for one of them. What
    waits its turn of a session's events, `catch_up` applies.
    """

    def __init__(
        self, hand_on: Callable[[Sequence[int]], object], catch_up: Callable[[str], object], most: int = 1
    ) -> None:
        self._hand_on, self._catch_up = hand_on, catch_up
        self.allow(most)

    def allow(self, most: int) -> None:
        """How many threads a destination, at most; before any of them is at work."""
        destinations = {kind.destination for kind in KINDS.values()}
        self._lanes = {name: _Lane(name, most, self._hand_on, self._catch_up) for name in destinations}

    def perform(self, action_ids: Sequence[int]) -> None:
        """Leaves each to the threads of its destination, and what these leave to the sweep."""
        with statement() as connection:
            rows = {row.id: row for row in connection.execute(_PENDING, {"ids": action_ids})}
        for name, lane in self._lanes.items():
            found = (rows[action_id] for action_id in action_ids if action_id in rows)
            lane.take({row.id: row.session_id for row in found if KINDS.get(row.name, Kind()).destination == name})

    def engaged(self) -> list[str]:
        """The kinds of action that this process needs no more of for now."""
        return [name for name, kind in KINDS.items() if self._lanes[kind.destination].is_engaged()]

    def end(self) -> None:
        """Waits for what is under way; once this process is asked to end, nothing more is begun."""
        for lane in self._lanes.values():
            lane.end()


class _Lane:
    """What waits for one destination, and who is at it: no two threads for one session.

    While nobody answers there, one thread alone, and seldom.
    """

    def __init__(
        self,
        name: str,
        most: int,
        hand_on: Callable[[Sequence[int]], object],
        catch_up: Callable[[str], object],
    ) -> None:
        self._name, self._most, self._hand_on, self._catch_up = name, most, hand_on, catch_up
        self._threads = ThreadPoolExecutor(most, f"to-{name}")
        self._lock = threading.Lock()
        # Longest first, and each once however often the sweep names it: its session, and what its task's log lines say.
        self._waiting: dict[int, tuple[str, dict[str, Any]]] = {}
        self._sessions: set[str] = set()  # in work
        self._at_work = 0
        self._silences = 0  # in a row
        self._quiet_until = 0.0

    def take(self, actions: Mapping[int, str] = {}) -> None:
        """Has these done after those that wait already, by as many threads as there may be: ids, and their sessions."""
        context = structlog.contextvars.get_contextvars()
        with self._lock:
            if len(self._waiting) < _MOST_HELD:
                self._waiting.update((action_id, (session_id, context)) for action_id, session_id in actions.items())
            most = 1 if self._silences else self._most
            more = 0 if stopping.is_set() else max(0, min(most - self._at_work, len(self._waiting)))
            self._at_work += more
        for _ in range(more):
            self._threads.submit(self._work)

    def is_engaged(self) -> bool:
        """Whether it needs no more for now."""
        return len(self._waiting) >= (1 if self._silences else _ENOUGH_HELD)

    def answered(self, answers: bool) -> None:
        """What was seen of the destination: silence is a reason to leave it alone, an answer to go on."""
        with self._lock:
            before, now = self._silences, time.monotonic()
            if answers:
                self._silences, self._quiet_until = 0, 0.0
            elif now >= self._quiet_until:  # else it was under way when another saw the same
                quiet = min(_QUIET_SECONDS * 2**self._silences, _MOST_QUIET_SECONDS)
                self._silences, self._quiet_until = self._silences + 1, now + quiet
        if answers == (before > 0):
            log.warning("destination.answers" if answers else "destination.silent", destination=self._name)
        if answers and before:
            self.take()

    def end(self) -> None:
        """Waits for those at work."""
        self._threads.shutdown(cancel_futures=True)

    def _work(self) -> None:
        while True:
            with self._lock:
                free = (one for one, (session_id, _) in self._waiting.items() if session_id not in self._sessions)
                action_id = next(free, None)
                if action_id is None or stopping.is_set() or (self._silences and self._at_work > 1):
                    self._at_work -= 1
                    return
                quiet = self._quiet_until - time.monotonic()
                if quiet <= 0:
                    session_id, context = self._waiting.pop(action_id)
                    self._sessions.add(session_id)
                    heartbeats.IN_HAND[self._name][action_id] = time.monotonic()
            if quiet > 0:
                stopping.wait(quiet)
                continue
            try:
                with structlog.contextvars.bound_contextvars(**context):
                    self._hand_on(perform(action_id, self.answered, self._catch_up))
            except Exception as error:  # the database's trouble above all: what waits is still due when that is over
                log.warning("actions.left_to_the_sweep", actions=1 + len(self._waiting), error=describe(error))
                with self._lock:
                    self._waiting.clear()
            finally:
                with self._lock:
                    del heartbeats.IN_HAND[self._name][action_id]
                    self._sessions.discard(session_id)
