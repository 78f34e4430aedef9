"""Stands in for the main application: who is behind a session of the capture. Named by EMAIL_LOOKUP."""

from handlers.tables.models import VerificationRecord


def lookup(record: VerificationRecord) -> str | None:
    """Everybody's address but Mia's."""
    if record.user_id is None or record.user_id == "user_mia":
        return None
    return f"{record.user_id.removeprefix('user_')}@example.com"
