"""What an operator asks the tables: how much waits, what happened, which rows. Reads only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, case, exists, func, or_, select, tuple_
from sqlmodel import col

from config.database import now, transaction
from handlers.queue.claims import Table
from handlers.record.events import Status
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, Verification, VerificationRecord

ACTION_ID = re.compile(r"\d{1,18}", re.ASCII)
OVERDUE_AFTER = timedelta(days=1)  # whatever it waits for, somebody must look
_NOT_REDACTED_AFTER = timedelta(days=5)  # Stripe takes up to four
_OVERDUE_SHOWN = 20
_LAST_ACTIONS = 20_000  # rows looked at for the rate of actions: they have no index by time


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of one table is not finished. Ages in seconds, from receipt or from being owed."""

    waiting: int
    due: int
    dead: int
    oldest_seconds: float
    overdue: int  # of those that wait, for more than a day


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which rows: every condition that is set must hold. `kind` is an event's type, whole or its last word, or an
    action's name; `error` is a part of last_error, or of the reason why an action was skipped."""

    ids: Sequence[str] | Sequence[int] = ()
    status: str | None = None
    outcome: str | None = None  # of an event
    kind: str | None = None
    session_id: str | None = None
    error: str | None = None
    since: datetime | timedelta | None = None  # or so long ago
    older: timedelta | None = None  # than that
    purpose: str | None = None  # of the verification


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFilter:
    """Which sessions: every condition that is set must hold; ages count from when a session was first heard of."""

    status: str | None = None
    error_code: str | None = None
    purpose: str | None = None
    since: datetime | timedelta | None = None  # or so long ago
    older: timedelta | None = None


def backlog_of(table: Table) -> Backlog:
    """Read from the partial indexes alone, so cheap however much is kept."""
    waits = col(table.status) == table.UNFINISHED
    since = getattr(table, table.SINCE)
    with transaction() as session:
        waiting, oldest, overdue, due, dead, at = session.execute(
            select(
                func.count(),
                func.min(since),
                func.count(case((since < now(-OVERDUE_AFTER), 1))),
                select(func.count()).where(waits, col(table.due_at) <= now()).scalar_subquery(),
                select(func.count()).where(col(table.status) == table.DEAD).scalar_subquery(),
                now(),
            ).where(waits)
        ).one()
    return Backlog(waiting, due, dead, (at - oldest).total_seconds() if oldest else 0.0, overdue)


def rates(span: timedelta) -> dict[str, int]:
    """How many events were received and processed, and how many actions ended, within the span."""
    start = now(-span)
    received = select(func.count()).where(col(InboxEvent.received_at) > start)
    is_done = col(InboxEvent.status) == InboxStatus.PROCESSED  # so that the partial index serves
    processed = select(func.count()).where(is_done, col(InboxEvent.processed_at) > start)
    latest = select(col(OutboxAction.done_at)).order_by(col(OutboxAction.id).desc()).limit(_LAST_ACTIONS).subquery()
    done = select(func.count()).where(latest.c.done_at > start)
    counts = {"events_received": received, "events_processed": processed, "actions_ended": done}
    with transaction() as session:
        row = session.execute(select(*(count.scalar_subquery() for count in counts.values()))).one()
    return dict(zip(counts, row, strict=True))


def records_by_status() -> dict[str, int]:
    """How many sessions stand where; `unknown` are those we have only heard of."""
    grouped = select(col(VerificationRecord.status), func.count()).group_by(col(VerificationRecord.status))
    with transaction() as session:
        counts = {row[0]: row[1] for row in session.execute(grouped)}
    return {str(status) if status else "unknown": counts.get(status, 0) for status in (*Status, None)}


def find_events(wanted: Filter, limit: int | None) -> list[InboxEvent]:
    """The latest events that match, newest first."""
    statement = _chosen(select(InboxEvent), InboxEvent, wanted)
    with transaction() as session:
        return list(session.scalars(statement.order_by(col(InboxEvent.received_at).desc()).limit(limit)))


def find_actions(wanted: Filter, limit: int | None, after: int | None = None) -> list[OutboxAction]:
    """The latest actions that match, newest first; those that come after one of a page before."""
    statement = _chosen(select(OutboxAction), OutboxAction, wanted)
    if after is not None:
        statement = statement.where(col(OutboxAction.id) < after)
    with transaction() as session:
        return list(session.scalars(statement.order_by(col(OutboxAction.id).desc()).limit(limit)))


def find_sessions(wanted: SessionFilter, limit: int, after: str | None = None) -> Sequence[VerificationRecord]:
    """The latest sessions that match, newest first; those that come after one of a page before."""
    created_at, session_id = col(VerificationRecord.created_at), col(VerificationRecord.session_id)
    statement = select(VerificationRecord).order_by(created_at.desc(), session_id.desc()).limit(limit)
    if wanted.status:
        statement = statement.where(col(VerificationRecord.status) == wanted.status)
    if wanted.error_code:
        statement = statement.where(col(VerificationRecord.last_error_code) == wanted.error_code)
    if wanted.purpose is not None:
        statement = statement.where(session_id.in_(_for_purpose(wanted.purpose)))
    if wanted.since:
        statement = statement.where(created_at >= _moment(wanted.since))
    if wanted.older:
        statement = statement.where(created_at < now(-wanted.older))
    with transaction() as session:
        if after is not None:
            last = session.get(VerificationRecord, after)
            if last is None:
                return []
            statement = statement.where(tuple_(created_at, session_id) < (last.created_at, last.session_id))
        return session.scalars(statement).all()


def overdue() -> tuple[list[InboxEvent], list[OutboxAction]]:
    """The events and the actions that have waited for more than a day, some of each."""
    return (
        find_events(Filter(status=InboxEvent.UNFINISHED, older=OVERDUE_AFTER), _OVERDUE_SHOWN),
        find_actions(Filter(status=OutboxAction.UNFINISHED, older=OVERDUE_AFTER), _OVERDUE_SHOWN),
    )


def not_redacted() -> list[VerificationRecord]:
    """The sessions that somebody has asked days ago to have redacted, and Stripe has not, for longest first; but for
    those that it does not have, or that an operator has discarded.
    """
    asked_at = col(VerificationRecord.redaction_asked_at)
    is_ended = exists().where(
        col(OutboxAction.session_id) == col(VerificationRecord.session_id),
        col(OutboxAction.name) == "redact_session",
        col(OutboxAction.status) == ActionStatus.SKIPPED,
    )
    late = select(VerificationRecord).where(
        asked_at < now(-_NOT_REDACTED_AFTER), col(VerificationRecord.redacted_at).is_(None), ~is_ended
    )
    with transaction() as session:
        return list(session.scalars(late.order_by(asked_at)))


def find_records(word: str) -> list[VerificationRecord]:
    """The record of a session id; else those of a verification, user id or client_reference_id, latest first."""
    with transaction() as session:
        record = session.get(VerificationRecord, word)
        if record:
            return [record]
        names = (VerificationRecord.user_id, VerificationRecord.client_reference_id, VerificationRecord.verification_id)
        is_theirs = or_(*(col(name) == word for name in names))
        newest_first = col(VerificationRecord.created_at).desc()
        return list(session.scalars(select(VerificationRecord).where(is_theirs).order_by(newest_first)))


def conditions(table: Table, wanted: Filter) -> list[Any]:
    """The filter as SQL, for whoever reads or mends."""
    kind = getattr(table, table.KIND)
    found: list[Any] = []
    if wanted.ids:
        found.append(col(table.id).in_(wanted.ids))
    if wanted.status:
        found.append(col(table.status) == wanted.status)
    if wanted.outcome:
        found.append(col(InboxEvent.outcome) == wanted.outcome)
    if wanted.kind:
        found.append(or_(col(kind) == wanted.kind, col(kind).endswith(f".{wanted.kind}", autoescape=True)))
    if wanted.session_id:
        found.append(col(table.session_id) == wanted.session_id)
    if wanted.error:
        is_action = table is OutboxAction
        said = func.coalesce(col(OutboxAction.reason), col(table.last_error)) if is_action else col(table.last_error)
        found.append(cast(ColumnElement[str], said).contains(wanted.error, autoescape=True))
    if wanted.since:
        found.append(getattr(table, table.SINCE) >= _moment(wanted.since))
    if wanted.older:
        found.append(getattr(table, table.SINCE) < now(-wanted.older))
    if wanted.purpose is not None:
        found.append(col(table.session_id).in_(_for_purpose(wanted.purpose)))
    return found


def _for_purpose(purpose: str) -> Select[Any]:
    """The sessions of verifications for it."""
    theirs = col(Verification.id) == col(VerificationRecord.verification_id)
    return (
        select(col(VerificationRecord.session_id))
        .join(Verification, theirs)
        .where(col(Verification.purpose) == purpose)
    )


def _moment(since: datetime | timedelta) -> Any:
    return now(-since) if isinstance(since, timedelta) else since


def _chosen(statement: Select[Any], table: Table, wanted: Filter) -> Select[Any]:
    return statement.where(*conditions(table, wanted))
