"""Identifiers and secrets that look like Stripe's."""

import secrets
import string

ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """An id such as vs_1Abc…: prefix, underscore, 24 characters."""
    return f"{prefix}_1{token(23)}"


def thin_event_id(livemode: bool) -> str:
    """An event id of the v2 API: longer, and in test mode it names the mode."""
    return f"evt_{'' if livemode else 'test_'}65{token(40)}"


def token(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def webhook_secret() -> str:
    return f"whsec_{token(32)}"


def mode(livemode: bool) -> str:
    return "live" if livemode else "test"
