"""What each event means for a record: HANDLERS, one small pure function per type."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import cast

from handlers.record.error_codes import OWED, classify
from handlers.record.events import RANKS, SessionState, VerificationEvent
from handlers.record.ordering import Order, Seen, order, order_by_rank, snapshot
from handlers.tables.models import OutboxAction, Outcome, Status, VerificationRecord

LIMIT_CAUSE = "submission_limit"


@dataclass(frozen=True, slots=True)
class Owed:
    """An action owed because of a state; with a reason in skipped it is only written down."""

    name: str
    cause: str = ""
    skipped: str | None = None
    payload: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What an event came to, and what it owes."""

    outcome: Outcome
    owed: list[Owed]


Handler = Callable[[VerificationRecord, SessionState], list[Owed]]


def decide(
    record: VerificationRecord,
    event: VerificationEvent,
    answer: Seen | None = None,
    *,
    can_ask: bool = False,
    limit: int = 3,
) -> Decision | None:
    """Applies an event, with Stripe's answer where there is one, to its record; None if only Stripe can settle it.

    Without anybody to ask, contradictions go by rank and a thin notification is ignored. The record's submissions
    already count this event's; limit is how many a person has.
    """
    shown = snapshot(event)
    latest = answer or shown
    if event.kind == "redacted":
        _redact(record, event.created_at, event.state)
        return Decision(Outcome.APPLIED, _limited(record, [], limit))
    if latest is None:
        return None if can_ask else Decision(Outcome.IGNORED, [])
    place = order(record, latest)
    if place is Order.AMBIGUOUS:
        if can_ask:
            return None
        place = order_by_rank(record, latest)
    for seen in (shown, answer):
        if seen and seen.state.redaction:
            _redact(record, event.created_at, seen.state)
    owed = _apply(record, latest) if place is Order.NEWER else _pass_over(record, latest)
    if answer and shown:
        owed = _pass_over(record, shown) + owed
    outcome = Outcome.APPLIED if place is Order.NEWER else Outcome.STALE
    return Decision(outcome, _limited(record, owed, limit))


def why_not_owed(record: VerificationRecord, action: OutboxAction, limit: int = 3) -> str | None:
    """At the moment of doing: the reason why an action is no longer owed, or None."""
    if action.name == "notify_app":
        return None
    if record.redacted_at:
        return "redacted"
    if action.name == "alert_review":
        return None
    if action.cause == LIMIT_CAUSE:
        return None if _is_at_limit(record, limit) else "superseded"
    if action.cause != _cause(*_outline(record)):
        return "superseded"
    return "submission limit" if action.name == "email_retry_prompt" and _is_at_limit(record, limit) else None


def created(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """A new session, or one that waits for its first submission."""
    _become(record, Status.REQUIRES_INPUT, state)
    return []


def processing(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """The person has submitted; Stripe is checking."""
    _become(record, Status.PROCESSING, state)
    return []


def requires_input(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """A check failed, or the person left: the error code says who can mend it."""
    _become(record, Status.REQUIRES_INPUT, state)
    return [Owed(OWED[classify(state.error_code)])]


def verified(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """All checks passed, or a reviewer decided so."""
    _become(record, Status.VERIFIED, state)
    return [Owed("email_verified"), Owed("keep_outputs")]


def canceled(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """The session has ended for good."""
    _become(record, Status.CANCELED, state)
    return [Owed("email_canceled")]


def redacted(record: VerificationRecord, state: SessionState) -> list[Owed]:
    """The person is forgotten; the status and the order mark stay, and events still move them."""
    record.last_error_reason = record.client_reference_id = record.user_id = None
    if record.applied_at is None and state.status in list(Status):
        record.status = Status(state.status)
    return []


HANDLERS: dict[str, Handler] = {
    "created": created,
    "processing": processing,
    "requires_input": requires_input,
    "verified": verified,
    "canceled": canceled,
    "redacted": redacted,
}


def _redact(record: VerificationRecord, at: datetime, state: SessionState | None) -> None:
    record.redacted_at = min(record.redacted_at or at, at)
    HANDLERS["redacted"](record, state or SessionState(status=None))


def _apply(record: VerificationRecord, seen: Seen) -> list[Owed]:
    before = _outline(record) if record.applied_at else None
    owed = HANDLERS[seen.kind](record, seen.state)
    record.applied_at, record.applied_rank = seen.stamp, RANKS[seen.kind]
    after = _outline(record)
    if after == before:
        return []
    caused = _caused(owed, record, skipped="redacted" if record.redacted_at else None)
    # An untried session and a failed one are both requires_input, and the application must tell them apart.
    is_change = before is None or after[:2] != before[:2]
    return [*caused, _told(record)] if is_change else caused


def _told(record: VerificationRecord) -> Owed:
    record.change_number += 1
    payload = json.dumps({"status": record.status, "error_code": record.last_error_code})
    return Owed("notify_app", str(record.change_number), payload=payload)


def _pass_over(record: VerificationRecord, seen: Seen) -> list[Owed]:
    # The same keys as in its right place, so that what is written down does not depend on the order of arrival.
    as_it_was = cast(VerificationRecord, SimpleNamespace(redacted_at=None))  # a table's row would cost 40 µs
    owed = _caused(HANDLERS[seen.kind](as_it_was, seen.state), as_it_was, skipped="superseded")
    if record.redacted_at:
        return [replace(one, skipped="redacted") for one in owed]
    return [replace(one, skipped=None) if one.name == "alert_review" else one for one in owed]


def _limited(record: VerificationRecord, owed: list[Owed], limit: int) -> list[Owed]:
    if record.submissions < limit:
        return owed
    reason = "redacted" if record.redacted_at else None if _is_at_limit(record, limit) else "superseded"
    prompted = [
        replace(one, skipped="submission limit") if one.name == "email_retry_prompt" and not one.skipped else one
        for one in owed
    ]
    return [*prompted, *(Owed(name, LIMIT_CAUSE, reason) for name in ("cancel_session", "alert_review"))]


def _is_at_limit(record: VerificationRecord, limit: int) -> bool:
    return record.status == Status.REQUIRES_INPUT and record.submissions >= limit


def _become(record: VerificationRecord, status: Status, state: SessionState) -> None:
    record.status = status
    record.last_report_id = state.report_id
    record.last_error_code = state.error_code
    record.client_reference_trusted = not state.has_flow
    if record.redacted_at is None:
        record.last_error_reason = state.error_reason
        record.client_reference_id = state.client_reference_id
        record.user_id = state.user_id


def _outline(record: VerificationRecord) -> tuple[Status | None, str | None, str | None]:
    return record.status, record.last_error_code, record.last_report_id


def _caused(owed: list[Owed], record: VerificationRecord, skipped: str | None) -> list[Owed]:
    cause = _cause(*_outline(record))
    return [replace(one, cause=cause, skipped=skipped) for one in owed]


def _cause(status: Status | None, code: str | None, report_id: str | None) -> str:
    if status == Status.CANCELED:
        return "canceled"
    return f"{status}:{code or ''}:{report_id or ''}"
