"""Writes down owed actions, once per key."""

from collections.abc import Collection, Iterable
from datetime import datetime
from operator import itemgetter

from sqlalchemy import update
from sqlmodel import Session, col

from config.inserts import insert_or
from config.settings import settings
from handlers.owed.kinds import BURNED_CAUSE, KINDS, TELLING, Owed
from handlers.record.decide import PERHAPS_SENT, READ_BACK
from handlers.tables.models import ActionStatus, OutboxAction, status_of

_TELLING = ", ".join(f"'{name}'" for name in TELLING)
_REVIVING = ", ".join(f"'{name}'" for name, kind in KINDS.items() if kind.revives)
# The reviewer's mails, which each further event owes again.
_ALERTS = {name for name, kind in KINDS.items() if kind.destination == "mail" and kind.owed_at_limit}
# rule: an alert that was sent before the database was lost is not sent again
_SENT = READ_BACK, PERHAPS_SENT
# rule: a skipped action that is owed again becomes pending again
_OWED_AGAIN = f"""
(session_id, name, cause) DO UPDATE
SET status = excluded.status, reason = excluded.reason, due_at = excluded.due_at, done_at = excluded.done_at,
    waits = outbox_action.attempts, given_away_at = excluded.given_away_at, resent_at = excluded.resent_at
WHERE excluded.status = 'pending' AND (
    outbox_action.status = 'skipped' AND NOT (
        outbox_action.name IN ({", ".join(map(repr, _ALERTS))}) AND outbox_action.reason IN {_SENT}
    )
    OR outbox_action.status = 'done' AND outbox_action.name IN ({_TELLING})
    OR outbox_action.status = 'dead' AND outbox_action.name IN ({_REVIVING})
)"""  # rule: an action that is done stays done; but for a mail after which the person was told another thing


def owe(session: Session, owed: Iterable[tuple[str, list[Owed]]], at: datetime) -> list[int]:
    """Writes down the actions that each session owes, once per key; returns the ids of those to be done now.

    A skipped action that is owed again becomes pending again, with all its tries before it; so does a mail that is
    done, and a dead action whose kind revives; every other row stays as it is, also an alert that was sent before the
    database was lost. An action whose setting is empty is not written down.
    """
    wanted: dict[tuple[str, str, str], Owed] = {}
    for session_id, some in owed:
        for one in some:
            setting, key = KINDS[one.kind].setting, (session_id, one.kind, one.cause)
            # rule: an action whose setting is empty is not written down
            if setting and not getattr(settings(), setting):
                continue
            # rule: of two actions with one key the pending one wins
            if key not in wanted or (
                wanted[key].skipped and not (one.kind in _ALERTS and wanted[key].skipped in _SENT)
            ):
                wanted[key] = one
    rows = [
        {
            "session_id": key[0],
            "name": one.kind,
            "cause": one.cause,
            "status": ActionStatus.SKIPPED if one.skipped else ActionStatus.PENDING,
            "reason": one.skipped,
            "payload": one.payload,
            "attempts": 0,
            "waits": 0,
            "due_at": at,
            "created_at": at,
            "done_at": at if one.skipped else None,
        }
        for key, one in sorted(wanted.items(), key=itemgetter(0))  # one order for all workers: no deadlock
    ]
    written = insert_or(session.connection(), OutboxAction, rows, on_conflict=_OWED_AGAIN, returning="id, status")
    return [id_ for id_, status in written if status == ActionStatus.PENDING]


def withdraw(session: Session, session_ids: Collection[str], kinds: Collection[str], reason: str, at: datetime) -> None:
    """Skips the pending actions of these kinds of these sessions; a worker that is about to do one loses its claim.
    The cancellation of a session that is not its verification's current one stays owed.
    """
    pending = update(OutboxAction).where(
        col(OutboxAction.session_id).in_(session_ids),
        col(OutboxAction.name).in_(kinds),
        col(OutboxAction.cause) != BURNED_CAUSE,
        status_of(OutboxAction) == ActionStatus.PENDING,
    )
    session.connection().execute(pending.values(status=ActionStatus.SKIPPED, reason=reason, done_at=at))
