"""Verification sessions as the API makes and changes them."""

from typing import Any
from urllib.parse import urlsplit

from tests.simulator import errors, events, ids, rendering
from tests.simulator.events import NOBODY, Cause
from tests.simulator.forms import flag
from tests.simulator.store import PLATFORM, Flow, Json, Scope, Session
from tests.simulator.world import World

TYPES = ("document", "id_number")
DOCUMENT_OPTIONS = {"allowed_types", "require_id_number", "require_live_capture", "require_matching_selfie"}
DOCUMENT_TYPES = {"driving_license", "id_card", "passport"}
ENTRANCE_LIFE = 48 * 3600  # seconds a session's url works
SECRET_LIFE = 24 * 3600  # seconds a session's client_secret works
MOST_CHARACTERS = {"client_reference_id": 200, "return_url": 5000}
MOST_METADATA = (50, 40, 500)  # keys, characters of a key, of a value

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
    for name, most in MOST_CHARACTERS.items():
        if len(params.get(name) or "") > most:
            raise errors.invalid_parameter(name, f"Invalid string: must be at most {most} characters")
    flow = _flow(world, scope, params.get("verification_flow"))
    session = Session(
        id=ids.new_id("vs"),
        scope=scope,
        created=world.clock.now(),
        type=_type(params),
        metadata=_merged({}, params.get("metadata", {})),
        options=_options(dict(flow.options) if flow else {}, params.get("options")),
        provided_details=_details(params.get("provided_details")),
        return_url=_return_url(params.get("return_url")),
        related_person=_related_person(params.get("related_person")),
    )
    for name in ("client_reference_id", "related_customer", "related_customer_account", "verification_flow"):
        setattr(session, name, params.get(name) or None)
    world.store.sessions[session.id] = session
    events.emit(world, session, "created", cause)
    return session


def update(session: Session, params: Json) -> Session:
    """Updates a session: metadata at any time, everything else while input is required."""
    check_names(params, UPDATABLE)
    if session.redaction:
        raise errors.illegal_transition("You cannot update a VerificationSession that has been redacted.")
    if set(params) - {"metadata", "expand"} and session.status != "requires_input":
        raise errors.illegal_transition(
            f"You cannot update a VerificationSession with status `{session.status}`; it must be `requires_input`."
        )
    session.metadata = _merged(session.metadata, params.get("metadata", {}))
    if "options" in params:
        session.options = _options(session.options, params["options"])
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
    secret = f"{session.id}_secret_{ids.mode(session.scope.livemode)}_{ids.token(40)}"
    world.store.secrets[secret] = (session.id, world.clock.time() + SECRET_LIFE)
    return rendering.snapshot(session, client_secret=secret, url=url(world, _entrance(world, session)))


def enter_by_secret(world: World, client_secret: str, publishable_key: str, account: str = PLATFORM) -> str:
    """An entrance for a secret, which works once, as Stripe's script makes it: with a publishable key of its mode."""
    session_id, expires = world.store.secrets.get(client_secret, ("", 0.0))
    session = world.store.sessions.get(session_id)
    if session is None or expires < world.clock.time() or session.status != "requires_input" or session.redaction:
        raise errors.ApiError(400, "The client_secret was used, has expired or never was one.")
    if session.scope.account != account:
        raise errors.no_such("verification_session", session_id, "client_secret")
    if not publishable_key.startswith(f"pk_{ids.mode(session.scope.livemode)}_"):
        raise errors.invalid_api_key(publishable_key)
    del world.store.secrets[client_secret]
    return _entrance(world, session)


def url(world: World, entrance: str) -> str:
    """The URL of the page behind an entrance."""
    return f"{world.settings.pages or world.settings.base}/start/{entrance}"


def _entrance(world: World, session: Session) -> str:
    entrance = f"{ids.mode(session.scope.livemode)}_{ids.token(60)}"
    world.store.entrances[entrance] = (session.id, world.clock.time() + ENTRANCE_LIFE)
    return entrance


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
    """The metadata after an update: an empty value unsets a key, an empty `metadata` unsets all."""
    if given == "":
        return {}
    if not isinstance(given, dict):
        raise errors.invalid_parameter("metadata", "Invalid metadata: must be a hash")
    merged = {key: value for key, value in (metadata | given).items() if value != ""}
    keys, characters, of_a_value = MOST_METADATA
    if len(merged) > keys:
        raise errors.invalid_parameter("metadata", f"Metadata can have at most {keys} keys")
    for key, value in merged.items():
        if len(key) > characters or len(str(value)) > of_a_value:
            raise errors.invalid_parameter(f"metadata[{key}]", "Invalid metadata: a key or a value is too long")
    return merged


def _flow(world: World, scope: Scope, flow_id: str | None) -> Flow | None:
    """The flow of this id; flows of another account or mode do not exist, and a flow whose link is off works here."""
    if not flow_id:
        return None
    flow = world.store.flows.get(flow_id)
    if flow is None or flow.scope != scope:
        raise errors.no_such("verification_flow", flow_id, "verification_flow", status=400)
    return flow


def _options(options: Json, given: Any) -> Json:
    """The options after an update: only `document` exists, and an empty value takes it away."""
    for name in _hash("options", given):
        if name != "document":
            raise errors.unknown_parameter(f"options[{name}]")
    if not given or "document" not in given:
        return options
    if given["document"] == "":
        return {name: value for name, value in options.items() if name != "document"}
    document = _hash("options[document]", given["document"])
    for name in document:
        if name not in DOCUMENT_OPTIONS:
            raise errors.unknown_parameter(f"options[document][{name}]")
    if not set(document.get("allowed_types") or ()) <= DOCUMENT_TYPES:
        message = f"Invalid allowed_types: must be one of {', '.join(sorted(DOCUMENT_TYPES))}"
        raise errors.invalid_parameter("options[document][allowed_types]", message)
    flags = {name: flag(value) if name.startswith("require_") else value for name, value in document.items()}
    return options | {"document": options.get("document", {}) | flags}


def _return_url(given: Any) -> str | None:
    if given and not urlsplit(given).scheme:
        raise errors.ApiError(400, f"Not a valid URL: {given}", code="url_invalid", param="return_url")
    return given or None


def _related_person(given: Any) -> Json | None:
    person = _hash("related_person", given)
    for name in person:
        if name not in ("account", "person"):
            raise errors.unknown_parameter(f"related_person[{name}]")
    for name in ("account", "person"):
        if person and not person.get(name):
            raise errors.missing_parameter(f"related_person[{name}]")
    return person or None


def _hash(name: str, given: Any) -> Json:
    if not isinstance(given or {}, dict):
        raise errors.invalid_parameter(name, f"Invalid {name}: must be a hash")
    return given or {}


def _details(given: Any) -> dict[str, str]:
    details = _hash("provided_details", given)
    for name in details:
        if name not in ("email", "phone"):
            raise errors.unknown_parameter(f"provided_details[{name}]")
    if (email := details.get("email")) and "@" not in email:
        raise errors.invalid_parameter("provided_details[email]", f"Invalid email address: {email}")
    return {name: value for name, value in details.items() if value}
