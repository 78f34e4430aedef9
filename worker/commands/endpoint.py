"""The webhook endpoint at Stripe: registered, and checked for drift."""

import argparse
import sys
from typing import Any

from config.settings import settings
from handlers.operator.audit import note_beforehand
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api import account
from worker.commands.options import acting
from worker.commands.printing import print_json

_SELECTABLE_BY_NAME_ONLY = "identity.verification_session.redacted"


def endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Create or check."""
    parser.add_argument("what", choices=("create", "check"))
    parser.add_argument("--connect", action="store_true", help="create: for events of connected accounts")


def manage_endpoint(arguments: argparse.Namespace) -> int:
    """0 when the endpoint is (now) there and complete, 1 when not, 2 when nobody can be asked."""
    if not settings().stripe_api_key or not settings().public_url:
        print("STRIPE_API_KEY and PUBLIC_URL must be set: the endpoint is PUBLIC_URL/webhooks/stripe.", file=sys.stderr)
        return 2
    try:
        return _create(arguments) if arguments.what == "create" else _check(arguments)
    except (NotNowError, PermanentError) as error:
        print(f"{error}. A restricted key needs the permission to read and write webhook endpoints.", file=sys.stderr)
        return 1


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


def _create(arguments: argparse.Namespace) -> int:
    if existing := ours(account.list_endpoints()):
        ids = ", ".join(endpoint["id"] for endpoint in existing)
        print(f"{ids} leads to {url()} already: python -m worker endpoint check", file=sys.stderr)
        return 1
    note_beforehand(acting(arguments), "endpoint")
    endpoint_id, secret = account.create_endpoint(url(), connect=arguments.connect)
    if arguments.json:
        print_json({"id": endpoint_id, "url": url(), "secret": secret})
    else:
        print(f"{endpoint_id} delivers to {url()}. Nobody shows its secret again:")
        print(f"STRIPE_WEBHOOK_SECRET={secret}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    found = [{"id": one["id"], "url": one["url"], "faults": faults(one)} for one in ours(account.list_endpoints())]
    if arguments.json:
        print_json(found)
    else:
        for one in found:
            print(f"{one['id']}: {'; '.join(one['faults']) or 'enabled, with all six types'}")
        if not found:
            print(f"No endpoint leads to {url()}: python -m worker endpoint create")
    return 0 if found and not any(one["faults"] for one in found) else 1
