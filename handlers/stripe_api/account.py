"""Our own account at Stripe: its webhook endpoints, and its clock."""

from datetime import datetime
from typing import Any

import orjson
import stripe

from handlers.record.events import EVENT_TYPES
from handlers.stripe_api.client import date_of, translated, v1


def list_endpoints() -> list[dict[str, Any]]:
    """The account's first hundred webhook endpoints, in the mode of the key."""
    try:
        response: Any = v1().webhook_endpoints.list(params={"limit": 100}).last_response
    except stripe.StripeError as error:
        raise translated(error) from None
    found: list[dict[str, Any]] = orjson.loads(response.body)["data"]
    return found


def create_endpoint(url: str, *, connect: bool) -> tuple[str, str]:
    """Registers a webhook endpoint for our six types by name; its id, and the signing secret nobody shows again."""
    try:
        endpoint = v1().webhook_endpoints.create(
            params={
                "url": url,
                "enabled_events": list(EVENT_TYPES),
                "api_version": stripe.api_version,  # the SDK's own, as we read its events
                "connect": connect,
                "description": "Identity verification events",
            }
        )
    except stripe.StripeError as error:
        raise translated(error) from None
    return endpoint.id, str(endpoint.secret)


def stripe_now() -> datetime:
    """Stripe's clock, in whole seconds."""
    try:
        response: Any = v1().balance.retrieve().last_response
    except stripe.PermissionError as error:  # a restricted key that may not ask for this: the answer has a date too
        return date_of(error.headers)
    except stripe.StripeError as error:
        raise translated(error) from None
    return date_of(response.headers)
