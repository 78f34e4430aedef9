"""Actions of a kind that is done in order: each waits for the next lower number of its verification, or session."""

from sqlalchemy import Integer, bindparam, cast, func, or_, select, update
from sqlmodel import col

from config.database import brief, now
from handlers.queue.failures import NotNowError
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord, status_of

_WAITS = "a lower change number is pending"
_NUMBER = cast(col(OutboxAction.cause), Integer)  # rule: change numbers are numbers
_MINE = col(VerificationRecord.session_id) == bindparam("about")
_WHOSE = col(VerificationRecord.verification_id)
_SIBLINGS = or_(_MINE, select(_WHOSE).where(_MINE).scalar_subquery() == _WHOSE)
_PENDING = (
    # rule: sessions of one verification are told of in one order
    col(OutboxAction.session_id).in_(select(col(VerificationRecord.session_id)).where(_SIBLINGS)),
    col(OutboxAction.name) == bindparam("kind"),
    status_of(OutboxAction) == ActionStatus.PENDING,  # rule: a dead change blocks nobody
)
_LOWER = select(col(OutboxAction.id)).where(*_PENDING, bindparam("number", type_=Integer) > _NUMBER).limit(1)
_LOWEST = select(func.min(_NUMBER)).where(*_PENDING).scalar_subquery()
_RELEASE = (
    update(OutboxAction)
    # Only an action that was put back: a claim clears last_error, and an action in work stays with its worker.
    .where(*_PENDING, _LOWEST == _NUMBER, col(OutboxAction.last_error) == _WAITS)
    .values(due_at=now())
    .returning(col(OutboxAction.id))
)


def unless_lower_is_pending(action: OutboxAction) -> None:
    """Raises NotNowError while an action of a lower number, of the same kind and verification or session, waits."""
    about = {"about": action.session_id, "kind": action.name, "number": int(action.cause)}
    # rule: a lower change number is waited for
    if brief(_LOWER, about):
        raise NotNowError(_WAITS)


def release_next(action: OutboxAction) -> list[int]:
    """Makes the lowest pending action of the same numbers due, if it has waited for a lower one; returns its id."""
    return [id_ for (id_,) in brief(_RELEASE, {"about": action.session_id, "kind": action.name})]
