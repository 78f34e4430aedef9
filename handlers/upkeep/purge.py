"""Retention: deletes events and actions that ended long ago, in small batches that lock nobody out.

Records and submissions stay: they keep a late duplicate of a purged event from doing any harm. So do the finished
actions that an old event would owe again (an alert, a cancellation); they are few and name no person. RECORD_DAYS, if
it is set, wipes the personal data of records, and AUDIT_DAYS deletes old rows of the audit.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlmodel import Session, SQLModel, col

from config.database import measure_clock, now, transaction
from config.settings import settings
from handlers.metrics import tallies
from handlers.metrics.heartbeats import MOST_APART
from handlers.owed.kinds import KINDS
from handlers.tables.models import (
    ActionStatus,
    Audited,
    Heartbeat,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    ProcessClock,
    VerifiedOutput,
)
from handlers.upkeep.wipe import wipe_records, wipe_verifications

log = structlog.stdlib.get_logger(__name__)

BATCH = 1000  # rows a transaction: some ten milliseconds, which is how long SQLite's one writer keeps others waiting
_KEPT = [name for name, kind in KINDS.items() if kind.kept_by_purge]


@dataclass(slots=True)
class Purged:
    """The numbers of deleted rows; records and verifications are wiped of personal data, and stay."""

    events: int = 0
    actions: int = 0
    outputs: int = 0
    records: int = 0
    verifications: int = 0
    audited: int = 0


class WrongClockError(Exception):
    """This machine's clock and the database's disagree, so nothing may be deleted."""


def purge() -> Purged:
    """Deletes or wipes rows that RETENTION_DAYS, VERIFIED_OUTPUTS_DAYS, RECORD_DAYS and AUDIT_DAYS let go, by the
    database's clock.

    May run several times at once, and be cut off. Raises WrongClockError where the two clocks are minutes apart.
    """
    # rule: nothing is deleted while two clocks disagree
    if abs(ahead := measure_clock()) > MOST_APART:
        raise WrongClockError(f"Nothing is deleted: the clocks here and of the database are {abs(ahead):.0f} s apart")
    days = timedelta(days=settings().retention_days)
    purged = Purged(
        events=sum(_purge_events(days)),
        actions=sum(_purge_actions(days)),
        outputs=_purge_older(VerifiedOutput, "fetched_at", timedelta(days=settings().verified_outputs_days)),
        audited=_purge_older(Audited, "at", timedelta(days=settings().audit_days)),
    )
    if settings().record_days:
        long_ago = timedelta(days=settings().record_days)
        purged.verifications = sum(wipe_verifications(long_ago, BATCH))
        purged.records = sum(wipe_records(long_ago, BATCH))
    _purge_older(ProcessClock, "measured_at", timedelta(days=1))
    _purge_older(Heartbeat, "last_at", timedelta(days=1))
    tallies.forget_old_tallies()
    log.info("purge.ended", **asdict(purged))
    return purged


def _purge_events(days: timedelta) -> Iterator[int]:
    # Each of the two statements reads an index of its own, oldest first.
    finished = col(InboxEvent.status) == InboxStatus.PROCESSED, col(InboxEvent.processed_at) < now(-days)
    yield from _delete_events(*finished, oldest=col(InboxEvent.processed_at))
    dead = col(InboxEvent.status) == InboxStatus.DEAD, col(InboxEvent.received_at) < now(-2 * days)
    yield from _delete_events(*dead, oldest=col(InboxEvent.received_at))


def _delete_events(*conditions: ColumnElement[bool], oldest: Any) -> Iterator[int]:
    gone = select(col(InboxEvent.id)).where(*conditions).order_by(oldest).limit(BATCH).with_for_update(skip_locked=True)
    count = BATCH
    while count == BATCH:
        with transaction() as session:
            statement = delete(InboxEvent).where(col(InboxEvent.id).in_(session.scalars(gone).all()))
            count = session.connection().execute(statement).rowcount
        yield count


def _purge_actions(days: timedelta) -> Iterator[int]:
    # Ids grow with time: a walk along the primary key, up to the first young row, needs no further index.
    last, is_old = 0, True
    while is_old:
        with transaction() as session:
            rows = session.execute(
                select(col(OutboxAction.id), (col(OutboxAction.created_at) < now(-days)).label("is_old"))
                .where(col(OutboxAction.id) > last)
                .order_by(col(OutboxAction.id))
                .limit(BATCH)
            ).all()
            if rows:
                last = rows[-1].id
                yield _delete_actions(session, [row.id for row in rows], days)
            is_old = len(rows) == BATCH and rows[-1].is_old


def _delete_actions(session: Session, ids: list[int], days: timedelta) -> int:
    finished = and_(
        col(OutboxAction.status).in_((ActionStatus.DONE, ActionStatus.SKIPPED)),
        col(OutboxAction.done_at) < now(-days),
        # rule: the purge keeps an action that an old event would owe again
        col(OutboxAction.name).not_in(_KEPT),
    )
    dead = and_(col(OutboxAction.status) == ActionStatus.DEAD, col(OutboxAction.created_at) < now(-2 * days))
    statement = delete(OutboxAction).where(col(OutboxAction.id).in_(ids), or_(finished, dead))
    return session.connection().execute(statement).rowcount


def _purge_older(table: type[SQLModel], moment: str, days: timedelta) -> int:
    """Deletes the old rows of a small table at once; returns how many."""
    with transaction() as session:
        return session.connection().execute(delete(table).where(getattr(table, moment) < now(-days))).rowcount
