"""What an operator does to rows: tries dead ones again, or discards what shall never be done."""

from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, or_, update
from sqlmodel import col

from config.database import now, transaction
from handlers.operator.queries import Filter, conditions
from handlers.queue.claims import Table

log = structlog.stdlib.get_logger(__name__)


def retry_rows(table: Table, wanted: Filter) -> list[Any]:
    """Makes dead rows, and those that wait after a try, due now, all their tries before them; returns their ids."""
    # Attempts never fall, as they fence late writers; what they are worth does: tries are attempts less waits.
    again = {"status": table.UNFINISHED, "waits": table.attempts, "due_at": now(), "last_error": None}
    with transaction() as session:
        left = update(table).where(_is_left(table), *conditions(table, wanted))
        ids = list(session.scalars(left.values(again).returning(col(table.id))))
    log.info("rows.retried", table=table.__tablename__, ids=ids)
    return ids


def discard_rows(table: Table, wanted: Filter, reason: str) -> list[Any]:
    """Ends rows for good, with the reason in them: dead ones, those that wait after a try, and any that is named by its
    id; returns their ids.

    Whoever works on one of them right now loses the claim, and what it does to the database.
    """
    ended, is_open = table.discarded(f"discarded: {reason}"), col(table.status).in_((table.UNFINISHED, table.DEAD))
    with transaction() as session:
        end = update(table).where(is_open if wanted.ids else _is_left(table), *conditions(table, wanted)).values(ended)
        ids = list(session.scalars(end.returning(col(table.id))))
    log.info("rows.discarded", table=table.__tablename__, ids=ids, reason=reason)
    return ids


def _is_left(table: Table) -> ColumnElement[bool]:
    """Dead, or put back: a claim clears the error, so that nobody is at work on a row that has one."""
    # rule: what somebody works on is not made due
    waits = and_(col(table.status) == table.UNFINISHED, col(table.last_error).is_not(None))
    return or_(col(table.status) == table.DEAD, waits)
