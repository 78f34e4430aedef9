"""Short words for tests of the application's half: its openings, and the sessions that Stripe then has."""

from typing import Any

from starlette.testclient import TestClient

from handlers.sessions.opening import Opened, open_verification
from handlers.sessions.turn import Wanted
from tests.integration.stories import Stories

TOKEN = "t" * 32
APP = {"Authorization": f"Bearer {TOKEN}"}
WAYS: dict[str, dict[str, str]] = {"modal": {}, "redirect": {}, "native": {"stripe_version": "2026-10-28.endive"}}
LEAST = {"client_reference_id": "user-1", "type": "document"}
CREATING: dict[str, Any] = {"path": "/v1/identity/verification_sessions", "method": "POST"}  # for a fault at Stripe


def open_one(api: TestClient, **changes: Any) -> Any:
    """The answer to an opening for user-1."""
    return api.post("/verifications", json={**LEAST, **changes})


def wanted(**changes: Any) -> Wanted:
    """The same opening, to open without HTTP."""
    least: dict[str, Any] = {"client_reference_id": "user-1", "purpose": "", "account": "", "livemode": False}
    return Wanted(**(least | {"params": {"type": "document"}} | changes))


def open_wanted(**changes: Any) -> Opened:
    """Opens without HTTP; the opening, which nobody else is at."""
    found = open_verification(wanted(**changes))
    assert found
    return found


def at_stripe(stripe: Stories) -> list[dict[str, Any]]:
    """All sessions, in the order in which they were made."""
    return list(stripe.simulator.truth()["sessions"])
