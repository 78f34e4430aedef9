"""Where events enter the inbox: all that a web process needs of it, without what processing and actions weigh."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlmodel import col

from config import inserts
from config.database import statement
from handlers.record.events import SessionState, VerificationEvent
from handlers.tables.models import InboxEvent, InboxStatus, utc_now


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch: ids that are new, and ids known but not processed yet. All others are done duplicates."""

    accepted: frozenset[str]
    unprocessed: frozenset[str]
    duplicates: int = 0


def receive(events: Sequence[VerificationEvent], *, quiet: bool = False) -> Receipt:
    """Stores a batch in one statement, ignoring what is known. If it raises, none is stored.

    What quiet events owe is written down as skipped.
    """
    if not events:
        return Receipt(frozenset(), frozenset())
    with statement() as connection:
        insert, rows = insertion(connection.dialect.name, events, quiet=quiet)
        accepted = frozenset(connection.exec_driver_sql(insert, (rows,)).scalars())
    unprocessed = _unprocessed({event.id for event in events} - accepted)
    return Receipt(accepted, unprocessed, len(events) - len(accepted))


def insertion(dialect: str, events: Sequence[VerificationEvent], *, quiet: bool = False) -> tuple[str, str]:
    """The statement that stores a batch and answers the new ones' ids, and its parameter."""
    now = utc_now()
    distinct = {event.id: event for event in events}
    in_order = sorted(distinct)  # one order for all writers: no deadlock
    rows = [_row(distinct[event_id], now, quiet=quiet) for event_id in in_order]
    return inserts.insertion(dialect, InboxEvent, rows, on_conflict="DO NOTHING", returning="id")


def _row(event: VerificationEvent, now: datetime, *, quiet: bool) -> dict[str, Any]:
    state = event.state or SessionState(status=None)
    return {
        "id": event.id,
        "type": event.type,
        "session_id": event.session_id,
        "account": event.account,
        "livemode": event.livemode,
        "created_at": event.created_at,
        "received_at": now,
        "status": InboxStatus.RECEIVED,
        "attempts": 0,
        "waits": 0,
        "due_at": now,
        "quiet": quiet,
        "session_status": state.status,
        "error_code": state.error_code,
        "error_reason": state.error_reason,
        "report_id": state.report_id,
        "client_reference_id": state.client_reference_id,
        "user_id": state.user_id,
        "has_flow": state.has_flow,
        "redaction": state.redaction,
    }


def _unprocessed(event_ids: set[str]) -> frozenset[str]:
    if not event_ids:
        return frozenset()
    waiting = col(InboxEvent.status) == InboxStatus.RECEIVED
    known = select(col(InboxEvent.id)).where(col(InboxEvent.id).in_(event_ids), waiting)
    with statement() as connection:
        return frozenset(connection.scalars(known))
