"""Short words for tests about the tables: events put in, rows read out, time moved by writing it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from config.database import database_now, transaction
from config.version import running_version
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.perform import end_actions
from handlers.queue.claims import Claim, claim, due
from handlers.record.events import VerificationEvent
from handlers.tables.models import Heartbeat, InboxEvent, OutboxAction, Submission, VerificationRecord
from tests.support import shapes

NOON = 1_794_830_400


def payload(kind: str, at: int = NOON, session_id: str = "vs_1", event_id: str = "", **fields: Any) -> dict[str, Any]:
    """A snapshot event's JSON; its id is made from its kind and session, unless one is given."""
    status = {"created": "requires_input", "redacted": fields.pop("status", "verified")}.get(kind, kind)
    about = shapes.session(session_id, status, **fields)
    return shapes.event(event_id or f"evt_{session_id}_{kind}_{at}", kind, at, about)


def event(kind: str, at: int = NOON, session_id: str = "vs_1", event_id: str = "", **fields: Any) -> VerificationEvent:
    """A snapshot event, parsed."""
    return shapes.parsed(payload(kind, at, session_id, event_id, **fields))


def thin(kind: str, at: int = NOON, session_id: str = "vs_1", event_id: str = "evt_thin") -> VerificationEvent:
    """A thin notification, parsed."""
    created = datetime.fromtimestamp(at, UTC).isoformat()
    return shapes.parsed(shapes.thin(event_id, kind, created, session_id))


def applied(*events: VerificationEvent) -> list[int]:
    """Receives and processes events one after the other; returns the ids of the actions owed now."""
    owed: list[int] = []
    for one in events:
        receive([one])
        owed += process([one.id])
    return owed


def event_row(event_id: str) -> InboxEvent:
    """The row of an event."""
    with transaction() as session:
        return session.get_one(InboxEvent, event_id)


def event_rows(session_id: str = "vs_1") -> list[InboxEvent]:
    """All events of a session."""
    with transaction() as session:
        return list(session.exec(select(InboxEvent).where(InboxEvent.session_id == session_id)).all())


def record(session_id: str = "vs_1") -> VerificationRecord:
    """The record of a session."""
    with transaction() as session:
        return session.get_one(VerificationRecord, session_id)


def count_records() -> int:
    """The number of records."""
    with transaction() as session:
        return len(session.exec(select(VerificationRecord)).all())


def actions(session_id: str = "vs_1") -> list[OutboxAction]:
    """All actions of a session, in the order in which they were written down."""
    statement = select(OutboxAction).where(OutboxAction.session_id == session_id).order_by(col(OutboxAction.id))
    with transaction() as session:
        return list(session.exec(statement).all())


def action(action_id: int) -> OutboxAction:
    """The row of an action."""
    with transaction() as session:
        return session.get_one(OutboxAction, action_id)


def reports(session_id: str = "vs_1") -> set[str]:
    """The reports of a session that count as submissions."""
    with transaction() as session:
        return set(session.exec(select(Submission.report_id).where(Submission.session_id == session_id)).all())


def due_actions() -> list[int]:
    """The ids of the actions that a worker could take now."""
    not_tried, tried_before = due(OutboxAction, 1000)
    return [*not_tried, *tried_before]


def end_all_leases() -> None:
    """Makes all unfinished rows due again, as when time has passed."""
    past = datetime.now(UTC) - timedelta(minutes=5)
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(due_at=past))
        session.connection().execute(update(OutboxAction).values(due_at=past))


def all_alive() -> None:
    """Writes heartbeats of a web, a worker and a clock, alive for five minutes already and for an hour to come."""
    at = database_now() - timedelta(minutes=5)
    with transaction() as session:
        for kind in ("web", "worker", "clock"):
            later = at + timedelta(minutes=65)
            said = Heartbeat(
                name=f"{kind} here 1",
                kind=kind,
                version=running_version(),
                host="here",
                started_at=at,
                last_at=later,
                worked_at=later,
                listened_at=later,
            )
            session.merge(said)


def claim_action(action_id: int) -> tuple[Claim, OutboxAction] | None:
    """Claims an action as its worker does; None if it is not due. Unless the test ends it, that worker has died."""
    for claimed, row in claim(OutboxAction, [action_id]):
        return claimed, OutboxAction(**row._asdict())
    return None


def end_action(claimed: Claim, action: OutboxAction, reason: str | None) -> list[int]:
    """Ends a claimed action."""
    return end_actions([(claimed, action)], reason)
