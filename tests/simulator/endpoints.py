"""Webhook endpoints over the API, and the account that they belong to."""

import time

from tests.simulator import errors, ids, paging, rendering, sessions
from tests.simulator.calls import Call
from tests.simulator.forms import flag
from tests.simulator.gate import Handler
from tests.simulator.store import PLATFORM, Endpoint, Json, Scope
from tests.simulator.world import World

URL = "/v1/webhook_endpoints"


def create_endpoint(call: Call) -> Json:
    """Makes an endpoint; no other answer shows its secret."""
    call.require("webhook_write")
    known = {"url", "enabled_events", "api_version", "connect", "description", "metadata", "expand"}
    sessions.check_names(call.params, known)
    for name in ("url", "enabled_events"):
        if not call.params.get(name):
            raise errors.missing_parameter(name)
    endpoint = register(
        call.world,
        call.scope,
        _url(call.params["url"]),
        _enabled_events(call.params["enabled_events"]),
        connect=flag(call.params.get("connect")),
        api_version=call.params.get("api_version"),
    )
    endpoint.description = call.params.get("description")
    endpoint.metadata = call.params.get("metadata") or {}
    return rendering.endpoint(endpoint) | {"secret": endpoint.secret}


def register(
    world: World,
    scope: Scope,
    url: str,
    enabled_events: list[str],
    *,
    connect: bool | None,
    api_version: str | None = None,
    secret: str | None = None,
    policy: Json | None = None,
) -> Endpoint:
    endpoint = Endpoint(
        id=ids.new_id("we"),
        scope=scope,
        created=world.clock.now(),
        url=url,
        enabled_events=enabled_events,
        secret=secret or ids.webhook_secret(),
        api_version=api_version,
        connect=connect,
        policy=policy or {},
    )
    world.store.endpoints[endpoint.id] = endpoint
    return endpoint


def roll_secret(endpoint: Endpoint, overlap: float, secret: str | None = None) -> str:
    """Gives an endpoint a new secret; the old one signs too for `overlap` seconds."""
    endpoint.old_secrets.insert(0, (endpoint.secret, time.time() + overlap))
    endpoint.secret = secret or ids.webhook_secret()
    return endpoint.secret


def retrieve_endpoint(call: Call) -> Json:
    call.require("webhook_read")
    return rendering.endpoint(_endpoint(call))


def list_endpoints(call: Call) -> Json:
    call.require("webhook_read")
    found = [endpoint for endpoint in call.world.store.endpoints.values() if endpoint.scope == call.scope]
    return paging.page(found, call.params, kind="webhook endpoint", url=URL, render=rendering.endpoint)


def update_endpoint(call: Call) -> Json:
    call.require("webhook_write")
    sessions.check_names(call.params, {"url", "enabled_events", "disabled", "description", "metadata", "expand"})
    endpoint = _endpoint(call)
    if "url" in call.params:
        endpoint.url = _url(call.params["url"])
    if "enabled_events" in call.params:
        endpoint.enabled_events = _enabled_events(call.params["enabled_events"])
    if "disabled" in call.params:
        endpoint.enabled = not flag(call.params["disabled"])
    endpoint.description = call.params.get("description", endpoint.description)
    endpoint.metadata = endpoint.metadata | (call.params.get("metadata") or {})
    return rendering.endpoint(endpoint)


def delete_endpoint(call: Call) -> Json:
    call.require("webhook_write")
    remove(call.world, _endpoint(call))
    return {"id": call.path_params["endpoint"], "object": "webhook_endpoint", "deleted": True}


def remove(world: World, endpoint: Endpoint) -> None:
    """Removes an endpoint; no event is owed to it any more."""
    del world.store.endpoints[endpoint.id]
    for event in world.store.events.values():
        event.pending.discard(endpoint.id)


def _endpoint(call: Call) -> Endpoint:
    endpoint = call.world.store.endpoints.get(call.path_params["endpoint"])
    if endpoint is None or endpoint.scope != call.scope:
        raise errors.no_such("webhook endpoint", call.path_params["endpoint"], "webhook_endpoint")
    return endpoint


def _url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise errors.ApiError(
            400, "Invalid URL: An explicit scheme (such as https) must be provided.", code="url_invalid", param="url"
        )
    return url


def _enabled_events(names: object) -> list[str]:
    if not isinstance(names, list) or not all("." in str(name) or name == "*" for name in names):
        raise errors.invalid_parameter("enabled_events", "Invalid enabled_events: not an array of event types")
    return [str(name) for name in names]


def retrieve_account(call: Call) -> Json:
    account = call.path_params.get("account", call.scope.account)
    return {
        "id": account,
        "object": "account",
        "business_profile": {"name": "Simulator"},
        "business_type": "company",
        "charges_enabled": True,
        "country": "US",
        "created": 1_700_000_000,
        "default_currency": "usd",
        "details_submitted": True,
        "email": "owner@example.com",
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Simulator", "timezone": "Etc/UTC"}},
        "type": "standard" if account != PLATFORM else "none",
    }


def retrieve_balance(call: Call) -> Json:
    """The account's balance: it tells the mode, which the account does not."""
    nothing = [{"amount": 0, "currency": "usd", "source_types": {"card": 0}}]
    return {"object": "balance", "available": nothing, "livemode": call.scope.livemode, "pending": nothing}


ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", URL, create_endpoint),
    ("GET", URL, list_endpoints),
    ("GET", URL + "/{endpoint}", retrieve_endpoint),
    ("POST", URL + "/{endpoint}", update_endpoint),
    ("DELETE", URL + "/{endpoint}", delete_endpoint),
    ("GET", "/v1/account", retrieve_account),
    ("GET", "/v1/accounts/{account}", retrieve_account),
    ("GET", "/v1/balance", retrieve_balance),
]
