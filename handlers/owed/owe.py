"""Writes down owed actions, once per key, and the words that a person was told."""

from collections.abc import Collection, Iterable
from datetime import datetime
from operator import itemgetter

from sqlalchemy import bindparam, func, select, update
from sqlmodel import Session, col

from config.database import now
from config.inserts import insert_or
from config.settings import settings
from handlers.owed.kinds import BURNED_CAUSE, KINDS, TELLING, Owed
from handlers.owed.limits import ELSEWHERE
from handlers.record.decide import PERHAPS_SENT, READ_BACK, owed_still
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord, status_of

_TELLING = ", ".join(f"'{name}'" for name in TELLING)
_REVIVING = ", ".join(f"'{name}'" for name, kind in KINDS.items() if kind.revives)
# The reviewer's mails, which each further event owes again.
_ALERTS = {name for name, kind in KINDS.items() if kind.destination == "mail" and kind.owed_at_limit}
# rule: an alert that was sent before the database was lost is not sent again
_SENT = READ_BACK, PERHAPS_SENT
_IS_SKIPPED_ALERT = (
    f"outbox_action.status = 'skipped' AND outbox_action.name IN ({', '.join(map(repr, sorted(_ALERTS)))})"
)
# rule: a skipped action that is owed again becomes pending again
_OWED_AGAIN = f"""
(session_id, name, cause) DO UPDATE
SET status = excluded.status, reason = excluded.reason, due_at = excluded.due_at, done_at = excluded.done_at,
    waits = outbox_action.attempts, given_away_at = excluded.given_away_at, resent_at = excluded.resent_at
WHERE excluded.status = 'pending' AND (
    outbox_action.status = 'skipped' AND NOT ({_IS_SKIPPED_ALERT} AND outbox_action.reason IN {_SENT})
    OR outbox_action.status = 'done' AND outbox_action.name IN ({_TELLING})
    OR outbox_action.status = 'dead' AND outbox_action.name IN ({_REVIVING})
)
OR {_IS_SKIPPED_ALERT} AND excluded.reason IN {_SENT}
"""  # rule: an action that is done stays done; but for a mail after which the person was told another thing
# It locks the record also if the person was told nothing.
_TOLD = (
    update(VerificationRecord)
    .where(col(VerificationRecord.session_id) == bindparam("about"))
    .values(
        told_cause=func.coalesce(bindparam("told"), col(VerificationRecord.told_cause)),
        told_count=col(VerificationRecord.told_count) + bindparam("mails"),
    )
    .returning(VerificationRecord, now())
)
_TOLD_SINCE = select(col(OutboxAction.id)).where(
    col(OutboxAction.session_id) == bindparam("session_id"),
    col(OutboxAction.name).in_(TELLING),
    col(OutboxAction.status) == ActionStatus.DONE,
    col(OutboxAction.done_at) > bindparam("since"),
)


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


def note_told(
    session: Session, action: OutboxAction, told: str | None, *, is_certain: bool
) -> tuple[int | None, list[int]]:
    """Writes into an action's record that the person was told its cause, or may have been, and owes the actions that
    follow; returns the mail's number, if it is the last word, and the ids of the due actions.
    """
    about = {"about": action.session_id, "told": told, "mails": 1 if told else 0}
    if told and not is_certain:
        session.execute(_TOLD, {**about, "told": None, "mails": 0})  # locks the record: no mail ends meanwhile
        # rule: a mail that may have arrived before another one is not the last word
        if session.execute(_TOLD_SINCE, {"session_id": action.session_id, "since": action.given_away_at}).first():
            about |= {"told": None, "mails": 0}
    found = session.execute(_TOLD, about).one_or_none()
    if not found:  # a failover has lost the record, and its actions with it
        return None, []
    record, at = found
    limit = settings().submission_limit
    if record.verification_id:
        theirs = select(ELSEWHERE).where(col(VerificationRecord.session_id) == action.session_id)
        limit -= session.execute(theirs).scalar_one()
    # rule: another mail in between makes the mail of the record's state due again
    owed = owe(session, [(action.session_id, owed_still(record.state, limit))], at)
    return record.told_count - 1 if about["mails"] else None, owed


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
