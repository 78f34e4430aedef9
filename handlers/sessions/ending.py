"""Ending: cancels an open session at Stripe, whose record is marked before with the kind of its end."""

from typing import Any

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col

from config.database import now, transaction
from handlers.queue.failures import NotNowError
from handlers.record.events import Status
from handlers.sessions.turn import OPENING_LEASE
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.sessions import cancel_at_stripe
from handlers.tables.models import VerificationRecord


def mark_ending(session: Session, session_id: str, **marks: Any) -> None:
    """Marks the record of a session that is about to be ended, so that no event of its end is faster.

    Reconcile asks about the session once whoever marks it must be through: a process that dies leaves the marks.
    """
    marked = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
    session.connection().execute(marked.values(updated_at=now(), compare_at=now(OPENING_LEASE), **marks))


def end(session_id: str, account: str | None) -> Answer | None:
    """Asks Stripe to cancel the session, and returns its answer to a retrieve after that; None if the session is gone.

    Raises as handlers.stripe_api.client.ask, also if the session is still open. If the retrieve fails, the marks stay
    until the session is taken up again, or reconcile finds it open.
    """
    refusal: NotNowError | None = None
    try:
        cancel_at_stripe(session_id, account)
    except NotNowError as error:  # it may be canceled all the same
        refusal = error
    answer = changing.retrieve(session_id, account)
    # rule: the marks of an end that did not come are taken back; the person was faster, or Stripe did not do it
    if answer and answer.state.status != Status.CANCELED:
        _unmark(session_id)
    if refusal and answer and answer.state.status == Status.REQUIRES_INPUT:
        raise refusal
    return answer


def unmark_abandoned(record: VerificationRecord, status: str | None) -> None:
    """Takes back the marks of an end that never came, by Stripe's word, once whoever set them must be through."""
    # rule: the marks of an end whose asker died are taken back
    if (record.ends_quietly or record.replacing_at) and status != Status.CANCELED:
        _unmark(record.session_id, col(VerificationRecord.updated_at) < now(-OPENING_LEASE))


def _unmark(session_id: str, *conditions: ColumnElement[bool]) -> None:
    marked = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id, *conditions)
    with transaction() as session:
        session.connection().execute(marked.values(ends_quietly=None, replacing_at=None))
