"""Redacts sessions at Stripe, so that their persons are forgotten there."""

from handlers.stripe_api import changing
from handlers.tables.models import OutboxAction, VerificationRecord


def redact_session(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Begins the redaction of one session; while it is processing, Stripe refuses, and the action stays owed."""
    return None if changing.redact_at_stripe(record.session_id, record.account) else "Stripe has no such session"
