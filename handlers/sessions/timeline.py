"""The timeline of a verification: openings, events and actions, by ids, words and times alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlmodel import col

from config.database import transaction
from handlers.sessions.views import iso, verification, view
from handlers.tables.models import InboxEvent, OutboxAction, VerificationRecord

_MARKED = {
    "opened": "created_at",
    "replaced": "replaced_at",
    "redaction_asked": "redaction_asked_at",
    "redacted": "redacted_at",
}
_LINE = ("name", "id", "status", "reason", "received_at", "ended_at")


def view_in_time(id_: str) -> dict[str, Any]:
    """One verification with its sessions and its timeline, oldest first, by its own id or by a session's.

    Events and actions are there as long as RETENTION_DAYS keeps them. Raises NotFoundError.
    """
    found = verification(id_)
    with transaction() as session:
        of_this = col(VerificationRecord.verification_id) == found.id
        records = session.scalars(select(VerificationRecord).where(of_this)).all()
        ids = [record.session_id for record in records]
        events = session.scalars(select(InboxEvent).where(col(InboxEvent.session_id).in_(ids))).all()
        actions = session.scalars(select(OutboxAction).where(col(OutboxAction.session_id).in_(ids))).all()
    lines = [*_marks(records), *map(_of_event, events), *map(_of_action, actions)]
    return {**view(found.id), "timeline": sorted(lines, key=lambda line: (line["at"], line["what"], line["id"] or ""))}


def _marks(records: Sequence[VerificationRecord]) -> Iterator[dict[str, Any]]:
    for record in records:
        for what, column in _MARKED.items():
            if getattr(record, column):
                yield _line(record.session_id, what, getattr(record, column))


def _of_event(event: InboxEvent) -> dict[str, Any]:
    return _line(
        event.session_id,
        "event",
        event.created_at,
        name=event.type.rpartition(".")[2],
        id=event.id,
        status=event.outcome or event.status,
        reason=_reason(event.last_error),
        received_at=iso(event.received_at),
        ended_at=iso(event.processed_at),
    )


def _of_action(action: OutboxAction) -> dict[str, Any]:
    return _line(
        action.session_id,
        "action",
        action.created_at,
        name=action.name,
        id=str(action.id),
        status=action.status,
        reason=_reason(action.reason or action.last_error),
        ended_at=iso(action.done_at),
    )


def _line(session_id: str, what: str, at: Any, **more: Any) -> dict[str, Any]:
    return {"at": iso(at), "session_id": session_id, "what": what, **dict.fromkeys(_LINE), **more}


def _reason(sentence: str | None) -> str | None:
    """Our own words of a reason; the words of an operator who discarded a row follow a colon and are left out."""
    return sentence and sentence.partition(":")[0]
