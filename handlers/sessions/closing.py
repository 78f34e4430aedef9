"""Closing: an open session is canceled, and what anybody holds of a person is forgotten."""

from sqlalchemy import select, update
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.inbox.apply import forget
from handlers.owed.kinds import Owed
from handlers.owed.owe import owe
from handlers.record.events import Status
from handlers.sessions.opening import OpeningError, observe
from handlers.sessions.views import current_session
from handlers.stripe_api import changing
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import Verification, VerificationRecord


def cancel_verification(verification_id: str, *, notify: bool) -> str | None:
    """Cancels the open session, and answers the id of what Stripe then said of it, which is in the inbox.

    None where it is canceled already. Raises LookupError for no such verification, OpeningError where the session is
    past that, decided by a retrieve: Stripe gives its refusal no code; NotNowError where Stripe cannot be asked.
    """
    session_id, account = current_session(verification_id)
    answer = changing.retrieve(session_id, account) if session_id else None
    if answer is None or answer.state.status == Status.CANCELED:
        return None
    if answer.state.status != Status.REQUIRES_INPUT:
        raise OpeningError("redacted" if answer.state.redaction else str(answer.state.status))
    if not notify:  # before its end, so that no event can be faster
        quiet = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
        with transaction() as session:
            session.connection().execute(quiet.values(ends_quietly=True))
    cancel(answer.id, account)
    answer = changing.retrieve(answer.id, account)
    if answer and answer.state.status != Status.CANCELED:  # the person was faster
        raise OpeningError(str(answer.state.status))
    if answer is None:
        return None
    with transaction() as session:
        return observe(session.connection(), answer, account, livemode=bool(settings().livemode))


def redact_verification(verification_id: str) -> None:
    """Forgets the person here, at once, and owes it to each session at Stripe; asked twice, it is owed once.

    Raises LookupError for no such verification.
    """
    current_session(verification_id)
    theirs = col(VerificationRecord.verification_id) == verification_id
    asked = update(VerificationRecord).where(theirs, col(VerificationRecord.redaction_asked_at).is_(None))
    wiped = {"last_error_reason": None, "client_reference_id": None, "user_id": None}
    whose = update(Verification).where(col(Verification.id) == verification_id)
    with transaction() as session:
        at = session.execute(select(now())).scalar_one()
        session.connection().execute(asked.values(redaction_asked_at=at, **wiped))
        session.connection().execute(whose.values(client_reference_id=None, return_url=None, locale=None))
        session_ids = session.scalars(select(col(VerificationRecord.session_id)).where(theirs)).all()
        forget(session, session_ids, at)
        owe(session, [(session_id, [Owed("redact_session", "asked")]) for session_id in session_ids], at)
