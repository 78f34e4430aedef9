"""Replacing: ends a session on purpose, so that another begins in its place; the submissions so far count no more."""

from sqlalchemy import select
from sqlmodel import col

from config.database import now, statement, transaction
from handlers.record.events import Status
from handlers.sessions.ending import end, mark_ending
from handlers.sessions.refusals import Fault, FaultsError, OpeningError, past
from handlers.sessions.turn import Turn, Wanted, fence
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord


def unless_anothers(turn: Turn, session_id: str) -> None:
    """Raises FaultsError if the session to be replaced is none of this verification's."""
    theirs = select(col(VerificationRecord.session_id)).where(
        col(VerificationRecord.session_id) == session_id,
        col(VerificationRecord.verification_id) == turn.verification_id,
    )
    with statement() as connection:
        # rule: only a session of the same verification is replaced
        if connection.scalars(theirs).first() is None:
            raise FaultsError([Fault("/replaces", "is no session of this verification")])


def replace(turn: Turn, wanted: Wanted, answer: Answer | None) -> Answer | None:
    """Ends the current session at Stripe if it is open, and returns Stripe's answer about it after that; None if it was
    not open.

    The session is replaced once the next generation begins (handlers.sessions.turn), and stays the current one until
    then, whatever fails or dies; nobody is mailed about an end in between. Raises OpeningError if the session is being
    checked, the person is faster or the lease is lost; else as end.
    """
    if answer and answer.state.status == Status.PROCESSING:
        raise past(answer)
    with transaction() as session:
        # The verification is locked before its records, as everywhere: no deadlock.
        if session.scalars(select(Verification).where(*fence(turn)).with_for_update()).one_or_none() is None:
            raise OpeningError("opening")
        mark_ending(session, turn.session_id or "", replacing_at=now())
    if answer is None or answer.state.status != Status.REQUIRES_INPUT:
        return None
    again = end(answer.id, wanted.stripe_account)
    if again and again.state.status != Status.CANCELED:
        raise past(again)
    return again
