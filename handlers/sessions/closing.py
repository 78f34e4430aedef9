"""Closing: cancels an open session, and forgets a person here and at Stripe."""

from sqlalchemy import func, update
from sqlmodel import col

from config.database import now, transaction
from handlers.operator.audit import By, note
from handlers.record.events import Status
from handlers.sessions.ending import end, mark_ending
from handlers.sessions.forgetting import forget_sessions
from handlers.sessions.making import searched
from handlers.sessions.refusals import OpeningError, past
from handlers.sessions.turn import Wanted, give_back, take_turn_again
from handlers.sessions.views import NotFoundError, made_elsewhere, verification
from handlers.sessions.writing import apply_observed, notice, write
from handlers.stripe_api import changing
from handlers.tables.models import Verification, VerificationRecord


def cancel(id_: str, *, notify: bool, by: By) -> list[int]:
    """Does as cancel_verification, also for a session that was made elsewhere."""
    try:
        return cancel_verification(id_, notify=notify, by=by)
    except NotFoundError:
        found = made_elsewhere(id_)
        return _cancel(found, found.session_id, found.session_id, notify=notify, by=by)


def redact(id_: str, by: By) -> None:
    """Does as redact_verification, also for a session that was made elsewhere."""
    try:
        redact_verification(id_, by)
    except NotFoundError:
        session_id = made_elsewhere(id_).session_id
        of_nobody_else = col(VerificationRecord.verification_id).is_(None)
        with transaction() as session:
            if not forget_sessions(session, col(VerificationRecord.session_id) == session_id, of_nobody_else):
                raise NotFoundError from None  # somebody has just adopted it
            note(session, by, "redact", [session_id])


def cancel_verification(verification_id: str, *, notify: bool, by: By | None = None) -> list[int]:
    """Cancels the open session, and applies Stripe's answer after that; returns the ids of the actions owed now.

    A session that is gone is left alone. Raises NotFoundError for no such verification, OpeningError if the session is
    not open any more (a retrieve shows it: Stripe's refusal has no code), NotNowError if Stripe cannot be asked.
    """
    found = _settled(verification(verification_id))
    return _cancel(found, found.session_id, found.id, notify=notify, by=by) if found.session_id else []


def redact_verification(verification_id: str, by: By | None = None) -> None:
    """Forgets the person here at once, and owes each session's redaction at Stripe; asked twice, it is owed once.

    Stripe is not asked: a session that an opening has made and not written down is forgotten when its event comes.
    Raises NotFoundError for no such verification.
    """
    found = verification(verification_id)
    whose = update(Verification).where(col(Verification.id) == found.id)
    asked_at = func.coalesce(col(Verification.redaction_asked_at), now())
    with transaction() as session:
        # The verification is locked first, as by an opening: no deadlock.
        session.connection().execute(whose.values(redaction_asked_at=asked_at, **dict.fromkeys(Verification.PERSONAL)))
        forget_sessions(session, col(VerificationRecord.verification_id) == found.id)
        if by:
            note(session, by, "redact", [found.id])


def _cancel(
    whose: Verification | VerificationRecord, session_id: str, about: str, *, notify: bool, by: By | None
) -> list[int]:
    account = whose.account or None
    answer = changing.retrieve(session_id, account)
    if answer and answer.state.status == Status.REQUIRES_INPUT:
        with transaction() as session:
            mark_ending(session, session_id, ends_quietly=not notify)
            if by:
                note(session, by, "cancel", (about, session_id))
        answer = end(session_id, account)
    if answer is None:
        return []
    if answer.state.status != Status.CANCELED:
        raise past(answer)
    return apply_observed(notice(answer, account, livemode=whose.livemode))


def _settled(found: Verification) -> Verification:
    """The verification's row. If an opening ended without an answer, the session that it may have made is found first.

    Raises OpeningError while an opening is under way, NotNowError if Stripe cannot be asked.
    """
    if found.session_id or not found.client_reference_id:
        return found
    wanted = Wanted(
        client_reference_id=found.client_reference_id,
        purpose=found.purpose,
        account=found.account,
        livemode=found.livemode,
        params={},
    )
    turn = take_turn_again(found.id)
    if turn is None:
        raise OpeningError("opening")
    try:
        answer = None if turn.session_id else searched(turn, wanted)
        if answer:
            write(turn, wanted, answer, made=False)
    finally:
        give_back(turn)
    return verification(found.id)
