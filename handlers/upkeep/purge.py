"""Retention: what has been done long ago goes, in small batches that lock nobody out.

Records and submissions stay: they are what keeps a late duplicate of a purged event from doing any harm. So do those
finished actions that an old event would owe again (an alert, a cancellation); they are few and name no person.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlmodel import Session, col

from config.database import transaction
from config.settings import settings
from handlers.owed.kinds import KINDS
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, VerifiedOutput

log = structlog.stdlib.get_logger(__name__)

BATCH = 1000  # rows a transaction: some ten milliseconds, which is how long SQLite's one writer keeps others waiting
_KEPT = [name for name, kind in KINDS.items() if kind.kept_by_purge]


@dataclass(slots=True)
class Purged:
    """How many rows went."""

    events: int = 0
    actions: int = 0
    outputs: int = 0


def purge() -> Purged:
    """Deletes what RETENTION_DAYS and VERIFIED_OUTPUTS_DAYS let go. May run several times at once, and be cut off."""
    days = timedelta(days=settings().retention_days)
    finished_before, dead_before = datetime.now(UTC) - days, datetime.now(UTC) - 2 * days
    purged = Purged(
        events=sum(_purge_events(finished_before, dead_before)),
        actions=sum(_purge_actions(finished_before, dead_before)),
        outputs=_purge_outputs(datetime.now(UTC) - timedelta(days=settings().verified_outputs_days)),
    )
    log.info("purge.ended", events=purged.events, actions=purged.actions, outputs=purged.outputs)
    return purged


def _purge_events(finished_before: datetime, dead_before: datetime) -> Iterator[int]:
    # Each of the two reads an index of its own, oldest first.
    finished = col(InboxEvent.status) == InboxStatus.PROCESSED, col(InboxEvent.processed_at) < finished_before
    yield from _delete_events(*finished, oldest=col(InboxEvent.processed_at))
    dead = col(InboxEvent.status) == InboxStatus.DEAD, col(InboxEvent.received_at) < dead_before
    yield from _delete_events(*dead, oldest=col(InboxEvent.received_at))


def _delete_events(*conditions: ColumnElement[bool], oldest: Any) -> Iterator[int]:
    gone = select(col(InboxEvent.id)).where(*conditions).order_by(oldest).limit(BATCH).with_for_update(skip_locked=True)
    count = BATCH
    while count == BATCH:
        with transaction() as session:
            statement = delete(InboxEvent).where(col(InboxEvent.id).in_(session.scalars(gone).all()))
            count = session.connection().execute(statement).rowcount
        yield count


def _purge_actions(finished_before: datetime, dead_before: datetime) -> Iterator[int]:
    # Ids grow with time: a walk along the primary key, up to the first young row, needs no further index.
    last, is_old = 0, True
    while is_old:
        with transaction() as session:
            rows = session.execute(
                select(col(OutboxAction.id), col(OutboxAction.created_at))
                .where(col(OutboxAction.id) > last)
                .order_by(col(OutboxAction.id))
                .limit(BATCH)
            ).all()
            if rows:
                last = rows[-1].id
                yield _delete_actions(session, [row.id for row in rows], finished_before, dead_before)
            is_old = len(rows) == BATCH and rows[-1].created_at < finished_before


def _delete_actions(session: Session, ids: list[int], finished_before: datetime, dead_before: datetime) -> int:
    finished = and_(
        col(OutboxAction.status).in_((ActionStatus.DONE, ActionStatus.SKIPPED)),
        col(OutboxAction.done_at) < finished_before,
        # rule: the purge keeps what an old event would owe again
        col(OutboxAction.name).not_in(_KEPT),
    )
    dead = and_(col(OutboxAction.status) == ActionStatus.DEAD, col(OutboxAction.created_at) < dead_before)
    statement = delete(OutboxAction).where(col(OutboxAction.id).in_(ids), or_(finished, dead))
    return session.connection().execute(statement).rowcount


def _purge_outputs(before: datetime) -> int:
    with transaction() as session:
        statement = delete(VerifiedOutput).where(col(VerifiedOutput.fetched_at) < before)
        return session.connection().execute(statement).rowcount
