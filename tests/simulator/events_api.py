"""Events over the API: v1 with its filters and retry, v2 for thin ones."""

from datetime import datetime
from fnmatch import fnmatchcase

from tests.simulator import errors, paging, sessions
from tests.simulator.calls import Call
from tests.simulator.forms import flag
from tests.simulator.gate import Handler
from tests.simulator.store import Event, Json

KEPT = 30 * 24 * 3600  # seconds an event can be listed or retrieved
MOST_TYPES = 20


def retrieve_event(call: Call) -> Json:
    call.require("event_read")
    return _event(call).rendered()


def list_events(call: Call) -> Json:
    call.require("event_read")
    known = {"created", "delivery_success", "ending_before", "starting_after", "expand", "limit", "type", "types"}
    sessions.check_names(call.params, known)
    patterns = _patterns(call)
    wanted = call.params.get("delivery_success")
    found = [
        event
        for event in _visible(call, thin=False)
        if (not patterns or any(fnmatchcase(event.type, pattern) for pattern in patterns))
        and (wanted is None or flag(wanted) == (not event.pending))
    ]
    return paging.page(found, call.params, kind="event", url="/v1/events", render=Event.rendered)


def retry_event(call: Call) -> Json:
    """`stripe events resend`: to one endpoint, or to the connected CLIs."""
    call.require("event_write")
    sessions.check_names(call.params, {"account", "webhook_endpoint", "for_stripecli", "expand"})
    event = _event(call)
    if endpoint_id := call.params.get("webhook_endpoint"):
        endpoint = call.world.store.endpoints.get(endpoint_id)
        if endpoint is None or endpoint.scope != call.scope:
            raise errors.no_such("webhook endpoint", endpoint_id, "webhook_endpoint", status=400)
        call.world.deliveries.send(event, endpoint, now=True)
    elif flag(call.params.get("for_stripecli")):
        call.world.listeners.dispatch(event)
    else:
        raise errors.missing_parameter("webhook_endpoint")
    return event.rendered()


def _event(call: Call, *, thin: bool = False) -> Event:
    event_id = call.path_params["event"]
    event = call.world.store.events.get(event_id)
    if event is None or event.thin is not thin or event.scope != call.scope or _too_old(call, event):
        raise errors.no_such("event", event_id, "id")
    return event


def _visible(call: Call, *, thin: bool) -> list[Event]:
    return [
        event
        for event in call.world.store.events.values()
        if event.thin is thin and event.scope == call.scope and not _too_old(call, event)
    ]


def _too_old(call: Call, event: Event) -> bool:
    return event.created < call.world.clock.now() - KEPT


def _patterns(call: Call) -> list[str]:
    one, several = call.params.get("type"), call.params.get("types")
    if one and several:
        raise errors.ApiError(400, "You may only specify one of these parameters: type, types.", param="types")
    if several and not isinstance(several, list):
        raise errors.invalid_parameter("types", "Invalid array")
    if several and len(several) > MOST_TYPES:
        raise errors.invalid_parameter("types", f"You may pass at most {MOST_TYPES} types")
    return [one] if one else list(several or [])


def retrieve_thin_event(call: Call) -> Json:
    call.require("event_read")
    return _event(call, thin=True).body


def list_thin_events(call: Call) -> Json:
    call.require("event_read")
    types, about = call.params.get("types"), call.params.get("object_id")
    created = {name: _seconds(at) for name, at in (call.params.get("created") or {}).items()}
    found = [
        event.body
        for event in reversed(_visible(call, thin=True))
        if (not types or event.type in types)
        and about in (None, event.session_id)
        and paging.created_within(event.created, created)
    ]
    start, limit = int(call.params.get("page", 0)), int(call.params.get("limit", 20))
    more = f"/v2/core/events?limit={limit}&page={start + limit}" if len(found) > start + limit else None
    return {"data": found[start : start + limit], "next_page_url": more, "previous_page_url": None}


def _seconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp())


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/events", list_events),
    ("GET", "/v1/events/{event}", retrieve_event),
    ("POST", "/v1/events/{event}/retry", retry_event),
    ("GET", "/v2/core/events", list_thin_events),
    ("GET", "/v2/core/events/{event}", retrieve_thin_event),
]
