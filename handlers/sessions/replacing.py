"""Replacing: another session is begun in the place of one, on purpose, and what was counted so far counts no more."""

from sqlalchemy import select, update
from sqlmodel import col

from config.database import now, statement, transaction
from handlers.record.events import Status
from handlers.sessions.ending import end
from handlers.sessions.refusals import Fault, FaultsError, OpeningError, past
from handlers.sessions.turn import Turn, Wanted, fence
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord


def unless_anothers(turn: Turn, session_id: str) -> None:
    """Raises FaultsError where a session that is to be replaced is none of this verification's."""
    theirs = select(col(VerificationRecord.session_id)).where(
        col(VerificationRecord.session_id) == session_id,
        col(VerificationRecord.verification_id) == turn.verification_id,
    )
    with statement() as connection:
        # rule: what is replaced is a session of the same verification
        if connection.scalars(theirs).first() is None:
            raise FaultsError([Fault("/replaces", "is no session of this verification")])


def replace(turn: Turn, wanted: Wanted, answer: Answer | None) -> Answer | None:
    """Ends the current session at Stripe where it is open, for another one that is to be begun in its place, and says
    what it is then; None where it was not open.

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
    if answer is None or answer.state.status != Status.REQUIRES_INPUT:
        return None
    again = end(answer.id, wanted.stripe_account)
    if again and again.state.status != Status.CANCELED:
        raise past(again)
    return again
