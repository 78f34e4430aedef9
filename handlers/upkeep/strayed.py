"""Strayed: brings back rows that wait for longer than any row does: the database's clock was ahead, or went back."""

from datetime import timedelta

import structlog
from sqlalchemy import and_, case, or_, select, update
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.queue.claims import QUEUES, Table

log = structlog.stdlib.get_logger(__name__)

_LONGEST_WAIT = timedelta(hours=3)  # on top of the backoff: others ask for an hour, an unknown outcome for two
_ANY_LEASE = timedelta(minutes=10)  # somebody may still be at work on such a row
_BATCH = 1000  # rows a transaction, as in a purge


def bring_back() -> int:
    """Makes such rows due: one that nobody has tried now, and any other once a lease would be over; returns how many
    there were.
    """
    count = sum(_brought_back(table) for table in QUEUES.values())
    if count:
        log.warning("rows.brought_back", rows=count)
    return count


def _brought_back(table: Table) -> int:
    due_at, is_new = col(table.due_at), col(table.attempts) == 0
    # A claim clears last_error, and a putting back writes it.
    is_leased = and_(col(table.last_error).is_(None), due_at > now(_ANY_LEASE))
    waits_too_long = due_at > now(_LONGEST_WAIT + timedelta(seconds=settings().backoff_seconds))
    is_strayed = col(table.status) == table.UNFINISHED, due_at > now(), or_(is_new, is_leased, waits_too_long)
    some = select(col(table.id)).where(*is_strayed).limit(_BATCH).with_for_update(skip_locked=True)
    total, count = 0, _BATCH
    while count == _BATCH:
        with transaction() as session:
            which = col(table.id).in_(session.scalars(some).all())
            back = update(table).where(which).values(due_at=case((is_new, now()), else_=now(_ANY_LEASE)))
            count = session.connection().execute(back).rowcount
        total += count
    return total
