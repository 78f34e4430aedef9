"""Actions of a kind that is done in order: each waits for the next lower number of its verification, or session."""

from sqlalchemy import ColumnElement, Integer, cast, func, or_, select, update
from sqlmodel import col

from config.database import now, statement
from handlers.queue.failures import NotNowError
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord, status_of

_WAITS = "a lower change number is pending"
_NUMBER = cast(col(OutboxAction.cause), Integer)  # rule: change numbers are numbers


def unless_lower_is_pending(action: OutboxAction) -> None:
    """Raises NotNowError while a lower one of the same verification, or session, and kind is not done."""
    lower = select(col(OutboxAction.id)).where(*_pending(action), int(action.cause) > _NUMBER)
    with statement() as connection:
        # rule: a lower change number is waited for
        if connection.scalars(lower.limit(1)).first() is not None:
            raise NotNowError(_WAITS)


def release_next(action: OutboxAction) -> list[int]:
    """Makes the lowest pending one due that shares its numbers, if it has waited for a lower one; returns its id."""
    lowest = select(func.min(_NUMBER)).where(*_pending(action)).scalar_subquery()
    release = (
        update(OutboxAction)
        # Only what was put back: a claim clears last_error, and what is on its way stays with its worker.
        .where(*_pending(action), lowest == _NUMBER, col(OutboxAction.last_error) == _WAITS)
        .values(due_at=now())
        .returning(col(OutboxAction.id))
    )
    with statement() as connection:
        return list(connection.scalars(release))


def _pending(action: OutboxAction) -> tuple[ColumnElement[bool], ...]:
    mine, whose = col(VerificationRecord.session_id) == action.session_id, col(VerificationRecord.verification_id)
    siblings = or_(mine, whose == select(whose).where(mine).scalar_subquery())
    return (
        # rule: sessions of one verification are told of in one order
        col(OutboxAction.session_id).in_(select(col(VerificationRecord.session_id)).where(siblings)),
        col(OutboxAction.name) == action.name,
        status_of(OutboxAction) == ActionStatus.PENDING,  # rule: a dead change blocks nobody
    )
