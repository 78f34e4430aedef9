"""Wiping: RECORD_DAYS after the last that happened, a record and its verification hold nothing personal any more.

What decides stays: ids, status, order mark, causes, counts. So whatever comes late means what it would have meant.
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
    """Those whose sessions have all come to their end, with their records; so many a transaction."""
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
                # Behind the locks: an event may have been faster.
                old = session.scalars(
                    select(col(Verification.id)).where(col(Verification.id).in_(ids), *_old_verification(days))
                )
                found = old.all()
                of_these = update(Verification).where(col(Verification.id).in_(found))
                # Whoever is still at an opening whose lease is over has lost it.
                session.connection().execute(
                    of_these.values(opening_until=None, **dict.fromkeys(Verification.PERSONAL))
                )
                _wipe_records(session, col(VerificationRecord.verification_id).in_(found))
            last, count = ids[-1] if ids else last, len(ids)
            yield len(found)


def wipe_records(days: timedelta, most: int) -> Iterator[int]:
    """Those that belong to no verification, or to one that is wiped; so many a transaction."""
    held = exists().where(_THEIRS, col(Verification.client_reference_id).is_not(None))
    old = (
        select(col(VerificationRecord.session_id))
        .where(~_is_kept(days), col(VerificationRecord.wiped_at).is_(None), ~held)
        # These are wiped already.
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
    """All rows, some at a time: the key that is before them, and how far they go.

    A statement that looked through all of them, and found none, would meet its timeout one day.
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
    """An open session may be taken up again, and what is owed may need whom it is owed to."""
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
