"""The control API under /_control: driving people, breaking things, reading the truth. JSON in, JSON out, no key."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from tests.simulator import endpoints, errors, runs, scenarios, sessions, truth
from tests.simulator.deliveries import POLICY_FIELDS, Policy, encode
from tests.simulator.settings import Settings
from tests.simulator.store import PLATFORM, Endpoint, Flow, Json, Scope, Session
from tests.simulator.world import World


@dataclass(frozen=True, slots=True)
class Ask:
    """One control call."""

    world: World
    path: dict[str, str]
    query: Mapping[str, str]
    body: Json


Handler = Callable[[Ask], Awaitable[Any]]


POLL = 0.01  # seconds between two looks while somebody waits for quiet

SCOPE = {"livemode", "account"}


def open_to_all(world: World, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette endpoint of a control call; a mistake in the call is a 400 with its reason."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.body()
            decoded = orjson.loads(body) if body else {}
            answer = await handler(Ask(world, dict(request.path_params), request.query_params, decoded))
        except errors.ApiError as error:
            return Response(encode({"error": error.error}), error.status, media_type="application/json")
        except (KeyError, TypeError, ValueError) as error:
            reason = {"message": f"{type(error).__name__}: {error}"}
            return Response(encode({"error": reason}), 400, media_type="application/json")
        return Response(encode(answer), media_type="application/json")

    return endpoint


async def ready(ask: Ask) -> Json:
    return {"ready": True, "base": ask.world.settings.base, "account": PLATFORM}


async def create(ask: Ask) -> Json:
    """Creates a session: the API's parameters, plus livemode, account, and email and phone for provided_details."""
    params = {"type": "document"} | {name: value for name, value in ask.body.items() if name not in SCOPE}
    details = {name: params.pop(name) for name in ("email", "phone") if name in params}
    if details:
        params["provided_details"] = details
    return _shown(sessions.create(ask.world, _scope(ask.body), {k: v for k, v in params.items() if v is not None}))


async def create_from_link(ask: Ask) -> Json:
    """Creates a session as a stranger who opens a static link: a reference typed into a URL, no metadata."""
    return _shown(from_link(ask.world, _scope(ask.body), ask.body.get("client_reference_id"), ask.body.get("email")))


def from_link(
    world: World, scope: Scope, reference: str | None, email: str | None, flow: str = "vf_simulator"
) -> Session:
    params: Json = {"verification_flow": flow, "client_reference_id": reference}
    world.store.flows.setdefault(flow, Flow(scope=scope))
    if email:
        params["provided_details"] = {"email": email}
    return sessions.create(world, scope, params)


async def add_flow(ask: Ask) -> Json:
    """`{"name", "options", "link", "livemode", "account"}`; changes of a flow that exists hold for later sessions."""
    given = {name: value for name, value in ask.body.items() if name not in SCOPE}
    flow = ask.world.store.flows[ask.path["flow"]] = Flow(scope=_scope(ask.body), **given)
    return {"id": ask.path["flow"], "name": flow.name, "options": flow.options, "link": flow.link}


async def enter_by_secret(ask: Ask) -> Json:
    """`{"client_secret", "publishable_key", "account"}`, as Stripe's script has them; the URL of a page behind them."""
    return {"url": sessions.url(ask.world, sessions.enter_by_secret(ask.world, **ask.body))}


async def act(ask: Ask) -> Json:
    session = _session(ask.world, ask.path["session"])
    return _shown(scenarios.act(ask.world, session, ask.path["action"], ask.body))


async def show(ask: Ask) -> Json:
    return _shown(_session(ask.world, ask.path["session"]))


async def enter(ask: Ask) -> Json:
    """A fresh url and client_secret, as a retrieve gives them."""
    return sessions.with_entrance(ask.world, _session(ask.world, ask.path["session"]))


def _session(world: World, session_id: str) -> Session:
    if session_id not in world.store.sessions:
        raise errors.no_such("verification_session", session_id, "session")
    return world.store.sessions[session_id]


def _shown(session: Session) -> Json:
    return truth.session_line(session)


def _scope(body: Json) -> Scope:
    return Scope(body.get("account") or PLATFORM, bool(body.get("livemode", False)))


async def run(ask: Ask) -> Json:
    made = await runs.drive(ask.world, runs.Run(**ask.body))
    return {"sessions": [session.id for session in made]}


async def add_endpoint(ask: Ask) -> Json:
    """`{"url", "enabled_events", "secret", "connect", "livemode", "api_version"}` and any field of Policy."""
    policy = {name: ask.body[name] for name in POLICY_FIELDS if name in ask.body}
    _check_policy(policy)
    unknown = set(ask.body) - POLICY_FIELDS - SCOPE - {"url", "enabled_events", "secret", "connect", "api_version"}
    if unknown:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    endpoint = endpoints.register(
        ask.world,
        _scope(ask.body),
        ask.body["url"],
        ask.body.get("enabled_events") or ["*", "identity.verification_session.redacted"],
        connect=ask.body.get("connect"),
        api_version=ask.body.get("api_version"),
        secret=ask.body.get("secret"),
        policy=policy,
    )
    return {"id": endpoint.id, "secret": endpoint.secret}


async def change_endpoint(ask: Ask) -> Json:
    """`url`, `enabled`, `enabled_events`, and any field of Policy (null: the settings' value again)."""
    endpoint = _endpoint(ask)
    policy = {name: value for name, value in ask.body.items() if name in POLICY_FIELDS}
    _check_policy({name: value for name, value in policy.items() if value is not None})
    endpoint.policy = {name: value for name, value in (endpoint.policy | policy).items() if value is not None}
    for name in ("url", "enabled", "enabled_events"):
        if name in ask.body:
            setattr(endpoint, name, ask.body[name])
    return {"id": endpoint.id, "url": endpoint.url, "enabled": endpoint.enabled, "policy": endpoint.policy}


async def roll_secret(ask: Ask) -> Json:
    """`{"overlap": seconds, "secret": …}`: both secrets sign during the overlap."""
    endpoint = _endpoint(ask)
    secret = endpoints.roll_secret(endpoint, float(ask.body.get("overlap", 24 * 3600)), ask.body.get("secret"))
    return {"id": endpoint.id, "secret": secret}


async def remove_endpoint(ask: Ask) -> Json:
    endpoint = _endpoint(ask)
    endpoints.remove(ask.world, endpoint)
    return {"id": endpoint.id, "deleted": True}


def _endpoint(ask: Ask) -> Endpoint:
    endpoint_id = ask.path["endpoint"]
    if endpoint_id not in ask.world.store.endpoints:
        raise errors.no_such("webhook endpoint", endpoint_id, "endpoint")
    return ask.world.store.endpoints[endpoint_id]


def _check_policy(policy: Json) -> None:
    Policy(**policy)


async def settings(ask: Ask) -> Json:
    """Any field of Settings but base; `policy` replaces the policy for all endpoints."""
    known = {item.name for item in fields(Settings)} - {"base"}
    if unknown := set(ask.body) - known:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    _check_policy(ask.body.get("policy") or {})
    for name, value in ask.body.items():
        setattr(ask.world.settings, name, value)
    return asdict(ask.world.settings)


async def clock(ask: Ask) -> Json:
    """`{"offset": seconds, "frozen": unix time, true for now, or null}`."""
    if "offset" in ask.body:
        ask.world.clock.offset = float(ask.body["offset"])
    if "frozen" in ask.body:
        frozen = ask.body["frozen"]
        ask.world.clock.frozen = time.time() if frozen is True else None if frozen in (None, False) else float(frozen)
    return asdict(ask.world.clock) | {"now": ask.world.clock.time()}


async def add_fault(ask: Ask) -> Json:
    return asdict(ask.world.faults.add(**ask.body))


async def list_faults(ask: Ask) -> Json:
    return {"faults": ask.world.faults.listed()}


async def clear_faults(ask: Ask) -> Json:
    """Ends the faults without a name; or, with `?name=…`, those of that name, and the calls that hang by one go on."""
    ask.world.faults.take_back(ask.query.get("name", ""))
    return await list_faults(ask)


async def forget_keys(ask: Ask) -> Json:
    """Forgets the idempotency keys of all calls that are answered, as after a day."""
    ask.world.ledger.forget_answered()
    return {}


async def keys(ask: Ask) -> Json:
    """`{"key", "permissions": [...] or null, "revoked": bool}` or `{"account", "reachable": bool}`."""
    if "account" in ask.body:
        _toggle(ask.world.keys.without_account, ask.body["account"], not ask.body["reachable"])
        return ask.body
    if "permissions" in ask.body:
        ask.world.keys.permissions.pop(ask.body["key"], None)
        if ask.body["permissions"] is not None:
            ask.world.keys.permissions[ask.body["key"]] = set(ask.body["permissions"])
    if "revoked" in ask.body:
        _toggle(ask.world.keys.revoked, ask.body["key"], ask.body["revoked"])
    return ask.body


def _toggle(members: set[str], member: str, wanted: bool) -> None:
    if wanted:
        members.add(member)
    else:
        members.discard(member)


async def release(ask: Ask) -> Json:
    """`{"order": "sent"|"reversed"|"shuffled", "limit": n, "endpoint": we_…}`."""
    released = ask.world.deliveries.release(
        ask.body.get("order", "sent"), ask.body.get("limit"), ask.body.get("endpoint")
    )
    return {"released": released}


async def resend(ask: Ask) -> Json:
    """`{"event": evt_… or null for all, "endpoint": we_… or null for all, "copies": n}`: the same events once more."""
    wanted = (
        [ask.world.store.events[ask.body["event"]]] if ask.body.get("event") else list(ask.world.store.events.values())
    )
    sent = 0
    for event in wanted:
        for endpoint in ask.world.deliveries.targets(event):
            if ask.body.get("endpoint") in (None, endpoint.id):
                for _ in range(int(ask.body.get("copies", 1))):
                    ask.world.deliveries.send(event, endpoint, now=True)
                    sent += 1
    return {"sent": sent}


async def read_truth(ask: Ask) -> Json:
    return truth.everything(ask.world)


async def settled(ask: Ask) -> Json:
    """`?wait=seconds` answers once nothing is under way, or after that time."""
    until = time.monotonic() + float(ask.query.get("wait", 0))
    while not (state := truth.settled(ask.world))["settled"] and time.monotonic() < until:
        await asyncio.sleep(POLL)
    return state


async def listeners(ask: Ask) -> Json:
    """The CLI's connections of this moment."""
    known = ask.world.listeners.listeners.values()
    return {
        "listeners": [
            {"id": one.id, "secret": one.secret, "features": one.features} for one in known if one.connections
        ]
    }


async def reset(ask: Ask) -> Json:
    """Forgets all but the CLI's connections; settings, keys and clock are as at the start."""
    ask.world.deliveries.stop()
    ask.world.store.clear()
    ask.world.ledger.entries.clear()
    ask.world.faults.faults.clear()
    ask.world.redactions.clear()
    ask.world.settings.reset()
    ask.world.keys.reset()
    ask.world.clock.offset, ask.world.clock.frozen = 0.0, None
    return {"reset": True}


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/ready", ready),
    ("POST", "/sessions", create),
    ("POST", "/links", create_from_link),
    ("POST", "/flows/{flow}", add_flow),
    ("POST", "/enter", enter_by_secret),
    ("GET", "/sessions/{session}", show),
    ("POST", "/sessions/{session}/enter", enter),
    ("POST", "/sessions/{session}/{action}", act),
    ("POST", "/run", run),
    ("POST", "/endpoints", add_endpoint),
    ("POST", "/endpoints/{endpoint}", change_endpoint),
    ("POST", "/endpoints/{endpoint}/roll", roll_secret),
    ("DELETE", "/endpoints/{endpoint}", remove_endpoint),
    ("POST", "/settings", settings),
    ("POST", "/clock", clock),
    ("POST", "/faults", add_fault),
    ("GET", "/faults", list_faults),
    ("DELETE", "/faults", clear_faults),
    ("DELETE", "/idempotency_keys", forget_keys),
    ("POST", "/keys", keys),
    ("POST", "/release", release),
    ("POST", "/resend", resend),
    ("GET", "/truth", read_truth),
    ("GET", "/settled", settled),
    ("GET", "/listeners", listeners),
    ("POST", "/reset", reset),
]
