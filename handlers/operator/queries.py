"""An operator's questions to the tables: how much waits, what happened, which rows. Reads only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, exists, func, literal, or_, select, text, tuple_
from sqlmodel import Session, col

from config.database import now, reading, transaction
from handlers.owed.kinds import FORGETTING
from handlers.queue.claims import QUEUES, Table
from handlers.record.events import Status
from handlers.tables.models import ActionStatus, InboxEvent, OutboxAction, Verification, VerificationRecord

OVERDUE_AFTER = timedelta(days=1)  # then somebody must look, whatever the row waits for
MOST_COUNTED = 1000  # rows of one kind are counted; one more says that there are more
RECORDS = 10_000  # sessions, the latest
_NOT_REDACTED_AFTER = timedelta(days=5)  # Stripe takes up to four
_OVERDUE_SHOWN = 20
# PostgreSQL believes its statistics, and sorts the whole of a table that was empty a moment ago.
# A look waits for no lock for long.
_NO_SORTS = text(
    "SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),"
    " set_config('lock_timeout', '2s', true)"
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unfinished rows of one table: up to MOST are counted, and one more stands for all above. The age is exact, in
    seconds since the row was received or owed.
    """

    waiting: int
    due: int
    dead: int
    oldest_seconds: float
    overdue: int  # the waiting rows of more than a day


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """The conditions for rows: every one that is set must hold. `kind` is an event's type, whole or its last word, or
    an action's name; `error` is a part of last_error, or of the reason why an action was skipped."""

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
    """The conditions for sessions: every one that is set must hold; ages count from the first word of a session."""

    status: str | None = None
    error_code: str | None = None
    purpose: str | None = None
    since: datetime | timedelta | None = None  # or so long ago
    older: timedelta | None = None


def backlogs() -> dict[str, Backlog]:
    """The backlogs of events and actions: read from the partial indexes alone, and no further than MOST, so that the
    cost is the same however much waits.
    """
    asked = [question for table in QUEUES.values() for question in _of_backlog(table)]
    with by_indexes() as session:
        at, *found = session.execute(select(now(), *asked)).one()
    size = len(found) // len(QUEUES)
    return {name: _backlog(at, *found[number * size : (number + 1) * size]) for number, name in enumerate(QUEUES)}


def oldest_waiting(table: Table) -> InboxEvent | OutboxAction | None:
    """The unfinished row that has waited for longest."""
    oldest = select(table).where(col(table.status) == table.UNFINISHED).order_by(col(getattr(table, table.SINCE)))
    with by_indexes() as session:
        return cast(InboxEvent | OutboxAction | None, session.scalars(oldest.limit(1)).first())


def records_by_status() -> dict[str, int]:
    """The number of the latest RECORDS sessions by status; `unknown` are those we have only heard of."""
    order = (col(VerificationRecord.created_at).desc(), col(VerificationRecord.session_id).desc())
    latest = select(col(VerificationRecord.status)).order_by(*order).limit(RECORDS).subquery()
    with by_indexes() as session:
        rows = session.execute(select(latest.c.status, func.count()).group_by(latest.c.status))
        counts = {row[0]: row[1] for row in rows}
    return {str(status) if status else "unknown": counts.get(status, 0) for status in (*Status, None)}


def at_most(count: int) -> str:
    """A count in words."""
    return f"more than {MOST_COUNTED:,}" if count > MOST_COUNTED else str(count)


def find_events(wanted: Filter, limit: int | None) -> list[InboxEvent]:
    """The latest events that match, newest first."""
    statement = _chosen(select(InboxEvent), InboxEvent, wanted)
    with reading() as session:
        return list(session.scalars(statement.order_by(col(InboxEvent.received_at).desc()).limit(limit)))


def find_actions(wanted: Filter, limit: int | None, after: int | None = None) -> list[OutboxAction]:
    """The latest actions that match, newest first; with `after`, those that follow the last one of a page before."""
    statement = _chosen(select(OutboxAction), OutboxAction, wanted)
    if after is not None:
        statement = statement.where(col(OutboxAction.id) < after)
    with reading() as session:
        return list(session.scalars(statement.order_by(col(OutboxAction.id).desc()).limit(limit)))


def find_sessions(wanted: SessionFilter, limit: int, after: str | None = None) -> Sequence[VerificationRecord]:
    """The latest sessions that match, newest first; with `after`, those that follow the last one of a page before."""
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
    with reading() as session:
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
    """The sessions whose redaction was asked for days ago, and is not done at Stripe, the longest wait first; but for
    those that Stripe does not have, or that an operator has discarded; MOST + 1 of them at most.
    """
    asked_at = col(VerificationRecord.redaction_asked_at)
    is_ended = exists().where(
        col(OutboxAction.session_id) == col(VerificationRecord.session_id),
        col(OutboxAction.name).in_(FORGETTING),
        col(OutboxAction.status) == ActionStatus.SKIPPED,
    )
    late = select(VerificationRecord).where(
        asked_at < now(-_NOT_REDACTED_AFTER), col(VerificationRecord.redacted_at).is_(None), ~is_ended
    )
    with reading() as session:
        return list(session.scalars(late.order_by(asked_at).limit(MOST_COUNTED + 1)))


def find_records(word: str, limit: int | None = None) -> list[VerificationRecord]:
    """The record of a session id; else those of a verification, user id or client_reference_id, latest first."""
    with transaction() as session:
        record = session.get(VerificationRecord, word)
        if record:
            return [record]
        names = (VerificationRecord.user_id, VerificationRecord.client_reference_id, VerificationRecord.verification_id)
        is_theirs = or_(*(col(name) == word for name in names))
        newest_first = col(VerificationRecord.created_at).desc()
        return list(session.scalars(select(VerificationRecord).where(is_theirs).order_by(newest_first).limit(limit)))


def named(text: str) -> tuple[Table, Any]:
    """The table and the id that a text names: a number is an action's."""
    number = OutboxAction.id_of(text)
    return (InboxEvent, text) if number is None else (OutboxAction, number)


def conditions(table: Table, wanted: Filter) -> list[Any]:
    """The filter as SQL, for queries and for changes."""
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
        said = (col(getattr(table, name)) for name in table.WHY)
        found.append(or_(*(one.contains(wanted.error, autoescape=True) for one in said)))
    if wanted.since:
        found.append(getattr(table, table.SINCE) >= _moment(wanted.since))
    if wanted.older:
        found.append(getattr(table, table.SINCE) < now(-wanted.older))
    if wanted.purpose is not None:
        found.append(col(table.session_id).in_(_for_purpose(wanted.purpose)))
    return found


@contextmanager
def by_indexes() -> Iterator[Session]:
    """A transaction in which a query for a few rows in the order of an index reads no others."""
    with transaction() as session:
        if session.connection().dialect.name == "postgresql":
            session.execute(_NO_SORTS)
        yield session


def _of_backlog(table: Table) -> tuple[Any, ...]:
    waits, since = col(table.status) == table.UNFINISHED, col(getattr(table, table.SINCE))
    due_at, is_dead = col(table.due_at), col(table.status) == table.DEAD
    return (
        select(since).where(waits).order_by(since).limit(1).scalar_subquery(),
        _counted(since, waits),
        _counted(due_at, waits, due_at <= now()),
        _counted(since, is_dead),
        _counted(since, waits, since < now(-OVERDUE_AFTER)),
    )


def _backlog(at: datetime, oldest: datetime | None, waiting: int, due: int, dead: int, overdue: int) -> Backlog:
    return Backlog(waiting, due, dead, (at - oldest).total_seconds() if oldest else 0.0, overdue)


def _counted(by: Any, *conditions: ColumnElement[bool]) -> Any:
    """The number of rows that fulfil the conditions, read from an index by this column; MOST + 1 at most."""
    some = select(literal(1)).where(*conditions).order_by(by).limit(MOST_COUNTED + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _for_purpose(purpose: str) -> Select[Any]:
    """The sessions of verifications for this purpose."""
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
