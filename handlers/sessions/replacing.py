"""Replacing: another session is begun in the place of one, on purpose, and what was counted so far counts no more."""

from sqlalchemy import select, update
from sqlmodel import col

from config.database import now, transaction
from handlers.record.events import Status
from handlers.sessions.ending import end
from handlers.sessions.refusals import OpeningError, past
from handlers.sessions.turn import Turn, Wanted, fence
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord


def replace(turn: Turn, wanted: Wanted, answer: Answer | None) -> None:
    """Ends the current session at Stripe where it is open, for another one that is to be begun in its place.

    It is replaced once that generation begins (handlers.sessions.turn), and until then it is the current one, whatever
    fails or dies; an end that comes between is mailed to nobody. Raises OpeningError where the session is being checked
    or the person is faster, or the lease is lost; else as end.
    """
    if answer and answer.state.status == Status.PROCESSING:
        raise past(answer)
    marked = update(VerificationRecord).where(col(VerificationRecord.session_id) == turn.session_id)
    with transaction() as session:
        # First the verification, as wherever its records are locked: no deadlock.
        if session.scalars(select(Verification).where(*fence(turn)).with_for_update()).one_or_none() is None:
            raise OpeningError("opening")
        session.connection().execute(marked.values(replacing_at=now()))
    if answer and answer.state.status == Status.REQUIRES_INPUT:
        again = end(answer.id, wanted.stripe_account)
        if again and again.state.status != Status.CANCELED:
            raise past(again)
