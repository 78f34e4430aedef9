"""What an operator does to rows: tries dead ones again, or discards what shall never be done."""

from typing import Any

import structlog
from sqlalchemy import update
from sqlmodel import col

from config.database import now, transaction
from handlers.operator.queries import Filter, conditions
from handlers.queue.claims import Table

log = structlog.stdlib.get_logger(__name__)


def retry_rows(table: Table, wanted: Filter) -> list[Any]:
    """Makes dead rows due now, with all their tries before them; returns their ids."""
    # Attempts never fall, as they fence late writers; what they are worth does: tries are attempts less waits.
    values = {"status": table.UNFINISHED, "waits": table.attempts, "due_at": now()}
    with transaction() as session:
        again = update(table).where(col(table.status) == table.DEAD, *conditions(table, wanted)).values(values)
        ids = list(session.scalars(again.returning(col(table.id))))
    log.info("rows.retried", table=table.__tablename__, ids=ids)
    return ids


def discard_rows(table: Table, wanted: Filter, reason: str) -> list[Any]:
    """Ends dead and waiting rows for good, with the reason in them; returns their ids.

    Whoever works on one of them right now loses the claim, and what it does to the database.
    """
    ended, is_open = table.discarded(f"discarded: {reason}"), col(table.status).in_((table.UNFINISHED, table.DEAD))
    with transaction() as session:
        end = update(table).where(is_open, *conditions(table, wanted)).values(ended)
        ids = list(session.scalars(end.returning(col(table.id))))
    log.info("rows.discarded", table=table.__tablename__, ids=ids, reason=reason)
    return ids
