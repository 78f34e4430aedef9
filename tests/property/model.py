"""The truth about a session's events, written independently of the code that decides it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from handlers.record.events import VerificationEvent
from tests.property.lifecycles import LifeCycle

PERSONAL = "c4nary"  # planted in everything that is about a person

# The actions that a state owes: the row of its kind, or of its error code.
_OWES = {
    "created": (),
    "processing": (),
    "verified": ("email_verified",),
    "canceled": ("email_canceled",),
    "abandoned": ("email_retry_prompt",),
    "selfie_face_mismatch": ("email_retry_prompt",),
    "document_unverified_other": ("email_retry_prompt",),
    "selfie_manipulated": ("alert_review",),
    "consent_declined": ("email_alternative",),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """The end of a session, and every key that is ever owed for it but notify_app's."""

    status: str
    error_code: str | None
    report_id: str | None
    reports: frozenset[str]
    keys: frozenset[tuple[str, str]]
    is_redacted: bool
    is_at_limit: bool

    @property
    def cause(self) -> str:
        """The cause of the actions that the end owes."""
        return _cause(self.status, self.error_code, self.report_id)


def truth(events: Sequence[VerificationEvent], limit: int) -> Truth:
    """The truth, from one event for each change, in the order in which they were made."""
    states = [(event.kind, event.state) for event in events if event.kind != "redacted" and event.state]
    last = states[-1][1]
    reports = frozenset(state.report_id for _, state in states if state.report_id)
    keys = {
        (name, _cause(kind, state.error_code, state.report_id))
        for kind, state in states
        for name in _OWES[state.error_code or kind]
    }
    if len(reports) >= limit:
        keys |= {("cancel_session", "submission_limit"), ("alert_review", "submission_limit")}
    assert last.status is not None
    return Truth(
        status=last.status,
        error_code=last.error_code,
        report_id=last.report_id,
        reports=reports,
        keys=frozenset(keys),
        is_redacted=any(event.kind == "redacted" for event in events),
        is_at_limit=last.status == "requires_input" and len(reports) >= limit,
    )


def mail_of(status: str, error_code: str | None, report_id: str | None) -> str | None:
    """The cause of the mail that such a record owes its person; None if it owes none."""
    kind = "created" if status == "requires_input" and not error_code else status
    is_owed = any(name.startswith("email_") for name in _OWES[error_code or kind])
    return _cause(status, error_code, report_id) if is_owed else None


def told_of(session_id: str, life_cycle: LifeCycle) -> list[VerificationEvent]:
    """A life cycle's events, told of this session, with personal values that a search finds again."""
    return [_told(session_id, event) for event in life_cycle.events]


def _told(session_id: str, event: VerificationEvent) -> VerificationEvent:
    state = event.state
    assert state is not None
    mark = f"{PERSONAL}-{session_id}"
    personal = replace(
        state,
        error_reason=state.error_reason and f"reason {mark}",
        report_id=state.report_id and f"{state.report_id}_{session_id}",
        client_reference_id=state.client_reference_id and f"reference {mark}",
        user_id=state.user_id and f"user {mark}",
    )
    return replace(event, id=f"{event.id}_{session_id}", session_id=session_id, state=personal)


def _cause(status: str, error_code: str | None, report_id: str | None) -> str:
    return "canceled" if status == "canceled" else f"{status}:{error_code or ''}:{report_id or ''}"
