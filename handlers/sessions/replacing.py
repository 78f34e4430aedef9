"""Replacing: another session is begun in the place of one, on purpose, and what was counted so far counts no more."""

from sqlalchemy import select, update
from sqlalchemy.orm import aliased
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.owed.kinds import ENDED_BY_REPLACING
from handlers.owed.owe import owe, withdraw
from handlers.record.decide import REPLACED, owed_still
from handlers.record.events import Status
from handlers.sessions.refusals import OpeningError, past
from handlers.sessions.turn import Turn, Wanted, fence
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import Verification, VerificationRecord


def replace(turn: Turn, wanted: Wanted, answer: Answer | None) -> None:
    """The current session is over for us, whatever comes of it still; an open one is ended at Stripe, too.

    First written down, so that its end mails nobody, and taken back where the person is faster; doing it twice is doing
    it once. Raises OpeningError where the session is being checked, or the lease is lost.
    """
    if answer and answer.state.status == Status.PROCESSING:
        raise past(answer)
    _write_down(turn)
    if answer is None or answer.state.status != Status.REQUIRES_INPUT or cancel(answer.id, wanted.stripe_account):
        return
    again = changing.retrieve(answer.id, wanted.stripe_account)
    if again is None or again.state.status == Status.CANCELED:
        return
    _take_back(turn, answer.id)
    raise past(again)


def _write_down(turn: Turn) -> None:
    """Also of the sessions before it; a mail about one of them that is on its way loses its claim."""
    counted = update(VerificationRecord).where(
        col(VerificationRecord.verification_id) == turn.verification_id, col(VerificationRecord.replaced_at).is_(None)
    )
    replaced = counted.values(replaced_at=now()).returning(col(VerificationRecord.session_id), now())
    with transaction() as session:
        # First the verification, as wherever several of its records are locked: no deadlock.
        if session.scalars(select(Verification).where(*fence(turn)).with_for_update()).one_or_none() is None:
            raise OpeningError("opening")
        if over := session.execute(replaced).all():
            withdraw(session, [session_id for session_id, _ in over], ENDED_BY_REPLACING, REPLACED, over[0][1])


def _take_back(turn: Turn, session_id: str) -> None:
    """Of all that were replaced with it, and what is owed about them is due again."""
    current = aliased(VerificationRecord)
    since = select(col(current.replaced_at)).where(col(current.session_id) == session_id).scalar_subquery()
    theirs = update(VerificationRecord).where(
        col(VerificationRecord.verification_id) == turn.verification_id, col(VerificationRecord.replaced_at) == since
    )
    with transaction() as session:
        session.scalars(
            select(Verification).where(col(Verification.id) == turn.verification_id).with_for_update()
        ).one()
        for record, at in session.execute(theirs.values(replaced_at=None).returning(VerificationRecord, now())).all():
            owe(session, [(record.session_id, owed_still(record.state, settings().submission_limit))], at)
