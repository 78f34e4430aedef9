"""How many submissions a session's limit has lost to the others of its verification."""

from sqlalchemy import func, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from handlers.tables.models import VerificationRecord

_OTHER = aliased(VerificationRecord)
# Those of its other sessions since the last that was replaced; in a statement about VerificationRecord.
ELSEWHERE = func.coalesce(
    select(func.sum(_OTHER.submissions))
    .where(
        col(_OTHER.verification_id) == col(VerificationRecord.verification_id),
        col(_OTHER.session_id) != col(VerificationRecord.session_id),
        col(_OTHER.replaced_at).is_(None),
        col(VerificationRecord.replaced_at).is_(None),
    )
    .correlate(VerificationRecord)
    .scalar_subquery(),
    0,
)
