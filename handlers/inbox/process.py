"""The inbox: every event received once, and each applied exactly once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Executable, Row, bindparam, select, update
from sqlmodel import Session, col

from config.database import DATABASE_TROUBLE, statement, transaction
from config.settings import settings
from handlers.inbox import apply
from handlers.inbox.receive import Receipt, receive
from handlers.metrics import counting
from handlers.outbox import perform
from handlers.queue.claims import Claim, LostClaimError, bury, give_up, put_back_together
from handlers.queue.failures import LEASE, NotNowError, describe, stopping, unless_stopping
from handlers.record.decide import Decision, Owed, decide
from handlers.record.events import SessionState, VerificationEvent
from handlers.record.ordering import Seen, answer
from handlers.stripe_api import sessions
from handlers.tables.models import InboxEvent, InboxStatus, Outcome, utc_now

__all__ = ["Receipt", "due", "process", "receive"]

log = structlog.stdlib.get_logger(__name__)

_TURNS = LEASE / 2  # for those of a batch that wait for Stripe one after the other: they share one lease
_ROUNDS = 3  # of asking Stripe about one event before it waits: each round sees a newer answer
_ROWS_AT_ONCE = 1000  # of what may be many: a row takes four times the memory of its id


@dataclass(frozen=True, slots=True)
class _Work:
    claim: Claim
    event: VerificationEvent
    quiet: bool
    received_at: datetime


def _claim_those(attempts: ColumnElement[bool]) -> Executable:
    free = (
        select(col(InboxEvent.id))
        .where(
            col(InboxEvent.id).in_(bindparam("event_ids", expanding=True)),
            col(InboxEvent.status) == InboxStatus.RECEIVED,
            col(InboxEvent.due_at) <= bindparam("now"),
            attempts,
        )
        .order_by(col(InboxEvent.id))
        .with_for_update(skip_locked=True)
    )
    return (
        update(InboxEvent)
        .where(col(InboxEvent.id).in_(free))
        .values(attempts=InboxEvent.attempts + 1, due_at=bindparam("leased_until"))
        .returning(InboxEvent)
    )


# Statements are built once: building one costs more than running it.
_FIRST_CLAIM = _claim_those(col(InboxEvent.attempts) == 0)
_LATER_CLAIM = _claim_those(col(InboxEvent.attempts) > 0)
_FINISH = (
    update(InboxEvent)
    .where(
        col(InboxEvent.id).in_(bindparam("event_ids", expanding=True)),
        col(InboxEvent.attempts) == bindparam("claimed_attempts"),
        col(InboxEvent.status) == InboxStatus.RECEIVED,
    )
    .values(
        status=InboxStatus.PROCESSED,
        outcome=bindparam("new_outcome"),
        processed_at=bindparam("now"),
        last_error=None,
    )
)


def process(event_ids: Sequence[str]) -> list[int]:
    """Applies those of these events that are due and unclaimed; returns the ids of the actions that are owed now.

    Events that were never tried share one claim and one transaction. One that was tried before is alone with itself, so
    that what it may do to its process harms no other.
    """
    together = _claim(event_ids, first_attempt=True)
    owed = _process_together(together)
    for event_id in _tried_before(set(event_ids) - {work.event.id for work in together}):
        if stopping.is_set():  # another worker's sweep takes them
            break
        for work in _claim([event_id], first_attempt=False):
            owed += _process_alone(work)
    return owed


def due(limit: int, before: datetime) -> tuple[list[str], list[str]]:
    """Unprocessed events that nobody holds, due longest first: the ids never tried, and the ids tried before."""
    waiting = (
        select(col(InboxEvent.id), col(InboxEvent.attempts))
        .where(col(InboxEvent.status) == InboxStatus.RECEIVED, col(InboxEvent.due_at) <= before)
        .order_by(col(InboxEvent.due_at))
        .limit(limit)
    )
    never_tried: list[str] = []
    tried_before: list[str] = []
    with statement() as connection:
        for some in connection.execute(waiting).partitions(_ROWS_AT_ONCE):
            for event_id, attempts in some:
                (tried_before if attempts else never_tried).append(event_id)
    return never_tried, tried_before


def _claim(event_ids: Sequence[str], *, first_attempt: bool) -> list[_Work]:
    now = utc_now()
    claim = _FIRST_CLAIM if first_attempt else _LATER_CLAIM
    with statement() as connection:
        rows = connection.execute(claim, {"event_ids": event_ids, "now": now, "leased_until": now + LEASE}).all()
    return [
        _Work(Claim(InboxEvent, row.id, row.attempts, row.waits, row.type), _event(row), row.quiet, row.received_at)
        # In Stripe's order: what is older than what was applied a moment ago would be stale, and its mail superseded.
        for row in sorted(rows, key=lambda row: (row.created_at, row.id))
    ]


def _tried_before(event_ids: set[str]) -> list[str]:
    """Those that wait for another attempt: none at all, when a message only repeats one that was worked off."""
    if not event_ids:
        return []
    waiting = (
        select(col(InboxEvent.id))
        .where(
            col(InboxEvent.id).in_(event_ids),
            col(InboxEvent.status) == InboxStatus.RECEIVED,
            col(InboxEvent.due_at) <= utc_now(),
            col(InboxEvent.attempts) > 0,
        )
        .order_by(col(InboxEvent.id))
    )
    with statement() as connection:
        return list(connection.scalars(waiting))


def _event(row: Row[Any]) -> VerificationEvent:
    is_thin = row.type.startswith("v1.")
    state = SessionState(
        status=row.session_status,
        error_code=row.error_code,
        error_reason=row.error_reason,
        report_id=row.report_id,
        client_reference_id=row.client_reference_id,
        user_id=row.user_id,
        has_flow=row.has_flow,
        redaction=row.redaction,
    )
    return VerificationEvent(
        id=row.id,
        type=row.type,
        session_id=row.session_id,
        account=row.account,
        livemode=row.livemode,
        created_at=row.created_at,
        state=None if is_thin else state,
    )


def _process_together(works: list[_Work]) -> list[int]:
    alone = [work for work in works if _says_nothing(work.event)]
    together = [work for work in works if not _says_nothing(work.event)]
    owed: list[int] = []
    if together:
        try:
            unsettled, owed = _apply(together, {})
        except DATABASE_TROUBLE as error:
            put_back_together([work.claim for work in works], error)
            return []
        except Exception as error:  # each is tried again alone, and then waits or is buried by itself
            log.warning("batch.split", events=len(together), error=describe(error))
            unsettled = together
        alone += unsettled
    return owed + _process_in_turn(alone)


def _process_in_turn(works: list[_Work]) -> list[int]:
    owed: list[int] = []
    deadline = time.monotonic() + _TURNS.total_seconds()
    for place, work in enumerate(works):
        if stopping.is_set() or time.monotonic() > deadline:
            put_back_together([late.claim for late in works[place:]], NotNowError("its turn did not come in time"))
            break
        owed += _process_alone(work)
    return owed


def _process_alone(work: _Work) -> list[int]:
    with structlog.contextvars.bound_contextvars(event_id=work.event.id, session_id=work.event.session_id):
        if work.claim.tries > work.claim.most_tries:
            bury(work.claim, "every attempt ended with its process")
            return []
        try:
            return _settle(work)
        except LostClaimError:
            log.info("event.claim_lost")
        except Exception as error:
            give_up(work.claim, error)
        return []


def _settle(work: _Work) -> list[int]:
    unless_stopping()
    answers = {work.event.id: _ask(work.event)} if _says_nothing(work.event) else {}
    for _ in range(_ROUNDS):
        unsettled, owed = _apply([work], answers)
        if not unsettled:
            return owed
        unless_stopping()
        answers[work.event.id] = _ask(work.event)
    raise NotNowError("Stripe's answers contradict what is known within one second")


def _says_nothing(event: VerificationEvent) -> bool:
    """Whether there is no use in opening a transaction before Stripe is asked."""
    return event.state is None and event.kind != "redacted" and sessions.has_key()


def _ask(event: VerificationEvent) -> Seen | None:
    """Stripe's answer; None where it will not say."""
    retrieved = sessions.retrieve_state(event.session_id, event.account)
    return answer(event, retrieved.state, retrieved.asked_at) if retrieved else None


def _apply(works: list[_Work], answers: dict[str, Seen | None]) -> tuple[list[_Work], list[int]]:
    """Applies all in one transaction. Returns those only Stripe can settle, untouched, and the owed actions' ids."""
    decisions: dict[str, Decision] = {}
    limit = settings().submission_limit
    with transaction() as session:
        held = apply.lock(session, [work.event for work in works])
        apply.count_submissions(session, held, [(work.event, answers.get(work.event.id)) for work in works])
        for work in works:
            event_id = work.event.id
            # An id that is in answers with None: Stripe was asked and will not say.
            can_ask = sessions.has_key() and answers.get(event_id, ...) is not None
            decision = decide(
                held[work.event.session_id], work.event, answers.get(event_id), can_ask=can_ask, limit=limit
            )
            if decision:
                decisions[event_id] = decision
        settled = [work for work in works if work.event.id in decisions]
        owed = perform.owe(session, [(work.event.session_id, _owed(work, decisions)) for work in settled])
        apply.forget(session, [record for record in held.values() if record.redacted_at])
        _finish(session, settled, decisions)
    now = utc_now()
    for work in settled:
        outcome = decisions[work.event.id].outcome
        counting.count("identity_events_total", type=work.event.type, outcome=outcome)
        counting.observe("identity_event_age_seconds", (now - work.received_at).total_seconds())
        log.info(f"event.{outcome}", event_id=work.event.id, session_id=work.event.session_id, type=work.event.type)
    return [work for work in works if work.event.id not in decisions], owed


def _owed(work: _Work, decisions: dict[str, Decision]) -> list[Owed]:
    owed = decisions[work.event.id].owed
    return [replace(one, skipped=one.skipped or "quiet") for one in owed] if work.quiet else owed


def _finish(session: Session, works: list[_Work], decisions: dict[str, Decision]) -> None:
    # Works of one transaction are either all first attempts or one alone, so they share the number that fences them.
    for outcome in Outcome:
        ids = [work.event.id for work in works if decisions[work.event.id].outcome == outcome]
        if not ids:
            continue
        finished = {
            "event_ids": ids,
            "claimed_attempts": works[0].claim.attempts,
            "new_outcome": outcome,
            "now": utc_now(),
        }
        if session.connection().execute(_FINISH, finished).rowcount != len(ids):
            raise LostClaimError
