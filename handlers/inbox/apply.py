"""The verification records: locked for a batch of events, their submissions counted, the redacted ones forgotten."""

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, or_, select, update
from sqlmodel import Session, col

from config.inserts import insert_new
from handlers.record.events import VerificationEvent
from handlers.record.ordering import Seen, snapshot
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    OutboxAction,
    Submission,
    VerificationRecord,
    VerifiedOutput,
    utc_now,
)

_LOCK = (  # built once: building it costs more than running it
    select(VerificationRecord)
    .where(col(VerificationRecord.session_id).in_(bindparam("session_ids", expanding=True)))
    .order_by(col(VerificationRecord.session_id))
    .with_for_update()
)
_PERSONAL = ("error_reason", "client_reference_id", "user_id")


def lock(session: Session, events: Sequence[VerificationEvent]) -> dict[str, VerificationRecord]:
    """The records of these events' sessions, made where they are missing and locked until the transaction ends."""
    now = utc_now()
    by_session = {event.session_id: event for event in events}
    rows = [
        {
            "session_id": session_id,
            "account": by_session[session_id].account,
            "livemode": by_session[session_id].livemode,
            "client_reference_trusted": True,
            "submissions": 0,
            "change_number": 0,
            "applied_rank": 0,
            "created_at": now,
            "updated_at": now,
        }
        for session_id in sorted(by_session)  # one order for all workers: no deadlock
    ]
    insert_new(session.connection(), VerificationRecord, rows)
    return {record.session_id: record for record in session.scalars(_LOCK, {"session_ids": list(by_session)})}


def count_submissions(
    session: Session,
    held: dict[str, VerificationRecord],
    seen: Iterable[tuple[VerificationEvent, Seen | None]],
) -> None:
    """Raises each locked record's count by the reports that were not known yet, stale ones too."""
    reports = {(event.session_id, report_id) for event, answer in seen for report_id in reports_in(event, answer)}
    rows = [{"session_id": session_id, "report_id": report_id} for session_id, report_id in sorted(reports)]
    for session_id in insert_new(session.connection(), Submission, rows):
        held[session_id].submissions += 1


def reports_in(event: VerificationEvent, answer: Seen | None) -> set[str]:
    """The reports that an event, or Stripe's answer about it, says were made: each is one submission."""
    return {
        shown.state.report_id
        for shown in (snapshot(event), answer)
        # While it is processed, a session still names the report before.
        if shown and shown.state.report_id and shown.kind not in ("created", "processing")
    }


def forget(session: Session, redacted: Sequence[VerificationRecord]) -> None:
    """Wipes what every table holds of the persons behind these records; only telling the application stays owed."""
    if not redacted:
        return
    session_ids = [record.session_id for record in redacted]
    personal = or_(*(getattr(InboxEvent, name).is_not(None) for name in _PERSONAL))
    events = update(InboxEvent).where(col(InboxEvent.session_id).in_(session_ids), personal)
    session.connection().execute(events.values(dict.fromkeys(_PERSONAL)))
    outputs = delete(VerifiedOutput).where(col(VerifiedOutput.session_id).in_(session_ids))
    session.connection().execute(outputs)
    mails = update(OutboxAction).where(
        col(OutboxAction.session_id).in_(session_ids),
        col(OutboxAction.status) == ActionStatus.PENDING,
        col(OutboxAction.name) != "notify_app",
    )
    session.connection().execute(mails.values(status=ActionStatus.SKIPPED, reason="redacted", done_at=utc_now()))
