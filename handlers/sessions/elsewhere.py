"""Elsewhere: a person may be verified, or still be checked, in another session than the current one.

Stripe may have called that one gone; who was in it then is in it all the same.
"""

from typing import NamedTuple

from sqlalchemy import select
from sqlmodel import col

from config.database import statement, true_now
from config.settings import settings
from handlers.record.events import SessionState, Status
from handlers.sessions.writing import notice
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.tables.models import VerificationRecord

_OVER = (Status.VERIFIED, Status.PROCESSING)


class Elsewhere(NamedTuple):
    """A session that the record has as verified or being checked, as Stripe has just answered it; and the id of the
    event that says so, where it is news.
    """

    answer: Answer
    event_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is still so, and nobody is to go into another session."""
        return self.answer.state.status in _OVER


def elsewhere(verification_id: str, session_id: str | None, account: str | None) -> Elsewhere | None:
    """Of all sessions of the verification but this one, and but those that were replaced. Raises as ask.

    What Stripe does not know any more is verified as the record says, and checked by nobody.
    """
    over = select(col(VerificationRecord.session_id), col(VerificationRecord.status)).where(
        col(VerificationRecord.verification_id) == verification_id,
        col(VerificationRecord.session_id).is_distinct_from(session_id),
        col(VerificationRecord.status).in_(_OVER),
        col(VerificationRecord.replaced_at).is_(None),
    )
    with statement() as connection:
        known = connection.execute(over.order_by(col(VerificationRecord.status).desc())).all()  # verified comes first
    for id_, status in known:
        answer = changing.retrieve(id_, account)
        if answer and answer.state.status == status:
            return Elsewhere(answer)
        if answer:
            return Elsewhere(answer, notice(answer, account, livemode=bool(settings().livemode)))
        # rule: a verified session that Stripe has forgotten still counts
        if status == Status.VERIFIED:
            return Elsewhere(Answer(id_, SessionState(status=status), {}, true_now(), is_replayed=False))
    return None
