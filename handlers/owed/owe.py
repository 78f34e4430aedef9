"""What is owed, written down once per key."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlmodel import Session

from config.inserts import insert_or
from config.settings import settings
from handlers.owed.kinds import KINDS, Owed
from handlers.tables.models import ActionStatus, OutboxAction

# rule: what is owed again while it is skipped becomes pending again
_OWED_AGAIN = """
(session_id, name, cause) DO UPDATE
SET status = excluded.status, reason = excluded.reason, due_at = excluded.due_at, done_at = excluded.done_at
WHERE outbox_action.status = 'skipped' AND excluded.status = 'pending'"""  # rule: what is done stays done


def owe(session: Session, owed: Iterable[tuple[str, list[Owed]]], at: datetime) -> list[int]:
    """Writes down what each session owes, once per key; returns the ids of what is to be done now.

    What stands as skipped and is owed again becomes pending again; anything else that stands is left alone. What no
    setting asks for is not written down.
    """
    wanted: dict[tuple[str, str, str], Owed] = {}
    for session_id, some in owed:
        for one in some:
            setting, key = KINDS[one.kind].setting, (session_id, one.kind, one.cause)
            # rule: what no setting asks for is not written down
            if setting and not getattr(settings(), setting):
                continue
            # rule: of one key owed twice, what is to be done wins
            if key not in wanted or wanted[key].skipped:
                wanted[key] = one
    rows = [_action_row(key[0], wanted[key], at) for key in sorted(wanted)]  # one order for all workers: no deadlock
    written = insert_or(session.connection(), OutboxAction, rows, on_conflict=_OWED_AGAIN, returning="id, status")
    return [row.id for row in written if row.status == ActionStatus.PENDING]


def _action_row(session_id: str, owed: Owed, at: datetime) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "name": owed.kind,
        "cause": owed.cause,
        "status": ActionStatus.SKIPPED if owed.skipped else ActionStatus.PENDING,
        "reason": owed.skipped,
        "payload": owed.payload,
        "attempts": 0,
        "waits": 0,
        "due_at": at,
        "created_at": at,
        "done_at": at if owed.skipped else None,
    }
