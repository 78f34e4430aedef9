"""Forgetting: wipes our data of a person at once, and owes the redaction of Stripe's."""

from sqlalchemy import ColumnElement, select, update
from sqlmodel import Session, col

from config.database import now
from handlers.inbox.apply import wipe_sessions
from handlers.inbox.verifications import lock_records
from handlers.owed.kinds import FORGETTING, Owed
from handlers.owed.owe import owe
from handlers.tables.models import VerificationRecord


def forget_sessions(session: Session, *which: ColumnElement[bool]) -> list[str]:
    """Wipes the personal data of these sessions, and owes the redaction of each at Stripe; returns their ids."""
    session_ids = [record.session_id for record in lock_records(session, *which)]
    at = session.execute(select(now())).scalar_one()
    theirs = col(VerificationRecord.session_id).in_(session_ids)
    asked = update(VerificationRecord).where(theirs, col(VerificationRecord.redaction_asked_at).is_(None))
    session.connection().execute(asked.values(redaction_asked_at=at, **dict.fromkeys(VerificationRecord.PERSONAL)))
    wipe_sessions(session, session_ids, at)
    owed = [Owed(kind, "asked") for kind in FORGETTING]
    owe(session, [(session_id, owed) for session_id in session_ids], at)
    return session_ids
