"""Which of the webhook endpoints at Stripe are ours, and what is wrong with one."""

from typing import Any

from config.settings import settings
from handlers.metrics import outside, tallies
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api import account

_SELECTABLE_BY_NAME_ONLY = "identity.verification_session.redacted"
_MOST = 1000  # letters: a status and names are Stripe's
_seen: set[str] = set()  # which have led here, as far as this process knows


def url() -> str:
    """Where Stripe is to deliver."""
    return f"{settings().base_url.rstrip('/')}/webhooks/stripe"


def ours(endpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of Stripe's endpoints that lead here."""
    return [endpoint for endpoint in endpoints if endpoint["url"] == url()]


def look() -> None:
    """Asks Stripe whether it delivers here, for the findings: where it does not, nothing arrives that could say so.

    That none leads here says little by itself: thin events come by another list, and the Stripe CLI by none.
    """
    if not settings().stripe_api_key or not settings().public_url:
        return
    try:
        wrong = {endpoint["id"]: faults(endpoint) for endpoint in ours(account.list_endpoints())}
    except (NotNowError, PermanentError):  # told by itself, but for a key that may not look
        return
    except (LookupError, TypeError):  # what came is no endpoint
        return
    if not all(wrong.values()):
        _seen.update(wrong)
        outside.answered(outside.ENDPOINT)
    elif wrong:
        words = "; ".join(f"{id_}: {'; '.join(some)}" for id_, some in wrong.items())
        outside.refused(outside.ENDPOINT, f"delivers less than it should: {words}"[:_MOST])
    elif _seen or not tallies.lately().deliveries(tallies.DAY)["accepted", ""]:
        outside.refused(outside.ENDPOINT, "is gone: none leads to PUBLIC_URL")


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


def remark(endpoint: dict[str, Any]) -> str:
    """What may be wrong with it: its version of Stripe's API, of which others than the name tell no difference."""
    version = str(endpoint.get("api_version") or account.API_VERSION)
    if version.partition(".")[2] == account.API_VERSION.partition(".")[2]:
        return ""
    return f"its events are of API version {version}, and {account.API_VERSION} is read here: make it anew"


def _selects(endpoint: dict[str, Any], name: str) -> bool:
    selected = endpoint["enabled_events"]
    return name in selected or ("*" in selected and name != _SELECTABLE_BY_NAME_ONLY)
