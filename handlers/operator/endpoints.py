"""Our webhook endpoints among those at Stripe, and the faults of each."""

from typing import Any

from config.settings import settings
from handlers.metrics import outside, tallies
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api import account

_SELECTABLE_BY_NAME_ONLY = "identity.verification_session.redacted"
_MOST = 1000  # letters of a finding: the status and the names in it are Stripe's
_seen: set[str] = set()  # ids of endpoints that have led here, as far as this process knows


def url() -> str:
    """The URL to which Stripe is to deliver."""
    return f"{settings().base_url.rstrip('/')}/webhooks/stripe"


def ours(endpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The endpoints that lead here."""
    return [endpoint for endpoint in endpoints if endpoint["url"] == url()]


def look() -> None:
    """Asks Stripe whether it delivers here, for the findings: if it does not, nothing arrives that could say so.

    A missing endpoint says little by itself: thin events have another list of endpoints, and the Stripe CLI has none.
    """
    if not settings().stripe_api_key or not settings().public_url:
        return
    try:
        wrong = {endpoint["id"]: faults(endpoint) for endpoint in ours(account.list_endpoints())}
    except (NotNowError, PermanentError):  # another finding tells it, but for a key that may not look
        return
    except (LookupError, TypeError):  # the answer holds no endpoints
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
    """The faults of an endpoint, in sentences."""
    found = []
    if endpoint["status"] != "enabled":
        found.append(f"it is {endpoint['status']}: enable it in the dashboard")
    if missing := [name for name in EVENT_TYPES if not _selects(endpoint, name)]:
        found.append(f"it lacks {', '.join(missing)}: Stripe never makes up for what was not selected")
    if settings().livemode not in (None, endpoint["livemode"]):
        found.append("it is of the other mode than STRIPE_API_KEY")
    return found


def remark(endpoint: dict[str, Any]) -> str:
    """A remark on its version of Stripe's API, if that has another name after its date: the date alone says nothing."""
    version = str(endpoint.get("api_version") or account.API_VERSION)
    if version.partition(".")[2] == account.API_VERSION.partition(".")[2]:
        return ""
    return f"its events are of API version {version}, and {account.API_VERSION} is read here: make it anew"


def _selects(endpoint: dict[str, Any], name: str) -> bool:
    selected = endpoint["enabled_events"]
    return name in selected or ("*" in selected and name != _SELECTABLE_BY_NAME_ONLY)
