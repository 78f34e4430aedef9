"""Whole life cycles by name, and their steps."""

from collections.abc import Callable

from tests.simulator import errors, person, redaction, sessions
from tests.simulator.store import Json, Session
from tests.simulator.world import World

Action = Callable[[World, Session, Json], Session]

# The actions of control calls and steps by their names. `body` is the JSON of the call.
ACTIONS: dict[str, Action] = {
    "submit": lambda world, session, _body: person.submit(world, session),
    "processing": lambda world, session, _body: person.submit(world, session),
    "pass": lambda world, session, _body: person.passed(world, session),
    "verified": lambda world, session, _body: person.passed(world, session),
    "fail": lambda world, session, body: person.failed(
        world,
        session,
        body.get("code", "document_unverified_other"),
        report=body.get("report"),
        reason=body.get("reason"),
    ),
    "abandon": lambda world, session, body: person.failed(world, session, "abandoned", report=body.get("report")),
    "decline": lambda world, session, body: person.failed(
        world, session, "consent_declined", report=body.get("report")
    ),
    "decline-consent": lambda world, session, _body: person.failed(world, session, "consent_declined"),
    "override": lambda world, session, body: person.override(
        world, session, body.get("to"), body.get("code", "document_unverified_other")
    ),
    "cancel": lambda world, session, _body: sessions.cancel(world, session),
    "redact": lambda world, session, body: (
        redaction.finish(world, session) if body.get("finish") else redaction.begin(world, session)
    ),
    "redact_step": lambda world, session, _body: redaction.step(world, session),
    "update": lambda _world, session, body: sessions.update(session, body),
}

# A step is an action, with its code or target after a colon.
SCENARIOS: dict[str, list[str]] = {
    "passes": ["submit", "pass"],
    "passes_on_second_try": ["submit", "fail:document_expired", "submit", "pass"],
    "fails_twice": ["submit", "fail:selfie_face_mismatch", "submit", "fail:document_unverified_other"],
    "fails": ["submit", "fail:document_expired"],
    "looks_like_fraud": ["submit", "fail:selfie_manipulated"],
    "declines": ["decline"],
    "abandons": ["abandon"],
    "abandons_then_passes": ["abandon", "submit", "pass"],
    "canceled": ["cancel"],
    "fails_and_is_canceled": ["submit", "fail:document_expired", "cancel"],
    "overridden": ["submit", "pass", "override"],
    "approved_by_reviewer": ["submit", "fail:document_unverified_other", "override"],
    "redacted_when_verified": ["submit", "pass", "redact"],
    "redacted_when_open": ["redact"],
    "only_created": [],
    "still_processing": ["submit"],
}


def act(world: World, session: Session, name: str, body: Json) -> Session:
    """Does an action. Raises ApiError for an unknown one, or one that the session does not allow."""
    action = ACTIONS.get(name)
    if action is None:
        raise errors.ApiError(400, f"Unknown action {name!r}; known: {', '.join(ACTIONS)}.")
    return action(world, session, body)


def steps_of(name: str, number: int) -> list[str]:
    """The steps of a scenario; `mixed` takes the scenarios in turn."""
    if name == "mixed":
        return list(SCENARIOS.values())[number % len(SCENARIOS)]
    if name not in SCENARIOS:
        raise errors.ApiError(400, f"Unknown scenario {name!r}; known: mixed, {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]


def take_step(world: World, session: Session, step: str) -> None:
    name, _, detail = step.partition(":")
    body: Json = {}
    if detail:
        body = {"to": detail} if name == "override" else {"code": detail}
    act(world, session, name, body)
