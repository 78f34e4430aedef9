"""Writing down: stores a verification's current session, and Stripe's answer about it."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from config.database import DATABASE_TROUBLE, now, transaction
from config.inserts import insert_new
from handlers.inbox.apply import UNTOUCHED
from handlers.inbox.process import process
from handlers.inbox.receive import storing
from handlers.inbox.verifications import lock_records
from handlers.operator.audit import note
from handlers.owed.kinds import IN_ORDER, Owed
from handlers.owed.owe import owe
from handlers.sessions.forgetting import forget_sessions
from handlers.sessions.refusals import OpeningError
from handlers.sessions.turn import Turn, Wanted, burn, fence
from handlers.stripe_api.changing import Answer
from handlers.tables.models import ActionStatus, OutboxAction, Verification, VerificationRecord, status_of
from handlers.upkeep.drift import observed


def write(turn: Turn, wanted: Wanted, answer: Answer, *, made: bool) -> str | None:
    """Stores the current session, its record and Stripe's answer in one transaction; the id of the answer's event.

    If the person was to be forgotten meanwhile, the session is forgotten, too.
    """
    named = {"verification_flow": answer.content.get("verification_flow")}
    named |= {"return_url": wanted.return_url} if made else {}
    named |= {"locale": wanted.locale} if made or wanted.locale else {}
    current = (
        update(Verification)
        .where(*fence(turn))
        .values(session_id=answer.id, **named)
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
    try:
        with transaction() as session:
            connection = session.connection()
            written = connection.execute(current).one_or_none()
            if written is None:
                raise OpeningError("opening")
            if not insert_new(connection, VerificationRecord, [record]):
                _take_over(session, record)
            # rule: of two sessions that openings which died made for one generation, one ends
            if turn.session_id is None and not turn.is_new:
                burn(session, turn.verification_id, turn.generation, but_for=answer.id)
            if written.redaction_asked_at:
                forgotten = update(Verification).where(col(Verification.id) == turn.verification_id)
                connection.execute(forgotten.values(dict.fromkeys(Verification.PERSONAL)))
                forget_sessions(session, col(VerificationRecord.verification_id) == turn.verification_id)
            event_id = observe(connection, answer, wanted.stripe_account, livemode=wanted.livemode)
            if wanted.by:
                note(session, wanted.by, "adopt" if wanted.adopt else "open", (turn.verification_id, answer.id))
    except IntegrityError:  # the session is another verification's
        raise OpeningError("not-adoptable") from None
    # rule: a person who is to be forgotten is not let in
    if written.redaction_asked_at:
        raise OpeningError("redacted")
    return event_id


def _take_over(session: Session, linked: Mapping[str, Any]) -> None:
    """Links a record that exists already, from an event or from the time before its session was the verification's."""
    session_id, verification_id = col(VerificationRecord.session_id), col(VerificationRecord.verification_id)
    lock_records(session, or_(session_id == linked["session_id"], verification_id == linked["verification_id"]))
    record = session.get_one(VerificationRecord, linked["session_id"])
    # rule: a session whose person is to be forgotten is not taken up
    if record.redaction_asked_at and record.verification_id is None:
        raise OpeningError("not-adoptable")
    had_numbers_of_its_own = record.change_number and record.verification_id is None
    was_replaced = record.replaced_at is not None
    for name in ("verification_id", "generation", "verification_flow"):
        setattr(record, name, linked[name])
    # The session is known now, and the current one: an end or a replacement that was begun before counts no more.
    record.burned_at = record.replaced_at = record.replacing_at = record.ends_quietly = None
    session.flush()  # the next statements read the table
    if had_numbers_of_its_own or was_replaced:
        _tell_anew(session, record)


def _tell_anew(session: Session, record: VerificationRecord) -> None:
    """Tells the application the session's state by a number of the verification's: the calls still owed have numbers of
    the session's own, which may be lower than the last one that was told of the verification.
    """
    at = session.execute(select(now())).scalar_one()
    before = update(OutboxAction).where(
        col(OutboxAction.session_id) == record.session_id,
        col(OutboxAction.name).in_(IN_ORDER),
        status_of(OutboxAction) == ActionStatus.PENDING,
    )
    skipped = {"status": ActionStatus.SKIPPED, "reason": "told anew", "done_at": at}
    session.connection().execute(before.values(skipped))
    numbers = select(func.max(col(VerificationRecord.change_number))).where(
        col(VerificationRecord.verification_id) == record.verification_id
    )
    record.change_number = 1 + session.execute(numbers).scalar_one()
    told = json.dumps({"status": record.status, "error_code": record.last_error_code})
    owed = [Owed(kind, str(record.change_number), payload=told) for kind in IN_ORDER]
    owe(session, [(record.session_id, owed)], at)


def apply_observed(*event_ids: str | None) -> list[int]:
    """Applies observed events at once; the ids of the actions owed now. If the database fails, a worker does it."""
    try:
        return process([event_id for event_id in event_ids if event_id])
    except DATABASE_TROUBLE:
        return []


def notice(answer: Answer, account: str | None, *, livemode: bool) -> str | None:
    """Observes an answer in a transaction of its own."""
    with transaction() as session:
        return observe(session.connection(), answer, account, livemode=livemode)


def observe(connection: Connection, answer: Answer, account: str | None, *, livemode: bool) -> str | None:
    """Puts Stripe's answer into the inbox as an event that shows it; returns its id, or None if it makes no event."""
    event = observed(answer.id, account, livemode, answer.state, answer.asked_at)
    if event:
        insert, rows = storing(connection.dialect.name, [event])
        connection.exec_driver_sql(insert, (rows,))
    return event.id if event else None
