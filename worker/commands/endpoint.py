"""The command that registers the webhook endpoint at Stripe, or checks it for drift."""

import argparse

from config.settings import settings
from handlers.operator.audit import note_beforehand
from handlers.operator.endpoints import endpoint_faults, ours, url
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError
from handlers.stripe_api import account
from worker.commands.options import acting
from worker.commands.printing import print_json, refused


def endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds the choice between create and check, and --connect."""
    parser.add_argument("what", choices=("create", "check"))
    parser.add_argument("--connect", action="store_true", help="create: for events of connected accounts")


def manage_endpoint(arguments: argparse.Namespace) -> int:
    """Creates or checks the endpoint: 0 when it is there and complete, 1 when not, 2 when a setting is missing."""
    if not settings().stripe_api_key or not settings().public_url:
        return refused("STRIPE_API_KEY and PUBLIC_URL must be set: the endpoint is PUBLIC_URL/webhooks/stripe.", 2)
    try:
        return _create(arguments) if arguments.what == "create" else _check(arguments)
    except NotAllowedError as error:
        lacking = "a restricted key needs the permission to read and write webhook endpoints"
        return refused(f"{error}: {error.why or lacking}.")
    except (NotNowError, PermanentError) as error:
        return refused(f"{error}.")


def _create(arguments: argparse.Namespace) -> int:
    if existing := ours(account.list_endpoints()):
        ids = ", ".join(endpoint["id"] for endpoint in existing)
        return refused(f"{ids} leads to {url()} already: python -m worker endpoint check")
    note_beforehand(acting(arguments), "endpoint")
    endpoint_id, secret = account.create_endpoint(url(), connect=arguments.connect)
    if arguments.json:
        print_json({"id": endpoint_id, "url": url(), "secret": secret})
    else:
        print(f"{endpoint_id} delivers to {url()}. Nobody shows its secret again:")
        print(f"STRIPE_WEBHOOK_SECRET={secret}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    found = [
        {"id": one["id"], "url": one["url"], "faults": endpoint_faults(one)} for one in ours(account.list_endpoints())
    ]
    if arguments.json:
        print_json(found)
    else:
        for one in found:
            print(f"{one['id']}: {'; '.join(one['faults']) or 'enabled, with all six types'}")
        if not found:
            print(f"No endpoint leads to {url()}: python -m worker endpoint create")
    return 0 if found and not any(one["faults"] for one in found) else 1
