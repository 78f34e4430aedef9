"""Concluding: writes down the consequences of the events that a backup lacked, once all of them are applied."""

import json
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from config.database import now
from config.settings import settings
from handlers.inbox.verifications import lock_records
from handlers.owed.kinds import BURNED_CAUSE, IN_ORDER, KINDS, TELLING, WHEN_BURNED, Owed
from handlers.owed.owe import owe
from handlers.record.decide import PERHAPS_SENT, READ_BACK, SUPERSEDED, why_not_owed
from handlers.record.events import Status
from handlers.tables.models import ActionStatus, InboxEvent, OutboxAction, Verification, VerificationRecord

_MAILS = [name for name, kind in KINDS.items() if kind.destination == "mail"]


def renumber(session: Session, began: datetime) -> None:
    """Gives each session with events fetched since `began` a change number that the application cannot have seen, and
    owes it the session's state. After a backup a number is lower than it was, by one for each event at most.
    """
    counted = select(col(InboxEvent.session_id), func.count()).where(col(InboxEvent.received_at) >= began)
    events = {row[0]: row[1] for row in session.execute(counted.group_by(col(InboxEvent.session_id)))}
    whose = func.coalesce(col(VerificationRecord.verification_id), col(VerificationRecord.session_id))
    last = select(whose, func.max(col(VerificationRecord.change_number))).group_by(whose)
    fetched = col(VerificationRecord.session_id).in_(
        select(col(InboxEvent.session_id)).where(col(InboxEvent.received_at) >= began)
    )
    records = _lock(session, fetched)
    numbers = {row[0]: row[1] for row in session.execute(last.where(whose.in_(select(whose).where(fetched))))}
    for record in records:
        numbers[record.verification_id or record.session_id] += events[record.session_id]
    owed = []
    for record in sorted(records, key=lambda one: one.generation or 0):
        number = numbers[record.verification_id or record.session_id] + 1
        record.change_number = numbers[record.verification_id or record.session_id] = number
        how_it_is = json.dumps({"status": record.status, "error_code": record.last_error_code})
        if record.status:
            owed.append((record.session_id, [Owed(kind, str(number), payload=how_it_is) for kind in IN_ORDER]))
    owe(session, owed, session.scalars(select(now())).one())


def hold_back_mails(session: Session, since: datetime) -> int:
    """Skips the mails that the backup of `since` owes, and counts as told the one that the record's state owes; returns
    how many. A worker about to send one loses its claim.
    """
    owed = (
        col(OutboxAction.status) == ActionStatus.PENDING,
        col(OutboxAction.name).in_(_MAILS),
        col(OutboxAction.created_at) <= since,
    )
    theirs = col(OutboxAction.session_id) == col(VerificationRecord.session_id)
    records = {one.session_id: one for one in _lock(session, exists().where(theirs, *owed))}
    for mail in session.scalars(select(OutboxAction).where(*owed, col(OutboxAction.name).in_(TELLING))):
        record = records.get(mail.session_id)
        if record and why_not_owed(record.state, mail.name, mail.cause) != SUPERSEDED:
            record.told_cause, record.told_count = mail.cause, record.told_count + 1
    ended = {"status": ActionStatus.SKIPPED, "reason": PERHAPS_SENT, "done_at": now()}
    return session.connection().execute(update(OutboxAction).where(*owed).values(**ended)).rowcount


def conclude(session: Session, since: datetime, began: datetime) -> int:
    """Settles the verifications that went on after `since`, and the actions that were skipped after `began`:

    1. makes the actions at Stripe pending again, since Stripe says which it has done already;
    2. marks older sessions as replaced if verified, in processing or at the limit: a next one is begun on purpose;
    3. owes the cancellation of the older sessions that are still open; returns how many.
    """
    at = session.scalars(select(now())).one()
    is_older = _is_older(since)
    _lock(session, is_older)
    again = update(OutboxAction).where(
        col(OutboxAction.status) == ActionStatus.SKIPPED,
        col(OutboxAction.reason) == READ_BACK,
        col(OutboxAction.done_at) >= began,
        col(OutboxAction.name).in_([name for name, kind in KINDS.items() if kind.destination == "stripe"]),
    )
    pending = {"status": ActionStatus.PENDING, "reason": None, "done_at": None, "due_at": at}
    session.connection().execute(again.values(waits=col(OutboxAction.attempts), **pending))
    return _note_what_was_replaced(session, is_older, at)


def _lock(session: Session, which: ColumnElement[bool]) -> Sequence[VerificationRecord]:
    """Locks the verifications and then their records, in the order of an event; returns the records."""
    theirs = select(col(VerificationRecord.verification_id)).where(which)
    verifications = select(col(Verification.id)).where(col(Verification.id).in_(theirs)).order_by(col(Verification.id))
    session.scalars(verifications.with_for_update()).all()
    return lock_records(session, which)


def _is_older(since: datetime) -> ColumnElement[bool]:
    return exists().where(
        col(Verification.id) == col(VerificationRecord.verification_id),
        col(Verification.generation) > col(VerificationRecord.generation),
        col(Verification.updated_at) >= since,
    )


def _note_what_was_replaced(session: Session, is_older: ColumnElement[bool], at: datetime) -> int:
    sibling = aliased(VerificationRecord)
    submissions = select(func.sum(col(sibling.submissions))).where(
        col(sibling.verification_id) == col(VerificationRecord.verification_id),
        col(sibling.generation) <= col(VerificationRecord.generation),
        col(sibling.replaced_at).is_(None),
    )
    status = col(VerificationRecord.status)
    is_past = status.in_((Status.VERIFIED, Status.PROCESSING))
    replaced = update(VerificationRecord).where(
        is_older,
        col(VerificationRecord.replaced_at).is_(None),
        or_(is_past, submissions.scalar_subquery() >= settings().submission_limit),
    )
    session.connection().execute(replaced.values(replaced_at=at))
    left_open = update(VerificationRecord).where(is_older, status == Status.REQUIRES_INPUT)
    burned = left_open.values(burned_at=at).returning(col(VerificationRecord.session_id))
    session_ids = session.scalars(burned).all()
    owed = [Owed(kind, BURNED_CAUSE) for kind in WHEN_BURNED]
    owe(session, [(session_id, owed) for session_id in session_ids], at)
    return len(session_ids)
