"""Elsewhere: finds a session beside the current one in which the person is verified or being checked.

Stripe may have called that session gone before; a person who had entered it is still in it.
"""

from typing import NamedTuple

from sqlalchemy import bindparam, select
from sqlmodel import col

from config.database import brief, true_now
from config.settings import settings
from handlers.record.events import SessionState, Status
from handlers.sessions.writing import notice
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.tables.models import VerificationRecord

_OVER = (Status.VERIFIED, Status.PROCESSING)
_KNOWN = (
    select(col(VerificationRecord.session_id), col(VerificationRecord.status))
    .where(
        col(VerificationRecord.verification_id) == bindparam("verification_id"),
        col(VerificationRecord.session_id).is_distinct_from(bindparam("session_id")),
        col(VerificationRecord.status).in_(_OVER),
        col(VerificationRecord.replaced_at).is_(None),
    )
    .order_by(col(VerificationRecord.status).desc())  # verified comes first
)


class Elsewhere(NamedTuple):
    """Stripe's fresh answer about a session that is verified or being checked by its record; and, if the answer is
    news, the id of its event.
    """

    answer: Answer
    event_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether the session is verified or being checked by the answer, so that no other one is to be entered."""
        return self.answer.state.status in _OVER


def elsewhere(verification_id: str, session_id: str | None, account: str | None) -> Elsewhere | None:
    """The first such session of the verification, verified ones before others; neither this one nor a replaced one.

    If Stripe does not know a session any more, a verified one still counts, and one being checked does not. Raises as
    ask.
    """
    for id_, status in brief(_KNOWN, {"verification_id": verification_id, "session_id": session_id}):
        answer = changing.retrieve(id_, account)
        if answer and answer.state.status == status:
            return Elsewhere(answer)
        if answer:
            return Elsewhere(answer, notice(answer, account, livemode=bool(settings().livemode)))
        # rule: a verified session that Stripe has forgotten still counts
        if status == Status.VERIFIED:
            return Elsewhere(Answer(id_, SessionState(status=status), {}, true_now(), is_replayed=False))
    return None
