"""What one transaction does with events: their records, what these owe, and the events' own ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import bindparam, delete, or_, select, update
from sqlmodel import Session, col

from config.database import transaction
from config.inserts import insert_new
from config.settings import settings
from handlers.metrics import counting
from handlers.owed.kinds import KINDS, Owed
from handlers.owed.owe import owe
from handlers.queue.claims import Claim, LostClaimError, change_claimed
from handlers.record.decide import Decision, Outcome, decide
from handlers.record.events import SessionState, VerificationEvent
from handlers.record.ordering import RecordState, Seen
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    Submission,
    VerificationRecord,
    VerifiedOutput,
)

log = structlog.stdlib.get_logger(__name__)

SETTLES_WITHIN = timedelta(minutes=10)  # a session's events follow each other closely, but for failed deliveries
_LOCK = (  # built once: building it costs more than running it
    select(VerificationRecord)
    .where(col(VerificationRecord.session_id).in_(bindparam("session_ids", expanding=True)))
    .order_by(col(VerificationRecord.session_id))
    .with_for_update()
)
_PERSONAL = ("error_reason", "client_reference_id", "user_id")
_OUTLIVES_REDACTION = [name for name, kind in KINDS.items() if kind.survives_redaction]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A claimed event, what it shows, and what Stripe has said about it."""

    claim: Claim
    event: VerificationEvent
    shown: Seen | None
    can_ask: bool  # there is somebody to ask, who has not refused yet
    answer: Seen | None = None
    owes_nothing: bool = False


def apply(works: Sequence[Work]) -> tuple[list[Work], list[int]]:
    """One transaction for claimed events of one first attempt, or for one event.

    1. locks their sessions' records, and makes those that are missing;
    2. counts the submissions that were not known yet, stale events' too;
    3. decides what each event means, in their order, and writes the records;
    4. writes down what is owed, once per key;
    5. wipes what any table holds of persons who are redacted;
    6. ends the events, or raises LostClaimError and leaves everything as it was.

    Returns the works that only Stripe can settle, untouched, and the ids of the actions that are to be done now.
    """
    decided: list[tuple[Work, Decision]] = []
    with transaction() as session:
        rows = _lock(session, works)
        _count_submissions(session, rows, works)
        before = {session_id: row.state for session_id, row in rows.items()}
        states, texts = dict(before), dict[str, SessionState]()
        for work in works:
            session_id, limit = work.event.session_id, settings().submission_limit
            decision = decide(
                states[session_id], work.event, work.shown, work.answer, can_ask=work.can_ask, limit=limit
            )
            if decision:
                decided.append((work, decision))
                states[session_id] = decision.record
                texts |= {session_id: decision.texts} if decision.texts else {}
        for session_id, row in rows.items():
            _write(row, before[session_id], states[session_id], texts.get(session_id))
        owed = owe(session, [(work.event.session_id, _owed(work, decision)) for work, decision in decided])
        _forget(session, [session_id for session_id, state in states.items() if state.redacted_at])
        _end(session, decided)
    for work, decision in decided:
        _tell(work, decision.outcome)
    settled = {work.claim.id for work, _ in decided}
    return [work for work in works if work.claim.id not in settled], owed


def _lock(session: Session, works: Sequence[Work]) -> dict[str, VerificationRecord]:
    now = datetime.now(UTC)
    by_session = {work.event.session_id: work.event for work in works}
    rows = [
        {
            "session_id": session_id,
            "account": by_session[session_id].account,
            "livemode": by_session[session_id].livemode,
            "client_reference_trusted": True,
            "submissions": 0,
            "change_number": 0,
            "applied_rank": 0,
            "created_at": now,
            "updated_at": now,
        }
        for session_id in sorted(by_session)  # one order for all workers: no deadlock
    ]
    insert_new(session.connection(), VerificationRecord, rows)
    return {record.session_id: record for record in session.scalars(_LOCK, {"session_ids": list(by_session)})}


def _count_submissions(session: Session, rows: dict[str, VerificationRecord], works: Sequence[Work]) -> None:
    reports = {
        (work.event.session_id, seen.submitted)
        for work in works
        for seen in (work.shown, work.answer)
        if seen and seen.submitted
    }
    new = [{"session_id": session_id, "report_id": report_id} for session_id, report_id in sorted(reports)]
    for session_id in insert_new(session.connection(), Submission, new):
        rows[session_id].submissions += 1
        _touch(rows[session_id])


def _write(row: VerificationRecord, before: RecordState, after: RecordState, texts: SessionState | None) -> None:
    if texts is None and after == before:
        return
    row.status, row.last_error_code, row.last_report_id = after.outline
    row.applied_at, row.applied_rank = after.stamp, after.rank
    row.redacted_at, row.change_number = after.redacted_at, after.changes
    if texts:
        row.client_reference_trusted = not texts.has_flow
        row.last_error_reason = texts.error_reason
        row.client_reference_id, row.user_id = texts.client_reference_id, texts.user_id
    if after.redacted_at:
        row.last_error_reason = row.client_reference_id = row.user_id = None
    _touch(row)


def _touch(row: VerificationRecord) -> None:
    row.updated_at = datetime.now(UTC)
    row.compare_at = row.updated_at + SETTLES_WITHIN


def _owed(work: Work, decision: Decision) -> list[Owed]:
    if not work.owes_nothing:
        return decision.owed
    return [replace(one, skipped=one.skipped or "read back from Stripe") for one in decision.owed]


def _forget(session: Session, session_ids: Sequence[str]) -> None:
    if not session_ids:
        return
    personal = or_(*(getattr(InboxEvent, name).is_not(None) for name in _PERSONAL))
    events = update(InboxEvent).where(col(InboxEvent.session_id).in_(session_ids), personal)
    session.connection().execute(events.values(dict.fromkeys(_PERSONAL)))
    session.connection().execute(delete(VerifiedOutput).where(col(VerifiedOutput.session_id).in_(session_ids)))
    actions = update(OutboxAction).where(
        col(OutboxAction.session_id).in_(session_ids),
        col(OutboxAction.status) == ActionStatus.PENDING,
        col(OutboxAction.name).not_in(_OUTLIVES_REDACTION),
    )
    skipped = {"status": ActionStatus.SKIPPED, "reason": "redacted", "done_at": datetime.now(UTC)}
    session.connection().execute(actions.values(skipped))


def _end(session: Session, decided: Sequence[tuple[Work, Decision]]) -> None:
    for outcome in Outcome:
        claims = [work.claim for work, decision in decided if decision.outcome is outcome]
        end = {"status": InboxStatus.PROCESSED, "outcome": outcome, "processed_at": datetime.now(UTC)}
        if claims and change_claimed(session.connection(), claims, **end, last_error=None) != len(claims):
            raise LostClaimError


def _tell(work: Work, outcome: Outcome) -> None:
    age = (datetime.now(UTC) - work.claim.since).total_seconds()
    counting.count_end("event", work.event.type, outcome)
    counting.observe("identity_event_age_seconds", age)
    log.info(f"event.{outcome}", event_id=work.event.id, session_id=work.event.session_id, type=work.event.type)
