"""Which of the webhook endpoints at Stripe are ours, and what is wrong with one."""

from typing import Any

from config.settings import settings
from handlers.record.events import EVENT_TYPES

_SELECTABLE_BY_NAME_ONLY = "identity.verification_session.redacted"


def url() -> str:
    """Where Stripe is to deliver."""
    return f"{settings().base_url.rstrip('/')}/webhooks/stripe"


def ours(endpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of Stripe's endpoints that lead here."""
    return [endpoint for endpoint in endpoints if endpoint["url"] == url()]


def faults(endpoint: dict[str, Any]) -> list[str]:
    """What is wrong with an endpoint, in sentences."""
    found = []
    if endpoint["status"] != "enabled":
        found.append(f"it is {endpoint['status']}: enable it in the dashboard")
    if missing := [name for name in EVENT_TYPES if not _selects(endpoint, name)]:
        found.append(f"it lacks {', '.join(missing)}: Stripe never makes up for what was not selected")
    if settings().livemode not in (None, endpoint["livemode"]):
        found.append("it is of the other mode than STRIPE_API_KEY")
    return found


def _selects(endpoint: dict[str, Any], name: str) -> bool:
    selected = endpoint["enabled_events"]
    return name in selected or ("*" in selected and name != _SELECTABLE_BY_NAME_ONLY)
