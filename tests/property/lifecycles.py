"""Every life cycle that a verification session can have at Stripe, up to a number of events."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from handlers.record.events import SessionState, VerificationEvent

START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

# The steps after each (docs.stripe.com/identity/how-sessions-work; overrides: docs.stripe.com/identity/review-tools).
# `failed` names a report, `left` and `abandoned` do not; `unverified` and `approved` are a reviewer's overrides.
_NEXT = {
    "": ("created",),
    "created": ("processing", "left", "canceled"),
    "processing": ("verified", "failed", "fraud"),
    "failed": ("processing", "left", "approved", "canceled"),
    "fraud": ("processing", "canceled"),
    "left": ("processing", "abandoned", "canceled"),
    "abandoned": ("processing", "left"),
    "verified": ("unverified",),
    "approved": ("unverified",),
    "unverified": ("approved", "processing", "canceled"),
    "canceled": (),
}
_KINDS = {
    "failed": "requires_input",
    "fraud": "requires_input",
    "left": "requires_input",
    "abandoned": "requires_input",
    "unverified": "requires_input",
    "approved": "verified",
}
_CODES = {
    "failed": "selfie_face_mismatch",
    "fraud": "selfie_manipulated",
    "left": "consent_declined",
    "abandoned": "abandoned",
    "unverified": "document_unverified_other",
}


@dataclass(frozen=True, slots=True)
class LifeCycle:
    """The events of one session in their true order."""

    steps: tuple[str, ...]
    events: tuple[VerificationEvent, ...]

    def __str__(self) -> str:
        return " > ".join(
            f"{step}@{(event.created_at - START).seconds}" for step, event in zip(self.steps, self.events, strict=True)
        )


def life_cycles(most: int, *, same_second: bool = False, redacted: bool = True) -> Iterator[LifeCycle]:
    """All of up to `most` events, a second apart or within one; each with room for one more also ends redacted."""
    for steps in _walks(("created",), most):
        yield _life_cycle(steps, same_second)
        if redacted and len(steps) < most and steps[-1] != "processing":
            yield _life_cycle((*steps, "redacted"), same_second)


def as_thin(event: VerificationEvent) -> VerificationEvent:
    """The same change as a thin notification."""
    return replace(event, id=f"{event.id}_thin", type=f"v1.{event.type}", state=None)


def as_twin(event: VerificationEvent) -> VerificationEvent:
    """A second Event object for the same change."""
    return replace(event, id=f"{event.id}_twin")


def wiped(event: VerificationEvent) -> VerificationEvent:
    """The same after a redaction has begun to wipe it: nothing personal, and no mark that the session is ours."""
    if event.kind == "redacted" or event.state is None:
        return replace(event, state=None, is_ours=None)
    state = replace(event.state, error_reason=None, client_reference_id=None, user_id=None, redaction="processing")
    return replace(event, state=replace(state, is_ours=None), is_ours=None)


def _walks(steps: tuple[str, ...], most: int) -> Iterator[tuple[str, ...]]:
    yield steps
    if len(steps) < most:
        for following in _NEXT[steps[-1]]:
            yield from _walks((*steps, following), most)


def _life_cycle(steps: tuple[str, ...], same_second: bool) -> LifeCycle:
    events: list[VerificationEvent] = []
    report: str | None = None
    for number, step in enumerate(steps):
        if step in ("verified", "failed", "fraud"):
            report = f"vr_{number}"
        kind = _KINDS.get(step, step)
        state = SessionState(
            status=_status(kind, events),
            error_code=_CODES.get(step),
            error_reason=f"reason of {step}" if step in _CODES else None,
            report_id=report,
            client_reference_id=None if kind == "redacted" else "reference",
            user_id=None if kind == "redacted" else "user",
            redaction="redacted" if kind == "redacted" else None,
        )
        events.append(
            VerificationEvent(
                id=f"evt_{number}",
                type=f"identity.verification_session.{kind}",
                session_id="vs_1",
                account=None,
                livemode=False,
                created_at=START if same_second else START + timedelta(seconds=number),
                state=state,
            )
        )
    return LifeCycle(steps, tuple(events))


def _status(kind: str, before: list[VerificationEvent]) -> str:
    if kind == "created":
        return "requires_input"
    if kind != "redacted":
        return kind
    last = before[-1].state
    assert last is not None
    assert last.status is not None
    return last.status
