"""Ending: cancels an open session at Stripe, whose record is marked before with the kind of its end."""

from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.queue.failures import NotNowError
from handlers.record.events import Status
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import VerificationRecord

UNMARKED = {"ends_quietly": None, "replacing_at": None}  # clears the marks, set before the end: no event is faster


def end(session_id: str, account: str | None) -> Answer | None:
    """Asks Stripe to cancel the session, and returns its answer to a retrieve after that; None if the session is gone.

    Raises as handlers.stripe_api.client.ask, also if the session is still open. If the retrieve fails, the marks stay
    until the session is taken up again.
    """
    refusal: NotNowError | None = None
    try:
        cancel(session_id, account)
    except NotNowError as error:  # it may be canceled all the same
        refusal = error
    answer = changing.retrieve(session_id, account)
    # rule: the marks of an end that did not come are taken back; the person was faster, or Stripe did not do it
    if answer and answer.state.status != Status.CANCELED:
        marked = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
        with transaction() as session:
            session.connection().execute(marked.values(UNMARKED))
    if refusal and answer and answer.state.status == Status.REQUIRES_INPUT:
        raise refusal
    return answer
