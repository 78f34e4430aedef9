"""The rows of events: stored in the inbox, and read back from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from config import inserts
from config.database import statement
from handlers.record.decide import Outcome
from handlers.record.events import SessionState, VerificationEvent
from handlers.tables.models import InboxEvent, InboxStatus

# The fields that an event and its row name alike; a thin notification has no values in the state's columns.
_EVENT = ("id", "type", "session_id", "account", "livemode", "created_at", "is_ours")
_STATE: tuple[str, ...] = (
    "error_code",
    "error_reason",
    "report_id",
    "client_reference_id",
    "user_id",
    "has_flow",
    "redaction",
)
_STATE += ("verification_id", "generation")

# The status is written as in handlers.tables.models.status_of.
_UNPROCESSED = {
    "postgresql": "SELECT id FROM inbox_event WHERE id = ANY(ARRAY(SELECT json_array_elements_text(%s)))"
    " AND coalesce(status, '') = 'received'",
    "sqlite": "SELECT id FROM inbox_event WHERE id IN (SELECT value FROM json_each(?))"
    " AND coalesce(status, '') = 'received'",
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of a batch: the ids of new events, and of known ones that are not processed yet. All others are
    duplicates of processed events, or ignored."""

    accepted: frozenset[str]
    unprocessed: frozenset[str]
    duplicates: int = 0


def receive(events: Sequence[VerificationEvent], *, owes_nothing: bool = False) -> Receipt:
    """Stores the new events of a batch, in one statement for the ignored ones and one for the others.

    If a statement raises, it stores none. With `owes_nothing`, the events' actions are written down as skipped.
    """
    ignored, ours = [event for event in events if event.ignored], [event for event in events if not event.ignored]
    accepted = frozenset[str]()
    for some in filter(None, (ignored, ours)):
        with statement() as connection:
            insert, rows = storing(connection.dialect.name, some, owes_nothing=owes_nothing)
            accepted = frozenset(connection.exec_driver_sql(insert, (rows,)).scalars())
    if not ours:
        return Receipt(frozenset(), frozenset())
    known = {event.id for event in ours} - accepted
    left = frozenset[str]()
    if known:
        with statement() as connection:
            select, ids = unprocessed(connection.dialect.name, known)
            left = frozenset(connection.exec_driver_sql(select, (ids,)).scalars())
    return Receipt(accepted, left, len(ours) - len(accepted))


def storing(dialect: str, events: Sequence[VerificationEvent], *, owes_nothing: bool = False) -> tuple[str, str]:
    """The statement that stores a batch and returns new events' ids, and its parameter; all are ignored, or none."""
    distinct = {event.id: event for event in events}
    in_order = sorted(distinct)  # one order for all writers: no deadlock
    rows = [_event_row(distinct[event_id], owes_nothing=owes_nothing) for event_id in in_order]
    # rule: an event is kept once, by its id
    return inserts.insertion(dialect, InboxEvent, rows, on_conflict="DO NOTHING", returning="id")


def unprocessed(dialect: str, event_ids: Iterable[str]) -> tuple[str, str]:
    """The statement that selects those of these events that are not processed yet, and its parameter."""
    return _UNPROCESSED[dialect], orjson.dumps(sorted(event_ids)).decode()


def event_in(row: Any) -> VerificationEvent:
    """The event of a row."""
    fields = {name: getattr(row, name) for name in _EVENT}
    is_thin = row.type.startswith("v1.")
    state = SessionState(status=row.session_status, **{name: getattr(row, name) for name in _STATE})
    return VerificationEvent(**fields, state=None if is_thin else state)


def _event_row(event: VerificationEvent, *, owes_nothing: bool) -> dict[str, Any]:
    state = event.state or SessionState(status=None)
    end = {"status": InboxStatus.PROCESSED, "outcome": Outcome.IGNORED, "processed_at": inserts.NOW}
    return {
        **{name: getattr(event, name) for name in _EVENT},
        **{name: getattr(state, name) for name in _STATE},
        "session_status": state.status,
        "received_at": inserts.NOW,
        "last_error": event.ignored,
        **(end if event.ignored else {"status": InboxStatus.RECEIVED}),
        "attempts": 0,
        "waits": 0,
        "due_at": inserts.NOW,
        "owes_nothing": owes_nothing,
    }
