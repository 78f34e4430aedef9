"""Cancels sessions at Stripe, so that they cost nothing more."""

from config.settings import settings
from handlers.stripe_api import sessions
from handlers.tables.models import OutboxAction, VerificationRecord


def cancel_session(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Cancels a session at Stripe: each further submission in it would be billed."""
    if not settings().stripe_api_key:
        return "no STRIPE_API_KEY"
    return None if sessions.cancel_at_stripe(record.session_id, record.account) else "not cancelable"
