"""Sending again, on purpose: actions that are done or skipped; never one that its record contradicts by now."""

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import select, update
from sqlmodel import Session, col

from config.database import now, transaction
from config.settings import settings
from handlers.operator.audit import By, note
from handlers.operator.reasons import skipped
from handlers.owed.kinds import KINDS
from handlers.owed.limits import ELSEWHERE
from handlers.record.decide import why_not_owed
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

_DONE_BEFORE = "it is not at its end, or was done once more since you asked; somebody may have done it before you"


def resend(action_ids: Sequence[int], by: By, tries: int | None = None) -> dict[int, str | None]:
    """Makes these actions due once more, with all their tries anew. Returns for each None, or why it was refused.

    A mail gets another Message-ID, and still says what its record says: if that has moved on, or the person is
    forgotten, the action is refused, as it would be skipped when it is performed. With `tries`, those that its author
    has seen, it is also refused if there were more meanwhile.
    """
    refused: dict[int, str | None] = {}
    for action_id in sorted(set(action_ids)):
        with transaction() as session:
            refused[action_id] = _resend(session, action_id, by, tries)
    if ids := [one for one, why in refused.items() if why is None]:
        log.info("actions.resent", ids=ids, by=by.who, reason=by.reason)
    return refused


def _resend(session: Session, action_id: int, by: By, tries: int | None) -> str | None:
    action = session.get(OutboxAction, action_id)
    if action is None:
        return "there is no such action"
    if action.name not in KINDS:
        return "this version does not know what it is"
    whose = col(VerificationRecord.session_id) == action.session_id
    # The record is locked first, as at the end of a mail: no deadlock, and no mail ends meanwhile.
    record = session.scalars(select(VerificationRecord).where(whose).with_for_update()).one()
    limit = settings().submission_limit - session.scalars(select(ELSEWHERE).where(whose)).one()
    # rule: an action that the record contradicts is not sent again
    if why := why_not_owed(replace(record.state, told=None), action.name, action.cause, limit):
        return skipped(why)
    again = update(OutboxAction).where(
        col(OutboxAction.id) == action_id,
        # rule: an action that is not at its end is not sent again
        col(OutboxAction.status).in_((ActionStatus.DONE, ActionStatus.SKIPPED)),
    )
    if tries is not None:
        again = again.where(col(OutboxAction.attempts) == tries)  # rule: one form has an action done once more, once
    once_more = {"status": ActionStatus.PENDING, "reason": None, "done_at": None, "given_away_at": None}
    anew = {"waits": col(OutboxAction.attempts), "due_at": now(), "resent_at": now()}
    if not session.connection().execute(again.values(**once_more, **anew)).rowcount:
        return "it is not at its end: python -m worker retry" if tries is None else _DONE_BEFORE
    note(session, by, "resend", (action.session_id, action_id))
    return None
