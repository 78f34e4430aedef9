"""The Identity part of the v1 API: sessions, reports and ephemeral keys."""

from tests.simulator import errors, ids, paging, redaction, rendering, sessions
from tests.simulator.calls import Call
from tests.simulator.gate import Handler
from tests.simulator.store import Json, Report, Session

SESSIONS = "/v1/identity/verification_sessions"
REPORTS = "/v1/identity/verification_reports"
EPHEMERAL_KEY_LIFE = 3600  # seconds

LISTED = {"limit", "starting_after", "ending_before", "created", "expand", "client_reference_id"}


def create_session(call: Call) -> Json:
    call.require("identity_product_write")
    paths = call.expand(rendering.SESSION_PATHS)
    session = sessions.create(call.world, call.scope, call.params, call.cause)
    return _answer(call, session, paths)


def retrieve_session(call: Call) -> Json:
    call.require("identity_product_read")
    sessions.check_names(call.params, {"expand", "client_secret"})
    return _answer(call, _session(call), call.expand(rendering.SESSION_PATHS))


def list_sessions(call: Call) -> Json:
    call.require("identity_product_read")
    sessions.check_names(call.params, LISTED | {"status", "related_customer", "related_customer_account"})
    paths = call.expand(rendering.SESSION_PATHS, "data.")
    wanted = {
        name: call.params[name]
        for name in ("status", "client_reference_id", "related_customer", "related_customer_account")
        if call.params.get(name)
    }
    found = [
        session
        for session in call.world.store.sessions.values()
        if session.scope == call.scope and all(getattr(session, name) == value for name, value in wanted.items())
    ]
    return paging.page(
        found,
        call.params,
        kind="verification_session",
        url=SESSIONS,
        render=lambda session: rendering.expanded(call.world.store, session, rendering.snapshot(session), paths),
    )


def update_session(call: Call) -> Json:
    call.require("identity_product_write")
    session, paths = _session(call), call.expand(rendering.SESSION_PATHS)
    return _answer(call, sessions.update(session, call.params), paths)


def cancel_session(call: Call) -> Json:
    call.require("identity_product_write")
    sessions.check_names(call.params, {"expand"})
    session, paths = _session(call), call.expand(rendering.SESSION_PATHS)
    return _answer(call, sessions.cancel(call.world, session, call.cause), paths)


def redact_session(call: Call) -> Json:
    call.require("identity_product_write")
    sessions.check_names(call.params, {"expand"})
    session, paths = _session(call), call.expand(rendering.SESSION_PATHS)
    return _answer(call, redaction.begin(call.world, session, call.cause), paths)


def _answer(call: Call, session: Session, paths: list[str]) -> Json:
    return rendering.expanded(call.world.store, session, sessions.with_entrance(call.world, session), paths)


def _session(call: Call) -> Session:
    return find_session(call, call.path_params["session"], "session", 404)


def find_session(call: Call, session_id: str, param: str, status: int) -> Session:
    session = call.world.store.sessions.get(session_id)
    if session is not None and session.scope == call.scope:
        return session
    other = session is not None and session.scope.account == call.scope.account
    similar = ids.mode(not call.scope.livemode) if other else None
    raise errors.no_such("verification_session", session_id, param, status=status, similar_in=similar)


def retrieve_report(call: Call) -> Json:
    call.require("identity_product_read")
    report = call.world.store.reports.get(call.path_params["report"])
    if report is None or report.scope != call.scope:
        raise errors.no_such("verification_report", call.path_params["report"], "report")
    return rendering.report(report, call.expand(rendering.REPORT_PATHS))


def list_reports(call: Call) -> Json:
    call.require("identity_product_read")
    sessions.check_names(call.params, LISTED | {"type", "verification_session"})
    paths = call.expand(rendering.REPORT_PATHS, "data.")
    return paging.page(
        [report for report in call.world.store.reports.values() if _report_matches(call, report)],
        call.params,
        kind="verification_report",
        url=REPORTS,
        render=lambda report: rendering.report(report, paths),
    )


def _report_matches(call: Call, report: Report) -> bool:
    params = call.params
    return (
        report.scope == call.scope
        and params.get("type") in (None, report.type)
        and params.get("verification_session") in (None, report.session_id)
        and params.get("client_reference_id") in (None, report.client_reference_id)
    )


def create_ephemeral_key(call: Call) -> Json:
    """Makes a key for the native SDKs: bound to one session, shown once."""
    call.require("ephemeral_key_write")
    sessions.check_names(call.params, {"verification_session", "customer", "issuing_card", "nonce", "expand"})
    if not call.params.get("verification_session"):
        raise errors.missing_parameter("verification_session")
    session = find_session(call, call.params["verification_session"], "verification_session", 400)
    now = call.world.clock.now()
    key: Json = {
        "id": ids.new_id("ephkey"),
        "object": "ephemeral_key",
        "associated_objects": [{"id": session.id, "type": "identity.verification_session"}],
        "created": now,
        "expires": now + EPHEMERAL_KEY_LIFE,
        "livemode": call.scope.livemode,
    }
    call.world.store.ephemeral_keys[key["id"]] = key | {"stripe_version": call.version}
    return key | {"secret": f"ek_{ids.mode(call.scope.livemode)}_{ids.token(64)}"}


def delete_ephemeral_key(call: Call) -> Json:
    call.require("ephemeral_key_write")
    key = call.world.store.ephemeral_keys.pop(call.path_params["key"], None)
    if key is None:
        raise errors.no_such("ephemeral_key", call.path_params["key"], "key")
    return {name: value for name, value in key.items() if name != "stripe_version"}


ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", SESSIONS, create_session),
    ("GET", SESSIONS, list_sessions),
    ("GET", SESSIONS + "/{session}", retrieve_session),
    ("POST", SESSIONS + "/{session}", update_session),
    ("POST", SESSIONS + "/{session}/cancel", cancel_session),
    ("POST", SESSIONS + "/{session}/redact", redact_session),
    ("GET", REPORTS, list_reports),
    ("GET", REPORTS + "/{report}", retrieve_report),
    ("POST", "/v1/ephemeral_keys", create_ephemeral_key),
    ("DELETE", "/v1/ephemeral_keys/{key}", delete_ephemeral_key),
]
