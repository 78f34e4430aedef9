"""Ending: an open session is canceled at Stripe, after what its end means was written down."""

from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.queue.failures import NotNowError
from handlers.record.events import Status
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import VerificationRecord

UNMARKED = {"ends_quietly": None, "replacing_at": None}  # what is written down before, so that no event can be faster


def end(session_id: str, account: str | None) -> Answer | None:
    """What Stripe says of the session after it was asked to cancel it; None where there is none any more.

    Raises as handlers.stripe_api.client.ask, also where the session is still open. Where nobody knows, the marks stay
    until it is taken up again.
    """
    refusal: NotNowError | None = None
    try:
        cancel(session_id, account)
    except NotNowError as error:  # it may be canceled all the same
        refusal = error
    answer = changing.retrieve(session_id, account)
    # rule: an end that did not come is no quiet one; the person was faster, or Stripe did not do it
    if answer and answer.state.status != Status.CANCELED:
        marked = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
        with transaction() as session:
            session.connection().execute(marked.values(UNMARKED))
    if refusal and answer and answer.state.status == Status.REQUIRES_INPUT:
        raise refusal
    return answer
