"""Strayed: brings back the rows whose time of waiting the database's clock has put days ahead while it was wrong."""

from datetime import timedelta

import structlog
from sqlalchemy import select, update
from sqlmodel import col

from config.database import now, transaction
from handlers.queue.claims import Table
from handlers.tables.models import InboxEvent, OutboxAction

log = structlog.stdlib.get_logger(__name__)

_LONGEST_WAIT = timedelta(days=2)  # BACKOFF_SECONDS is a day at most, and others ask for hours
_ANY_LEASE = timedelta(minutes=10)  # somebody may still be at work on such a row
_BATCH = 1000  # rows a transaction, as in a purge


def bring_back() -> int:
    """Makes such rows due once any lease of theirs is over; returns how many there were."""
    count = sum(_brought_back(table) for table in (InboxEvent, OutboxAction))
    if count:
        log.warning("rows.brought_back", rows=count)
    return count


def _brought_back(table: Table) -> int:
    is_strayed = col(table.status) == table.UNFINISHED, col(table.due_at) > now(_LONGEST_WAIT)
    some = select(col(table.id)).where(*is_strayed).limit(_BATCH).with_for_update(skip_locked=True)
    total, count = 0, _BATCH
    while count == _BATCH:
        with transaction() as session:
            back = update(table).where(col(table.id).in_(session.scalars(some).all())).values(due_at=now(_ANY_LEASE))
            count = session.connection().execute(back).rowcount
        total += count
    return total
