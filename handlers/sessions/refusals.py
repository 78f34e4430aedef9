"""The refusals of an opening, an entering or a closing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from sqlalchemy import Connection, and_, bindparam, case, exists, func, select
from sqlmodel import col

from config.database import brief, now
from config.settings import settings
from handlers.queue.failures import NotNowError
from handlers.record.events import Status
from handlers.record.ordering import as_seen
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Submission, VerificationRecord

_DAY = timedelta(days=1)
_SESSION_ID = col(VerificationRecord.session_id)
_IS_KNOWN = exists().where(
    col(Submission.session_id) == _SESSION_ID, col(Submission.report_id) == bindparam("report_id")
)
_NEWS = case((and_(bindparam("shown_in") == _SESSION_ID, ~_IS_KNOWN), 1), else_=0)
# Over the sessions of a verification, and in a session that is no verification's; built once, as it takes longer than
# asking.
_SUBMITTED, _SUBMITTED_ALONE = (
    select(func.coalesce(func.sum(col(VerificationRecord.submissions) + _NEWS), 0)).where(
        of == bindparam("id"), col(VerificationRecord.replaced_at).is_(None)
    )
    for of in (col(VerificationRecord.verification_id), _SESSION_ID)
)


class OpeningError(Exception):
    """A refusal: `code` is one of the API's (receiver/api/problems.py), `retry_after` is in seconds.

    `owed` are the ids of the actions that Stripe's answer makes due all the same.
    """

    def __init__(self, code: str, detail: str = "", retry_after: int | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.retry_after = code, detail, retry_after
        self.owed: list[int] = []


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a request: its place, as a JSON pointer (RFC 6901), and a sentence about it."""

    pointer: str
    detail: str


class FaultsError(Exception):
    """All faults of a request. No detail quotes a given value."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("invalid")
        self.faults = faults


def past(answer: Answer) -> Exception:
    """The error for a session that is not open any more: OpeningError, or NotNowError if its status says otherwise."""
    status = "redacted" if answer.state.redaction else answer.state.status
    if status in ("redacted", Status.PROCESSING, Status.VERIFIED, Status.CANCELED):
        return OpeningError(str(status))
    return NotNowError("Stripe's answers contradict each other")


def unless_enough(verification_id: str | None, answer: Answer | None, connection: Connection | None = None) -> None:
    """Raises OpeningError if the person has submitted as often as SUBMISSION_LIMIT allows, over all sessions that were
    not replaced (without a verification: in the answered session). Stripe's answer counts beside the events, which may
    be late.

    Without a connection the count is a transaction by itself.
    """
    report_id = answer and as_seen(str(answer.state.status), answer.asked_at, answer.state).submitted
    # rule: a submission that only Stripe's answer shows counts towards the limit
    shown_in = answer.id if answer and report_id else None
    asked = _SUBMITTED if verification_id else _SUBMITTED_ALONE
    parameters = {"id": verification_id or (answer and answer.id), "shown_in": shown_in, "report_id": report_id}
    counted = connection.execute(asked, parameters).all() if connection else brief(asked, parameters)
    if counted[0][0] >= settings().submission_limit:
        raise OpeningError("submission-limit")


def unless_too_many(connection: Connection, verification_id: str) -> None:
    """Raises OpeningError if OPENINGS_PER_DAY sessions were made in the last 24 hours."""
    made_at = col(VerificationRecord.created_at)
    recent = select(made_at, now()).where(
        col(VerificationRecord.verification_id) == verification_id, made_at > now(-_DAY)
    )
    opened = connection.execute(recent.order_by(made_at.desc())).all()
    if len(opened) >= settings().openings_per_day:
        last_that_counts, at = opened[settings().openings_per_day - 1]
        raise OpeningError("too-many", retry_after=ceil((last_that_counts + _DAY - at).total_seconds()))
