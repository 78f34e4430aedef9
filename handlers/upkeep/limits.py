"""Limits: finds the open sessions that have reached the limit, though their events were applied under another one.

While a release rolls out, two limits are in force. A prompt or a cancellation that the other limit owes is mended when
it is performed (handlers/outbox/perform.py); a person who was prompted before the limit fell is found here.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.owed.kinds import ENDED_BY_HIGHER_LIMIT, LIMIT_CAUSE
from handlers.owed.limits import ELSEWHERE
from handlers.owed.owe import owe
from handlers.queue.failures import stopping
from handlers.record.decide import SUPERSEDED, owed_still
from handlers.record.events import Status
from handlers.tables.models import OutboxAction, VerificationRecord
from handlers.upkeep import progress

_MOST = 1000  # records at once: each is locked until all are written


def judge_limits() -> list[int]:
    """Writes down the actions that these sessions owe; returns the ids of those to be done now.

    A run reads the next page of the records, so it costs the same however many there are; if this limit is new, it
    reads all of them.
    """
    name = f"limit:{settings().submission_limit}"
    progress.forget("limit:", but_for=name)  # a return to an older limit begins anew
    is_new = "" not in progress.asked(name)
    start: datetime | None = progress.reached(name) or progress.BEGINNING
    to_do: list[int] = []
    while start and not stopping.is_set():
        which, start = progress.page_of_records(start)
        found, some = _judged(which)
        to_do += some
        if found == _MOST:  # this page may hold more, for the next run
            break
        progress.move(name, start or progress.BEGINNING)
        if start is None:
            progress.begin(name, progress.BEGINNING)
        if not is_new:
            break
    return to_do


def _judged(which: Sequence[ColumnElement[bool]]) -> tuple[int, list[int]]:
    """The number of such sessions among these records, and the ids of the actions to be done now."""
    limit = settings().submission_limit
    judged = exists().where(
        col(OutboxAction.session_id) == col(VerificationRecord.session_id), col(OutboxAction.cause) == LIMIT_CAUSE
    )
    # A worker with a higher limit has prompted its person instead.
    is_passed_over = judged.where(
        col(OutboxAction.name).in_(ENDED_BY_HIGHER_LIMIT),
        col(OutboxAction.reason) == SUPERSEDED,
        col(VerificationRecord.replaced_at).is_(None),
    )
    submissions = col(VerificationRecord.submissions)
    of_many = and_(col(VerificationRecord.verification_id).is_not(None), submissions + ELSEWHERE >= limit)
    is_open = col(VerificationRecord.status) == Status.REQUIRES_INPUT
    # In a CTE of its own: PostgreSQL would else add up the other sessions of every record.
    some = or_(submissions >= limit, col(VerificationRecord.verification_id).is_not(None))
    open_ones = select(col(VerificationRecord.session_id)).where(is_open, some, *which).cte("open_ones")
    forgotten = (
        select(VerificationRecord, now(), ELSEWHERE)
        .where(
            col(VerificationRecord.session_id).in_(select(open_ones.prefix_with("MATERIALIZED").c.session_id)),
            is_open,
            or_(submissions >= limit, of_many),
            col(VerificationRecord.redacted_at).is_(None),
            or_(~judged, is_passed_over),  # rule: a session that a higher limit has let go on is judged again
        )
        .order_by(col(VerificationRecord.session_id))  # as everywhere: no deadlock
        .limit(_MOST)
        .with_for_update(of=VerificationRecord, skip_locked=True)  # the event that holds a record judges it
    )
    with transaction() as session:
        found = session.execute(forgotten).all()
        owed = [(record.session_id, owed_still(record.state, limit - elsewhere)) for record, _, elsewhere in found]
        return len(found), owe(session, owed, found[0][1]) if found else []
