"""The outbox: what is owed is written with its cause, claimed, performed, and then done, skipped, due later or dead."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import bindparam, select, update
from sqlmodel import Session, col

from config.database import statement, transaction
from config.inserts import insert_or
from config.settings import settings
from handlers.metrics import counting
from handlers.outbox import application
from handlers.outbox.registry import ACTIONS, is_wanted
from handlers.queue.claims import Claim, bury, give_up, held, write
from handlers.queue.failures import LEASE, PermanentError, stopping
from handlers.record.decide import Owed, why_not_owed
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord, utc_now

log = structlog.stdlib.get_logger(__name__)

# Statements are built once: building one costs more than running it.
_OWED_AGAIN = """
(session_id, name, cause) DO UPDATE
SET status = excluded.status, reason = excluded.reason, due_at = excluded.due_at, done_at = excluded.done_at
WHERE outbox_action.status = 'skipped' AND excluded.status = 'pending'"""
_CLAIM = (
    update(OutboxAction)
    .where(
        col(OutboxAction.id) == bindparam("action_id"),
        col(OutboxAction.status) == ActionStatus.PENDING,
        col(OutboxAction.due_at) <= bindparam("now"),
    )
    .values(attempts=OutboxAction.attempts + 1, due_at=bindparam("leased_until"), last_error=None)
    .returning(OutboxAction)
    .execution_options(synchronize_session=False)
)


def owe(session: Session, owed: Iterable[tuple[str, list[Owed]]]) -> list[int]:
    """Writes down what each session owes, once per key; returns the ids of what is to be done now.

    What stands as skipped and is owed again becomes pending again; anything else that stands is left alone.
    """
    now = utc_now()
    wanted: dict[tuple[str, str, str], Owed] = {}
    for session_id, some in owed:
        for one in filter(is_wanted, some):
            key = (session_id, one.name, one.cause)
            if key not in wanted or wanted[key].skipped:
                wanted[key] = one
    if not wanted:
        return []
    rows = [_row(session_id, wanted[session_id, name, cause], now) for session_id, name, cause in sorted(wanted)]
    written = insert_or(session.connection(), OutboxAction, rows, on_conflict=_OWED_AGAIN, returning="id, status")
    return [row.id for row in written if row.status == ActionStatus.PENDING]


def perform(action_id: int) -> list[int]:
    """Does what is owed, if it is due, unclaimed and still owed. Never raises for the action's own failure.

    Returns the ids of actions that waited for this one, or for one that ended meanwhile.
    """
    claimed = None if stopping.is_set() else _claim(action_id)
    if claimed is None:
        return []
    claim, action, record = claimed
    with structlog.contextvars.bound_contextvars(action_id=action_id, session_id=action.session_id, action=action.name):
        _try(claim, action, record)
        return _released(action)


def due(limit: int, before: datetime) -> list[int]:
    """The ids of pending actions that nobody holds, due longest first."""
    waiting = (
        select(col(OutboxAction.id))
        .where(col(OutboxAction.status) == ActionStatus.PENDING, col(OutboxAction.due_at) <= before)
        .order_by(col(OutboxAction.due_at))
        .limit(limit)
    )
    with statement() as connection:
        return [action_id for action_id in connection.scalars(waiting) if action_id is not None]


def _row(session_id: str, owed: Owed, now: datetime) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "name": owed.name,
        "cause": owed.cause,
        "status": ActionStatus.SKIPPED if owed.skipped else ActionStatus.PENDING,
        "reason": owed.skipped,
        "payload": owed.payload,
        "attempts": 0,
        "waits": 0,
        "due_at": now,
        "created_at": now,
        "done_at": now if owed.skipped else None,
    }


def _claim(action_id: int) -> tuple[Claim, OutboxAction, VerificationRecord] | None:
    now = utc_now()
    with transaction() as session:
        parameters = {"action_id": action_id, "now": now, "leased_until": now + LEASE}
        action = session.scalars(_CLAIM, parameters).one_or_none()
        if action is None:
            return None
        record = session.get_one(VerificationRecord, action.session_id)
    return Claim(OutboxAction, action_id, action.attempts, action.waits, action.name), action, record


def _try(claim: Claim, action: OutboxAction, record: VerificationRecord) -> None:
    if claim.tries > claim.most_tries:
        return bury(claim, "every attempt ended with its process")
    try:
        reason = why_not_owed(record, action, settings().submission_limit) or _do(action, record)
    except Exception as error:
        return give_up(claim, error)
    return _finish(claim, reason)


def _do(action: OutboxAction, record: VerificationRecord) -> str | None:
    if action.name not in ACTIONS:
        raise PermanentError(f"there is no action {action.name!r}")
    return ACTIONS[action.name](action, record)


def _released(action: OutboxAction) -> list[int]:
    return application.release_next(action.session_id) if action.name == "notify_app" else []


def _finish(claim: Claim, reason: str | None) -> None:
    status = ActionStatus.SKIPPED if reason else ActionStatus.DONE
    end = held(claim).values(status=status, reason=reason, done_at=utc_now(), last_error=None)
    # Should it not be written down, it is done again: mails carry the same Message-ID, so a reader sees one.
    for owed_at in write(end.returning(col(OutboxAction.created_at))):
        counting.count("identity_actions_total", name=claim.kind, status=status)
        counting.observe("identity_action_age_seconds", (utc_now() - owed_at).total_seconds())
        log.info(f"action.{status}", **({"reason": reason} if reason else {}))
        return
    log.warning("action.unrecorded")
