"""Verification sessions as the API makes and changes them."""

from typing import Any

from tests.simulator import errors, events, ids, rendering
from tests.simulator.events import NOBODY, Cause
from tests.simulator.forms import flag
from tests.simulator.store import Json, Scope, Session
from tests.simulator.world import World

TYPES = ("document", "id_number")
ENTRANCE_LIFE = 48 * 3600  # seconds a session's url works; its client_secret works for half of that

UPDATABLE = {"expand", "metadata", "options", "provided_details", "type"}
CREATABLE = UPDATABLE | {
    "client_reference_id",
    "related_customer",
    "related_customer_account",
    "related_person",
    "return_url",
    "verification_flow",
}


def create(world: World, scope: Scope, params: Json, cause: Cause = NOBODY) -> Session:
    check_names(params, CREATABLE)
    session = Session(
        id=ids.new_id("vs"),
        scope=scope,
        created=world.clock.now(),
        type=_type(params),
        metadata=_merged({}, params.get("metadata", {})),
        options=_options(params.get("options")),
        provided_details=_details(params.get("provided_details")),
    )
    for name in ("client_reference_id", "related_customer", "related_customer_account", "related_person"):
        setattr(session, name, params.get(name) or None)
    session.return_url = params.get("return_url")
    session.verification_flow = params.get("verification_flow")
    world.store.sessions[session.id] = session
    events.emit(world, session, "created", cause)
    return session


def update(session: Session, params: Json) -> Session:
    """Metadata at any time, everything else while input is required."""
    check_names(params, UPDATABLE)
    if session.redaction:
        raise errors.illegal_transition("You cannot update a VerificationSession that has been redacted.")
    if set(params) - {"metadata", "expand"} and session.status != "requires_input":
        raise errors.illegal_transition(
            f"You cannot update a VerificationSession with status `{session.status}`; it must be `requires_input`."
        )
    session.metadata = _merged(session.metadata, params.get("metadata", {}))
    if "options" in params:
        session.options = session.options | _options(params["options"])
    if "provided_details" in params:
        session.provided_details = session.provided_details | _details(params["provided_details"])
    if "type" in params:
        session.type = _type(params)
    return session


def cancel(world: World, session: Session, cause: Cause = NOBODY) -> Session:
    if session.status != "requires_input" or session.redaction:
        raise errors.illegal_transition(
            f"You cannot cancel a VerificationSession with status `{session.status}`; it must be `requires_input`."
        )
    session.status = "canceled"
    events.emit(world, session, "canceled", cause)
    return session


def with_entrance(world: World, session: Session) -> Json:
    """The session with a fresh client_secret and url while input is required; both are null afterwards."""
    if session.status != "requires_input" or session.redaction:
        return rendering.snapshot(session)
    entrance = f"{ids.mode(session.scope.livemode)}_{ids.token(60)}"
    world.store.entrances[entrance] = (session.id, world.clock.time() + ENTRANCE_LIFE)
    return rendering.snapshot(
        session,
        client_secret=f"{session.id}_secret_{ids.mode(session.scope.livemode)}_{ids.token(40)}",
        url=f"{world.settings.base}/start/{entrance}",
    )


def check_names(params: Json, known: set[str]) -> None:
    for name in params:
        if name not in known:
            raise errors.unknown_parameter(name)


def _type(params: Json) -> str:
    if params.get("verification_flow") and "type" not in params:
        return "verification_flow"
    if not params.get("type"):
        raise errors.missing_parameter("type")
    if params["type"] not in TYPES:
        raise errors.invalid_parameter("type", f"Invalid type: must be one of {' or '.join(TYPES)}")
    return str(params["type"])


def _merged(metadata: dict[str, str], given: Any) -> dict[str, str]:
    """An empty value unsets a key, an empty `metadata` unsets all."""
    if given == "":
        return {}
    if not isinstance(given, dict):
        raise errors.invalid_parameter("metadata", "Invalid metadata: must be a hash")
    return {key: value for key, value in (metadata | given).items() if value != ""}


def _options(given: Any) -> Json:
    """Checks are hashes of booleans, except the list of document types."""
    return {check: _check_options(value) for check, value in (given or {}).items() if value != ""}


def _check_options(given: Any) -> Json:
    if not isinstance(given, dict):
        return {}
    return {name: flag(value) if name.startswith("require_") else value for name, value in given.items()}


def _details(given: Any) -> dict[str, str]:
    details = given or {}
    for name in details:
        if name not in ("email", "phone"):
            raise errors.unknown_parameter(f"provided_details[{name}]")
    if (email := details.get("email")) and "@" not in email:
        raise errors.invalid_parameter("provided_details[email]", f"Invalid email address: {email}")
    return {name: value for name, value in details.items() if value}
