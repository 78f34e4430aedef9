"""Reminders: a person who has not begun when the time comes is reminded, once."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import select
from sqlmodel import Session, col

from config.database import now, transaction
from config.settings import settings
from handlers.owed.kinds import Owed
from handlers.owed.limits import ELSEWHERE
from handlers.owed.owe import owe
from handlers.record.decide import reminder
from handlers.tables.models import VerificationRecord

_MOST = 1000  # records a run: each is locked until all are written


def remind() -> list[int]:
    """Owes the reminders whose time has come; returns the ids of the actions to be done now.

    If REMINDER_HOURS is unset by then, nobody is reminded.
    """
    with transaction() as session:
        owed, at = _taken(session, _MOST)
        return owe(session, owed, at) if at else []


def hold_back_reminders(session: Session, reason: str) -> int:
    """Writes down as skipped, for this reason, the reminders that `remind` would owe now, and counts them as told;
    returns how many.
    """
    owed, at = _taken(session)
    held = [(session_id, [replace(one, skipped=reason) for one in some]) for session_id, some in owed]
    if at:
        owe(session, held, at)
    for session_id, one in ((session_id, one) for session_id, some in owed for one in some):
        record = session.get_one(VerificationRecord, session_id)
        record.told_cause, record.told_count = one.cause, record.told_count + 1
    return sum(len(some) for _, some in held)


def _taken(session: Session, most: int | None = None) -> tuple[list[tuple[str, list[Owed]]], datetime | None]:
    """The reminders whose time has come, and the time now (None if there are none). Their times are cleared."""
    has_come = col(VerificationRecord.remind_at) <= now()
    # A CTE of its own, read by its index: PostgreSQL would else read all records in the order of the locks.
    longest = select(col(VerificationRecord.session_id)).where(has_come).order_by(col(VerificationRecord.remind_at))
    due = longest.limit(most).cte("due").prefix_with("MATERIALIZED")
    waiting = (
        select(VerificationRecord, now(), ELSEWHERE)
        .where(col(VerificationRecord.session_id).in_(select(due.c.session_id)), has_come)
        .order_by(col(VerificationRecord.session_id))  # as everywhere: no deadlock
        .with_for_update(of=VerificationRecord, skip_locked=True)  # the event that holds a record comes first
    )
    found = session.execute(waiting).all()
    limit = settings().submission_limit
    owed = [(record.session_id, reminder(record.state, limit - elsewhere)) for record, _, elsewhere in found]
    for record, _, _ in found:
        record.remind_at = None  # rule: the time of a reminder comes once
    return owed, found[0][1] if found else None
