"""The transaction that applies events: it writes their records, the owed actions, and the events' own ends."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import bindparam, delete, inspect, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from config.database import now, transaction
from config.inserts import NOW, insert_new
from config.settings import settings
from handlers.inbox import verifications
from handlers.inbox.verifications import InvolvedError
from handlers.metrics import counting
from handlers.owed.kinds import ENDED_BY_REDACTION, KINDS
from handlers.owed.owe import owe, withdraw
from handlers.queue.claims import Claim, LostClaimError, change_claimed
from handlers.record.decide import READ_BACK, REDACTED, Decision, Outcome, decide
from handlers.record.events import NOT_OURS, SessionState, VerificationEvent
from handlers.record.ordering import RecordState, Seen
from handlers.tables.models import (
    InboxEvent,
    InboxStatus,
    Submission,
    VerificationRecord,
    VerifiedOutput,
)

log = structlog.stdlib.get_logger(__name__)

SETTLES_WITHIN = timedelta(minutes=10)  # a session's events follow each other closely, but for failed deliveries
_LOCKED = aliased(
    VerificationRecord,
    select(VerificationRecord)
    .where(col(VerificationRecord.session_id).in_(bindparam("session_ids", expanding=True)))
    .order_by(col(VerificationRecord.session_id))
    .with_for_update()
    .subquery(),
)
# The columns and their index are made here: two threads that make them at once leave a statement that finds no column
# until the process ends (sqlalchemy#12302).
inspect(_LOCKED).selectable.corresponding_column(VerificationRecord.__table__.c.session_id)  # type: ignore[attr-defined]
_LOCK = select(_LOCKED, now())  # the clock is read behind the lock: its last holder is done
# The columns of a record of which nothing is known yet.
UNTOUCHED = {
    "client_reference_trusted": True,
    "submissions": 0,
    "change_number": 0,
    "told_count": 0,
    "applied_rank": 0,
    "applied_answer": False,
    "compare_at": NOW,
    "created_at": NOW,
    "updated_at": NOW,
}
_RELEASE = (
    update(InboxEvent.__table__)  # type: ignore[attr-defined]  # SQLModel hides it
    .where(
        col(InboxEvent.session_id).in_(bindparam("session_ids", expanding=True)),
        col(InboxEvent.outcome) == Outcome.IGNORED,
        col(InboxEvent.is_ours).is_(None),
    )
    .values(status=InboxStatus.RECEIVED, outcome=None, processed_at=None, last_error=None, due_at=now())
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A claimed event, the state that it shows, and Stripe's answer about it."""

    claim: Claim
    event: VerificationEvent
    shown: Seen | None
    can_ask: bool  # there is a Stripe key, and Stripe has not denied the session
    answer: Seen | None = None
    owes_nothing: bool = False
    has_record: bool = False  # when it was claimed; no record is deleted


def apply(works: Sequence[Work]) -> tuple[list[Work], list[int]]:
    """Applies claimed events of one first try, or one event, in one transaction.

    1. locks the events' verifications, and then the records of all their sessions; makes the missing records;
    2. counts the submissions that were not known yet, those of stale events, too;
    3. decides the meaning of each event, in their order, and writes the records;
    4. writes down the owed actions, once per key;
    5. wipes the personal data of redacted persons from all tables;
    6. ends the events, or raises LostClaimError and leaves everything as it was;
    7. makes the events due again that did not show their session's owner, once the session proves ours.

    Returns the works that only Stripe can settle, untouched, and the ids of the actions that are to be done now.
    """
    told = [
        (work.event, state)
        for work in works
        for state in (work.event.state, work.answer and work.answer.state)
        if state and state.verification_id
    ]
    involved = {str(state.verification_id) for _, state in told}
    while True:
        try:
            return _apply(works, told, involved)
        except InvolvedError as error:
            involved |= error.verification_ids


def _apply(
    works: Sequence[Work], told: Sequence[tuple[VerificationEvent, SessionState]], involved: set[str]
) -> tuple[list[Work], list[int]]:
    decided: list[tuple[Work, Decision]] = []
    by_session = {work.event.session_id: work.event for work in works}
    with transaction() as session:
        found, siblings = verifications.lock(session, involved) if involved else ({}, [])
        recorded = {work.event.session_id for work in works if work.has_record}
        made = [
            {**UNTOUCHED, "session_id": id_, "account": by_session[id_].account, "livemode": by_session[id_].livemode}
            for id_ in sorted(by_session.keys() - recorded)  # one order for all workers: no deadlock
        ]
        # Strangers have a record, too, for the moment: who inserts the same one waits, and releases their events.
        new_ones = set(insert_new(session.connection(), VerificationRecord, made))
        locked = session.execute(_LOCK, {"session_ids": [*by_session, *siblings]}).all()
        rows, locked_at = {record.session_id: record for record, _ in locked}, locked[0][1]
        if others := {row.verification_id for row in rows.values() if row.verification_id} - involved:
            raise InvolvedError(others)
        if found:
            verifications.link(told, rows, found, locked_at)
        known = rows.keys() - new_ones | {id_ for id_, row in rows.items() if row.verification_id}
        reports = {
            (work.event.session_id, seen.submitted)
            for work in works
            for seen in (work.shown, work.answer)
            if seen and seen.submitted
        }
        new = [{"session_id": session_id, "report_id": report_id} for session_id, report_id in sorted(reports)]
        counts = Counter(insert_new(session.connection(), Submission, new))
        states = {
            session_id: replace(
                row.state,
                submissions=row.submissions + counts[session_id],
                redaction_asked_at=row.redaction_asked_at,
                replaced_at=row.replaced_at,
                burned_at=row.burned_at,
            )
            for session_id, row in rows.items()
        }
        limits = verifications.left(rows, states, settings().submission_limit) if found else {}
        numbers: dict[str, int] = {}
        for session_id, row in rows.items():
            whose = row.verification_id or session_id
            numbers[whose] = max(numbers.get(whose, 0), row.change_number)
        texts: dict[str, SessionState] = {}
        reminds_after = timedelta(hours=settings().reminder_hours) or None
        for work in works:
            session_id = work.event.session_id
            event, limit = work.event, limits.get(session_id, settings().submission_limit)
            if event.state and event.state.verification_id and event.is_ours is None:
                event = replace(event, is_ours=rows[session_id].verification_id is not None)
            whose = rows[session_id].verification_id or session_id
            # rule: sessions of one verification share one change number
            state = replace(states[session_id], changes=numbers[whose])
            seen = event, work.shown, work.answer
            is_known = session_id in known
            decision = decide(
                state, *seen, can_ask=work.can_ask, limit=limit, reminds_after=reminds_after, is_known=is_known
            )
            if decision is None:
                continue
            if decision.record.changes == numbers[whose]:  # another session's change is not this one's
                decision = replace(decision, record=replace(decision.record, changes=states[session_id].changes))
            else:
                numbers[whose] = decision.record.changes
            if decision.reason != NOT_OURS:
                known.add(session_id)
            # rule: the actions of an event that is read back quietly are written down as skipped
            if work.owes_nothing:
                mails = [one.cause for one in decision.owed if KINDS[one.kind].tells_the_person and not one.skipped]
                rows[session_id].told_count += len(mails)
                # rule: a mail that is read back counts as told
                last = [state.told, *mails][-1]
                skipped = [replace(one, skipped=one.skipped or READ_BACK) for one in decision.owed]
                # rule: a person who may have been reminded before is not reminded again
                remind_at = decision.record.remind_at if state.remind_at else None
                record = replace(decision.record, remind_at=remind_at, told=last)
                decision = replace(decision, owed=skipped, record=record)
            decided.append((work, decision))
            states[session_id] = decision.record
            if decision.texts:
                texts[session_id] = decision.texts
        for session_id in known:
            _write_record(session, rows[session_id], states[session_id], texts.get(session_id), locked_at)
        if strangers := rows.keys() - known:  # rule: a session that is not ours has no record
            for table in (Submission, VerificationRecord):
                session.connection().execute(delete(table).where(col(table.session_id).in_(strangers)))
        owed = [(work.event.session_id, decision.owed) for work, decision in decided]
        if found:
            live = {rows[work.event.session_id].verification_id for work in works if not work.owes_nothing}
            for session_id, besides in verifications.owed_besides(rows, states, settings().submission_limit):
                # rule: nobody is mailed because of events that are read back quietly
                is_quiet = rows[session_id].verification_id not in live
                some = [
                    replace(one, skipped=one.skipped or READ_BACK)
                    if is_quiet and KINDS[one.kind].destination == "mail"
                    else one
                    for one in besides
                ]
                owed.append((session_id, some))
        to_do = owe(session, owed, locked_at)
        if redacted := [id_ for id_, row in rows.items() if states[id_].redacted_at or row.redaction_asked_at]:
            wipe_sessions(session, redacted, locked_at)
            verifications.forget_verifications(found, rows, states)
        # rule: a late event about a wiped record leaves nothing personal in the inbox
        if wiped := [id_ for id_, row in rows.items() if row.wiped_at]:
            wipe_events(session, wiped)
        ends = defaultdict(list)
        for work, decision in decided:
            ends[decision.outcome, decision.reason, decision.may_be_ours, work.claim.attempts].append(work.claim)
        for (outcome, reason, may_be_ours, _), claims in ends.items():
            end = {"status": InboxStatus.PROCESSED, "outcome": outcome, "processed_at": locked_at, "last_error": reason}
            if reason:
                # rule: the state of a session that turns out not to be ours is wiped
                end |= dict.fromkeys(InboxEvent.PERSONAL) if may_be_ours else InboxEvent.FOREIGN
            # rule: an event ends once
            if change_claimed(session.connection(), claims, **end) != len(claims):
                raise LostClaimError
        if settings().our_sessions and (ours := known & new_ones):
            # rule: the events that did not show their session's owner are applied once it proves ours
            session.connection().execute(_RELEASE, {"session_ids": list(ours)})
    for work, decision in decided:
        event, outcome = work.event, decision.outcome
        counting.ENDED_EVENTS.labels(type=event.type, outcome=outcome).inc()
        if outcome == Outcome.IGNORED:
            counting.IGNORED_EVENTS.labels(reason=decision.reason or "nothing tells what it is about").inc()
        counting.EVENT_AGE_SECONDS.observe(work.claim.age)
        log.info(f"event.{outcome}", event_id=event.id, session_id=event.session_id, type=event.type)
    settled = {work.claim.id for work, _ in decided}
    return [work for work in works if work.claim.id not in settled], to_do


def _write_record(
    session: Session, row: VerificationRecord, state: RecordState, texts: SessionState | None, at: datetime
) -> None:
    if texts is None and state == row.state:
        return
    row.status, row.last_error_code, row.last_report_id = state.status, state.error_code, state.report_id
    row.applied_at, row.applied_rank, row.redacted_at = state.stamp, state.rank, state.redacted_at
    row.submissions, row.change_number, row.applied_answer = state.submissions, state.changes, state.by_answer
    row.remind_at, row.told_cause = state.remind_at, state.told
    if texts:
        # rule: a static link's reference is not trusted
        row.client_reference_trusted = not texts.has_flow
        row.last_error_reason = texts.error_reason
        row.client_reference_id, row.user_id = texts.client_reference_id, texts.user_id
    # rule: a record that RECORD_DAYS has wiped is not filled again
    is_wiped = state.redacted_at or row.redaction_asked_at or row.wiped_at
    if is_wiped:  # rule: a redaction wipes the record, and nothing fills it again
        row.last_error_reason = row.client_reference_id = row.user_id = None
    if session.is_modified(row):
        # rule: a session that has changed is compared with Stripe's
        row.updated_at, row.compare_at = at, at + SETTLES_WITHIN


def wipe_sessions(session: Session, session_ids: Sequence[str], at: datetime) -> None:
    """Wipes the personal data of these sessions from inbox, outputs and outbox."""
    wipe_events(session, session_ids)  # rule: a redaction wipes the inbox
    # rule: a redaction wipes the outputs
    session.connection().execute(delete(VerifiedOutput).where(col(VerifiedOutput.session_id).in_(session_ids)))
    withdraw(session, session_ids, ENDED_BY_REDACTION, REDACTED, at)  # rule: a redaction drops the owed actions


def wipe_events(session: Session, session_ids: Sequence[str]) -> None:
    """Wipes the personal data of these sessions from the inbox."""
    personal = or_(*(getattr(InboxEvent, name).is_not(None) for name in InboxEvent.PERSONAL))
    events = update(InboxEvent).where(col(InboxEvent.session_id).in_(session_ids), personal)
    session.connection().execute(events.values(dict.fromkeys(InboxEvent.PERSONAL)))
