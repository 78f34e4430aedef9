"""Writing down: which session is a verification's current one, and what Stripe has said of it."""

from sqlalchemy import Connection, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from config.database import DATABASE_TROUBLE, transaction
from config.inserts import insert_or
from handlers.inbox.apply import UNTOUCHED
from handlers.inbox.process import process
from handlers.inbox.receive import storing
from handlers.sessions.forgetting import forget_sessions
from handlers.sessions.refusals import OpeningError
from handlers.sessions.turn import Turn, Wanted, fence
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import observed


def write(turn: Turn, wanted: Wanted, answer: Answer, *, made: bool) -> str | None:
    """One transaction: which session it is, whose record that is, and what Stripe said, as an event to be applied.

    Where the person was to be forgotten meanwhile, the session is, too.
    """
    of_the_new = {"return_url": wanted.return_url, "locale": wanted.locale} if made else {}
    current = (
        update(Verification)
        .where(*fence(turn))
        .values(session_id=answer.id, **of_the_new)
        .returning(col(Verification.redaction_asked_at))
    )
    record = {
        **UNTOUCHED,
        "session_id": answer.id,
        "account": wanted.stripe_account,
        "livemode": wanted.livemode,
        "verification_id": turn.verification_id,
        "generation": turn.generation,
        "verification_flow": answer.content.get("verification_flow"),
    }
    adopted = (
        "(session_id) DO UPDATE SET verification_id = excluded.verification_id, generation = excluded.generation,"
        " verification_flow = excluded.verification_flow"
    )
    try:
        with transaction() as session:
            connection = session.connection()
            written = connection.execute(current).one_or_none()
            if written is None:
                raise OpeningError("opening")
            insert_or(connection, VerificationRecord, [record], on_conflict=adopted, returning="session_id")
            if written.redaction_asked_at:
                forget_sessions(session, turn.verification_id)
            event_id = observe(connection, answer, wanted.stripe_account, livemode=wanted.livemode)
    except IntegrityError:  # it is another verification's
        raise OpeningError("not-adoptable") from None
    if written.redaction_asked_at:
        raise OpeningError("redacted")
    return event_id


def apply_observed(event_id: str | None) -> list[int]:
    """Applies what was observed at once; the ids of the actions that are owed now. What fails here a worker does."""
    try:
        return process([event_id]) if event_id else []
    except DATABASE_TROUBLE:
        return []


def observe(connection: Connection, answer: Answer, account: str | None, *, livemode: bool) -> str | None:
    """Puts what Stripe answered into the inbox, as the event that would have said so; its id, if we know its status."""
    event = observed(answer.id, account, livemode, answer.state, answer.asked_at)
    if event:
        insert, rows = storing(connection.dialect.name, [event])
        connection.exec_driver_sql(insert, (rows,))
    return event.id if event else None
