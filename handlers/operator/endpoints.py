"""Our webhook endpoints among those at Stripe, and the faults of each."""

import time
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

from config.database import DATABASE_TROUBLE
from config.settings import settings
from handlers.metrics import heartbeats, outside, tallies
from handlers.operator import public_url
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api import account

_SELECTABLE_BY_NAME_ONLY = "identity.verification_session.redacted"
_MOST = 1000  # letters of a finding: the status and the names in it are Stripe's
_LOOKED_AT_MOST_EVERY = 3.0  # seconds, by a process whose pages are looked at

_latest = -_LOOKED_AT_MOST_EVERY
_lock = Lock()


def url() -> str:
    """The URL to which Stripe is to deliver."""
    return f"{settings().base_url.rstrip('/')}/webhooks/stripe"


def ours(endpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The endpoints that lead here."""
    return [endpoint for endpoint in endpoints if endpoint["url"] == url()]


def look_soon() -> list[Thread]:
    """Looks at it, and at PUBLIC_URL, in threads of their own, which are returned; none if this process has just
    looked, or has no PUBLIC_URL.

    For somebody who looks at the findings: the worker's own look comes once a minute.
    """
    global _latest
    with _lock:
        if not settings().public_url or time.monotonic() - _latest < _LOOKED_AT_MOST_EVERY:
            return []
        _latest = time.monotonic()
    threads = [
        Thread(target=_look_quietly, name="endpoint", daemon=True),
        Thread(target=public_url.look_twice, args=(url(),), name="PUBLIC_URL", daemon=True),
    ]
    for thread in threads:
        thread.start()
    return threads


def _look_quietly() -> None:
    with suppress(*DATABASE_TROUBLE):  # there is a finding for it
        look_at_endpoint()


def look_at_endpoint() -> None:
    """Asks Stripe whether it delivers here, for the findings: if it does not, nothing arrives that could say so.

    A missing endpoint says little by itself: thin events have another list of endpoints, and the Stripe CLI has none.
    """
    if not settings().stripe_api_key or not settings().public_url:
        return
    try:
        wrong = {endpoint["id"]: endpoint_faults(endpoint) for endpoint in ours(account.list_endpoints())}
    except (NotNowError, PermanentError):  # another finding tells it, but for a key that may not look
        return
    except (LookupError, TypeError):  # the answer holds no endpoints
        return
    if not all(wrong.values()):
        outside.note_answer(outside.ENDPOINT)
    elif wrong:
        words = "; ".join(f"{id_}: {'; '.join(some)}" for id_, some in wrong.items())
        outside.note_refusal(outside.ENDPOINT, f"delivers less than it should: {words}"[:_MOST])
    elif _has_led_here() or not tallies.lately().deliveries(tallies.DAY)["accepted", ""]:
        outside.note_refusal(outside.ENDPOINT, "is gone: none leads to PUBLIC_URL")


def _has_led_here() -> bool:
    """Whether a process has seen an endpoint of ours without a fault."""
    standings = (standing for one in heartbeats.known_processes() for standing in outside.heard(one.outside))
    return any(one.of == outside.ENDPOINT and one.answered is not None for one in standings)


def endpoint_faults(endpoint: dict[str, Any]) -> list[str]:
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
