"""Reminders: whoever has not begun when the time has come is asked to, once."""

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
    """Owes the reminders whose time has come; returns the ids of what is to be done now.

    Where REMINDER_HOURS is unset by then, they are owed to nobody any more.
    """
    with transaction() as session:
        owed, at = _taken(session, _MOST)
        return owe(session, owed, at) if at else []


def hold_back_reminders(session: Session, reason: str) -> int:
    """Writes down as skipped, for this reason, what `remind` would owe now; how many."""
    owed, at = _taken(session)
    held = [(session_id, [replace(one, skipped=reason) for one in some]) for session_id, some in owed]
    if at:
        owe(session, held, at)
    return sum(len(some) for _, some in held)


def _taken(session: Session, most: int | None = None) -> tuple[list[tuple[str, list[Owed]]], datetime | None]:
    """What is owed of the sessions whose time has come, and when; of none the time comes again."""
    has_come = col(VerificationRecord.remind_at) <= now()
    # By itself, and so by its index: PostgreSQL would read all records in the order in which they are locked.
    longest = select(col(VerificationRecord.session_id)).where(has_come).order_by(col(VerificationRecord.remind_at))
    due = longest.limit(most).cte("due").prefix_with("MATERIALIZED")
    waiting = (
        select(VerificationRecord, now(), ELSEWHERE)
        .where(col(VerificationRecord.session_id).in_(select(due.c.session_id)), has_come)
        .order_by(col(VerificationRecord.session_id))  # as everywhere: no deadlock
        .with_for_update(of=VerificationRecord, skip_locked=True)  # an event is being applied to it
    )
    found = session.execute(waiting).all()
    limit = settings().submission_limit
    owed = [(record.session_id, reminder(record.state, limit - elsewhere)) for record, _, elsewhere in found]
    for record, _, _ in found:
        record.remind_at = None  # rule: a time that has come comes once
    return owed, found[0][1] if found else None
