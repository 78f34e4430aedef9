"""What an operator does to rows: tries dead ones again, or discards what shall never be done."""

from typing import Any

import structlog
from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.operator.queries import Filter, Table, conditions
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, Outcome, utc_now

log = structlog.stdlib.get_logger(__name__)

_AGAIN = {InboxEvent: InboxStatus.RECEIVED, OutboxAction: ActionStatus.PENDING}
_OPEN = {
    InboxEvent: (InboxStatus.RECEIVED, InboxStatus.DEAD),
    OutboxAction: (ActionStatus.PENDING, ActionStatus.DEAD),
}


def retry(table: Table, wanted: Filter) -> list[Any]:
    """Makes dead rows due now, with all their tries before them; returns their ids."""
    # Attempts never fall, as they fence late writers; what they are worth does: tries are attempts less waits.
    values = {"status": _AGAIN[table], "waits": table.attempts, "due_at": utc_now()}
    with transaction() as session:
        again = update(table).where(col(table.status) == "dead", *conditions(table, wanted)).values(values)
        ids = list(session.scalars(again.returning(col(table.id))))
    log.info("rows.retried", table=table.__tablename__, ids=ids)
    return ids


def discard(table: Table, wanted: Filter, reason: str) -> list[Any]:
    """Ends dead and waiting rows for good, with the reason in them; returns their ids.

    Whoever works on one of them right now loses the claim, and what it does to the database.
    """
    words = f"discarded: {reason}"
    ended: dict[str, Any] = (
        {"status": InboxStatus.PROCESSED, "outcome": Outcome.IGNORED, "last_error": words, "processed_at": utc_now()}
        if table is InboxEvent
        else {"status": ActionStatus.SKIPPED, "reason": words, "done_at": utc_now()}
    )
    with transaction() as session:
        end = update(table).where(col(table.status).in_(_OPEN[table]), *conditions(table, wanted)).values(ended)
        ids = list(session.scalars(end.returning(col(table.id))))
    log.info("rows.discarded", table=table.__tablename__, ids=ids, reason=reason)
    return ids
