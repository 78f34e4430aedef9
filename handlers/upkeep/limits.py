"""Limits: whoever has used up the submissions that there are by now, though a worker with another limit applied it.

While a release rolls out, two limits are in force. What a prompt or a cancellation meets at its own moment is mended
there (handlers/outbox/perform.py); who was prompted before the limit fell is found here.
"""

from sqlalchemy import and_, exists, or_, select
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.owed.kinds import LIMIT_CAUSE
from handlers.owed.limits import ELSEWHERE
from handlers.owed.owe import owe
from handlers.record.decide import owed_still
from handlers.record.events import Status
from handlers.tables.models import OutboxAction, VerificationRecord

_MOST = 1000  # records a run: each is locked until all are written


def judge_limits() -> list[int]:
    """Writes down what they owe; returns the ids of what is to be done now."""
    limit = settings().submission_limit
    judged = exists().where(
        col(OutboxAction.session_id) == col(VerificationRecord.session_id), col(OutboxAction.cause) == LIMIT_CAUSE
    )
    submissions = col(VerificationRecord.submissions)
    of_many = and_(col(VerificationRecord.verification_id).is_not(None), submissions + ELSEWHERE >= limit)
    is_open = col(VerificationRecord.status) == Status.REQUIRES_INPUT
    # Without an index of its own: one scan a run costs less than an index that every event's update has to keep. By
    # itself, since PostgreSQL would reckon with the other sessions of each record that there is.
    some = or_(submissions >= limit, col(VerificationRecord.verification_id).is_not(None))
    open_ones = select(col(VerificationRecord.session_id)).where(is_open, some).cte("open_ones")
    forgotten = (
        select(VerificationRecord, now(), ELSEWHERE)
        .where(
            col(VerificationRecord.session_id).in_(select(open_ones.prefix_with("MATERIALIZED").c.session_id)),
            is_open,
            or_(submissions >= limit, of_many),
            col(VerificationRecord.redacted_at).is_(None),
            ~judged,
        )
        .order_by(col(VerificationRecord.session_id))  # as everywhere: no deadlock
        .limit(_MOST)
        .with_for_update(of=VerificationRecord, skip_locked=True)  # an event is being applied to it, and judges it
    )
    with transaction() as session:
        found = session.execute(forgotten).all()
        owed = [(record.session_id, owed_still(record.state, limit - elsewhere)) for record, _, elsewhere in found]
        return owe(session, owed, found[0][1]) if found else []
