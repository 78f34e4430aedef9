"""Closing: an open session is canceled, and what anybody holds of a person is forgotten."""

from sqlalchemy import func, update
from sqlmodel import col

from config.database import now, transaction
from handlers.record.events import Status
from handlers.sessions.opening import forget_sessions, observe, past, settle
from handlers.sessions.views import verification
from handlers.stripe_api import changing
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import Verification, VerificationRecord


def cancel_verification(verification_id: str, *, notify: bool) -> str | None:
    """Cancels the open session, and answers the id of what Stripe then said of it, which is in the inbox.

    None where it is gone. Raises NotFoundError for no such verification, OpeningError where the session is past that,
    decided by a retrieve: Stripe gives its refusal no code; NotNowError where Stripe cannot be asked.
    """
    found = settle(verification(verification_id))
    account = found.account or None
    answer = changing.retrieve(found.session_id, account) if found.session_id else None
    if answer and answer.state.status == Status.REQUIRES_INPUT:
        # Before its end, so that no event can be faster.
        told = update(VerificationRecord).where(col(VerificationRecord.session_id) == answer.id)
        with transaction() as session:
            session.connection().execute(told.values(ends_quietly=not notify))
        cancel(answer.id, account)
        answer = changing.retrieve(answer.id, account)
    if answer is None:
        return None
    if answer.state.status != Status.CANCELED:
        raise past(answer)
    with transaction() as session:
        return observe(session.connection(), answer, account, livemode=found.livemode)


def redact_verification(verification_id: str) -> None:
    """Forgets the person here, at once, and owes it to each session at Stripe; asked twice, it is owed once.

    Raises NotFoundError for no such verification, and as settle where an opening has left something open.
    """
    found = settle(verification(verification_id))
    whose = update(Verification).where(col(Verification.id) == found.id)
    asked_at = func.coalesce(col(Verification.redaction_asked_at), now())
    with transaction() as session:
        # First the verification, as an opening does: no deadlock.
        session.connection().execute(whose.values(redaction_asked_at=asked_at, **dict.fromkeys(Verification.PERSONAL)))
        forget_sessions(session, found.id)
