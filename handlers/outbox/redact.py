"""Has a person forgotten at Stripe, who asked for it."""

from handlers.stripe_api import changing
from handlers.tables.models import OutboxAction, VerificationRecord


def redact_session(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Begins the redaction of one session; while that is processing Stripe does not accept it, and it stays owed."""
    return None if changing.redact(record.session_id, record.account) else "Stripe has no such session"
