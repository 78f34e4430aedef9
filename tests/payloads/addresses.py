"""Stands in for the main application: the address of each person in the capture. Named by EMAIL_LOOKUP."""

from handlers.tables.models import VerificationRecord


def lookup(record: VerificationRecord) -> str | None:
    """The address of each person but Mia."""
    if record.user_id is None or record.user_id == "user_mia":
        return None
    return f"{record.user_id.removeprefix('user_')}@example.com"
