"""Forgetting: what we hold of a person goes at once, and what Stripe holds is owed."""

from sqlalchemy import select, update
from sqlmodel import Session, col

from config.database import now
from handlers.inbox.apply import forget
from handlers.inbox.verifications import lock_records
from handlers.owed.kinds import Owed
from handlers.owed.owe import owe
from handlers.tables.models import VerificationRecord


def forget_sessions(session: Session, verification_id: str) -> None:
    """Wipes what we hold of a verification's sessions, and owes it to each of them at Stripe."""
    theirs = col(VerificationRecord.verification_id) == verification_id
    session_ids = [record.session_id for record in lock_records(session, theirs)]
    at = session.execute(select(now())).scalar_one()
    asked = update(VerificationRecord).where(theirs, col(VerificationRecord.redaction_asked_at).is_(None))
    session.connection().execute(asked.values(redaction_asked_at=at, **dict.fromkeys(VerificationRecord.PERSONAL)))
    forget(session, session_ids, at)
    owe(session, [(session_id, [Owed("redact_session", "asked")]) for session_id in session_ids], at)
