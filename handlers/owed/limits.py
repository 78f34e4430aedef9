"""The submissions that a session's limit has lost to the other sessions of its verification."""

from sqlalchemy import func, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from handlers.record.events import Status
from handlers.tables.models import VerificationRecord

_OTHER = aliased(VerificationRecord)
# Their number, as handlers.inbox.verifications.left counts them, for a statement about VerificationRecord.
ELSEWHERE = func.coalesce(
    select(func.sum(_OTHER.submissions))
    .where(
        col(_OTHER.verification_id) == col(VerificationRecord.verification_id),
        col(_OTHER.session_id) != col(VerificationRecord.session_id),
        col(_OTHER.replaced_at).is_not_distinct_from(col(VerificationRecord.replaced_at)),
        or_(
            col(_OTHER.generation) <= col(VerificationRecord.generation),
            col(VerificationRecord.status).is_distinct_from(Status.CANCELED),
        ),
    )
    .correlate(VerificationRecord)
    .scalar_subquery(),
    0,
)
