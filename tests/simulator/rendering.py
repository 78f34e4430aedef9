"""Objects as the API answers them: the parts that must be expanded, and those that only a restricted key may expand."""

from collections.abc import Iterable

from tests.simulator import errors
from tests.simulator.settings import API_VERSION
from tests.simulator.store import Endpoint, Json, Report, Scope, Session, Store

OBJECT = "identity.verification_session"
SENSITIVE_OUTPUTS = {"dob", "id_number", "sex", "unparsed_sex", "unparsed_place_of_birth"}
SENSITIVE_CHECKS = {
    "document": {"dob", "expiration_date", "number", "sex", "unparsed_sex", "unparsed_place_of_birth"},
    "id_number": {"dob", "id_number"},
}
REPORT_PATHS = {f"{check}.{field}" for check, fields in SENSITIVE_CHECKS.items() for field in fields}
SESSION_PATHS = (
    {"provided_details", "verified_outputs", "last_verification_report"}
    | {f"verified_outputs.{field}" for field in SENSITIVE_OUTPUTS}
    | {f"last_verification_report.{path}" for path in REPORT_PATHS}
)


def snapshot(session: Session, *, client_secret: str | None = None, url: str | None = None) -> Json:
    """A session as an event carries it: nothing expandable."""
    rendered: Json = {
        "id": session.id,
        "object": OBJECT,
        "client_reference_id": session.client_reference_id,
        "client_secret": client_secret,
        "created": session.created,
        "last_error": session.last_error,
        "last_verification_report": session.report_id,
        "livemode": session.scope.livemode,
        "metadata": dict(session.metadata),
        "options": session.options,
        "redaction": {"status": session.redaction} if session.redaction else None,
        "related_customer": session.related_customer,
        "related_customer_account": session.related_customer_account,
        "status": session.status,
        "type": session.type,
        "url": url,
    }
    if session.related_person:
        rendered["related_person"] = session.related_person
    if session.verification_flow:
        rendered["verification_flow"] = session.verification_flow
    return rendered


def snapshot_event(event_id: str, what: str, created: int, scope: Scope, rendered: Json) -> Json:
    """An Event object of the v1 API, with the session as it was."""
    body: Json = {
        "id": event_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": created,
        "data": {"object": rendered},
        "livemode": scope.livemode,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": f"{OBJECT}.{what}",
    }
    return body | ({"account": scope.account, "context": scope.account} if scope.connected else {})


def thin_event(event_id: str, what: str, created: str, scope: Scope, session_id: str) -> Json:
    """A notification of the v2 API: it names the session and says nothing of it."""
    return {
        "id": event_id,
        "object": "v2.core.event",
        "type": f"v1.{OBJECT}.{what}",
        "created": created,
        "livemode": scope.livemode,
        "context": scope.account if scope.connected else None,
        "reason": None,
        "related_object": {"id": session_id, "type": OBJECT, "url": f"/v1/identity/verification_sessions/{session_id}"},
    }


def expanded(store: Store, session: Session, rendered: Json, paths: Iterable[str]) -> Json:
    """Adds the expanded parts to a rendered session; the paths have passed check_paths."""
    paths = set(paths)
    if "provided_details" in paths:
        rendered["provided_details"] = _details(session)
    if any(path.split(".")[0] == "verified_outputs" for path in paths):
        rendered["verified_outputs"] = _outputs(session, _below("verified_outputs", paths))
    if session.report_id and any(path.split(".")[0] == "last_verification_report" for path in paths):
        rendered["last_verification_report"] = report(
            store.reports[session.report_id], _below("last_verification_report", paths)
        )
    return rendered


def _details(session: Session) -> Json | None:
    return (
        {name: session.provided_details.get(name) for name in ("email", "phone")} if session.provided_details else None
    )


def _outputs(session: Session, shown: set[str]) -> Json | None:
    if session.verified_outputs is None:
        return None
    return {key: value for key, value in session.verified_outputs.items() if key not in SENSITIVE_OUTPUTS - shown}


def _below(prefix: str, paths: Iterable[str]) -> set[str]:
    return {path.removeprefix(prefix + ".") for path in paths if path.startswith(prefix + ".")}


def report(found: Report, paths: Iterable[str]) -> Json:
    rendered: Json = {
        "id": found.id,
        "object": "identity.verification_report",
        "client_reference_id": found.client_reference_id,
        "created": found.created,
        "livemode": found.scope.livemode,
        "type": found.type,
        "verification_session": found.session_id,
    }
    for check, value in found.body.items():
        hidden = SENSITIVE_CHECKS.get(check, set()) - _below(check, paths)
        rendered[check] = {key: item for key, item in value.items() if key not in hidden}
    return rendered


def check_paths(paths: Iterable[str], known: set[str], *, key: str, account: str, may_see_sensitive: bool) -> None:
    """Raises ApiError for a path nobody can expand (400) or one that needs a restricted key (403)."""
    for path in paths:
        if path not in known:
            raise errors.not_expandable(path)
        if not may_see_sensitive and path in SENSITIVE_PATHS:
            raise errors.missing_permission(key, account, "rak_identity_verification_results_sensitive_read")


SENSITIVE_PATHS = REPORT_PATHS | {path for path in SESSION_PATHS if "." in path}


def endpoint(found: Endpoint) -> Json:
    return {
        "id": found.id,
        "object": "webhook_endpoint",
        "api_version": found.api_version,
        "application": None,
        "created": found.created,
        "description": found.description,
        "enabled_events": found.enabled_events,
        "livemode": found.scope.livemode,
        "metadata": found.metadata,
        "status": "enabled" if found.enabled else "disabled",
        "url": found.url,
    }
