"""Our own account at Stripe: its webhook endpoints, and its clock."""

from datetime import datetime
from typing import Any

import stripe

from handlers.queue.failures import NotAllowedError, UnreadableError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api.client import ask, ask_for_page

_ENDPOINTS = "/v1/webhook_endpoints"
API_VERSION: str = stripe.api_version  # the SDK's own, as we read events


def list_endpoints() -> list[dict[str, Any]]:
    """The account's first hundred webhook endpoints, in the mode of the key."""
    return [endpoint for endpoint in ask_for_page(_ENDPOINTS, limit=100).content["data"] if isinstance(endpoint, dict)]


def create_endpoint(url: str, *, connect: bool) -> tuple[str, str]:
    """Registers a webhook endpoint for our six types by name; its id, and the signing secret, which is shown once."""
    endpoint = ask(
        "post",
        _ENDPOINTS,
        "webhook_endpoint",
        url=url,
        enabled_events=list(EVENT_TYPES),
        api_version=API_VERSION,
        connect=connect,
        description="Identity verification events",
    ).content
    return str(endpoint["id"]), str(endpoint["secret"])


def find_event(event_id: str) -> dict[str, Any]:
    """One of our own account's events. Raises as `ask`."""
    return ask("get", f"/v1/events/{event_id}", "event").content


def stripe_now() -> datetime:
    """Stripe's clock, in whole seconds. Raises as `ask`."""
    try:
        dated = ask("get", "/v1/balance", "balance").dated
    except NotAllowedError as error:  # a restricted key that may not ask for this: the answer has a date too
        if error.dated is None:
            raise
        dated = error.dated
    if dated is None:
        raise UnreadableError("Stripe's answer has no date")
    return dated
