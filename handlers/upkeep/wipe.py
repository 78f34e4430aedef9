"""Wiping: RECORD_DAYS after their last change, a record and its verification lose all personal data.

The columns that decide stay: ids, status, order mark, causes, counts. So a late event means the same as before.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlmodel import Session, col

from config.database import now, statement, transaction
from handlers.inbox.apply import wipe_events
from handlers.inbox.verifications import lock_records
from handlers.tables.models import ENDED, ActionStatus, OutboxAction, Verification, VerificationRecord, status_of

_LOOKED_THROUGH = 10_000  # rows a statement: some ten milliseconds of PostgreSQL's
_THEIRS = col(VerificationRecord.verification_id) == col(Verification.id)


def wipe_verifications(days: timedelta, most: int) -> Iterator[int]:
    """Wipes verifications whose sessions have all ended, with their records, `most` a transaction; yields how many."""
    for last, until in _stretches(col(Verification.id)):
        count = most
        while count == most:
            with transaction() as session:
                is_next = select(col(Verification.id)).where(
                    col(Verification.id) > last, *until, *_old_verification(days)
                )
                locked = is_next.order_by(col(Verification.id)).limit(most).with_for_update(skip_locked=True)
                ids = session.scalars(locked).all()
                lock_records(session, col(VerificationRecord.verification_id).in_(ids))
                # Read again behind the locks: an event may have been faster.
                old = session.scalars(
                    select(col(Verification.id)).where(col(Verification.id).in_(ids), *_old_verification(days))
                )
                found = old.all()
                of_these = update(Verification).where(col(Verification.id).in_(found))
                # An opening that goes on after its lease is over loses the lease.
                session.connection().execute(
                    of_these.values(opening_until=None, **dict.fromkeys(Verification.PERSONAL))
                )
                _wipe_records(session, col(VerificationRecord.verification_id).in_(found))
            last, count = ids[-1] if ids else last, len(ids)
            yield len(found)


def wipe_records(days: timedelta, most: int) -> Iterator[int]:
    """Wipes records of no verification, or of a wiped one, `most` a transaction; yields how many."""
    held = exists().where(_THEIRS, col(Verification.client_reference_id).is_not(None))
    old = (
        select(col(VerificationRecord.session_id))
        .where(~_is_kept(days), col(VerificationRecord.wiped_at).is_(None), ~held)
        # The records of redacted persons are wiped already.
        .where(col(VerificationRecord.redacted_at).is_(None), col(VerificationRecord.redaction_asked_at).is_(None))
        .order_by(col(VerificationRecord.session_id))
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    for last, until in _stretches(col(VerificationRecord.session_id)):
        count = most
        while count == most:
            with transaction() as session:
                ids = session.scalars(old.where(col(VerificationRecord.session_id) > last, *until)).all()
                _wipe_records(session, col(VerificationRecord.session_id).in_(ids))
            last, count = ids[-1] if ids else last, len(ids)
            yield count


def _stretches(key: Any) -> Iterator[tuple[str, list[ColumnElement[bool]]]]:
    """The table's rows in stretches: the key before each, and the condition of its end.

    A statement that reads all rows, and finds none to wipe, would meet its timeout one day.
    """
    last: str | None = ""
    while last is not None:
        with statement() as connection:
            end = connection.scalar(select(key).where(key > last).order_by(key).offset(_LOOKED_THROUGH).limit(1))
        yield last, [key <= end] if end else []
        last = end


def _old_verification(days: timedelta) -> tuple[ColumnElement[bool], ...]:
    return (
        col(Verification.client_reference_id).is_not(None),
        col(Verification.updated_at) < now(-days),
        or_(col(Verification.opening_until).is_(None), col(Verification.opening_until) < now()),
        ~exists().where(_THEIRS, _is_kept(days)),
    )


def _is_kept(days: timedelta) -> ColumnElement[bool]:
    """The condition to keep a record: it is young, or open and may go on, or owes an action that needs its data."""
    is_owed = exists().where(
        col(OutboxAction.session_id) == col(VerificationRecord.session_id),
        status_of(OutboxAction) == ActionStatus.PENDING,
    )
    has_ended = col(VerificationRecord.status).in_(ENDED)
    return or_(
        col(VerificationRecord.status).is_(None), ~has_ended, col(VerificationRecord.updated_at) >= now(-days), is_owed
    )


def _wipe_records(session: Session, *which: Any) -> None:
    wiped = (
        update(VerificationRecord).where(*which).values(wiped_at=now(), **dict.fromkeys(VerificationRecord.PERSONAL))
    )
    wipe_events(session, session.scalars(wiped.returning(col(VerificationRecord.session_id))).all())
