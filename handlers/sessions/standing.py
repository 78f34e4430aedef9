"""Where a verification stands, from the records of its sessions. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from handlers.record.error_codes import ErrorClass, classify
from handlers.record.events import Status

_NO_RETRY = {ErrorClass.ALTERNATIVE, ErrorClass.UNDER_AGE, ErrorClass.FRAUD_SIGNAL}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStands:
    """What counts of one session of a verification."""

    generation: int
    status: Status | None  # None: only heard of
    is_known: bool = True  # the verification knows it for its generation's, and not by an event alone
    error_code: str | None = None
    submissions: int = 0
    is_replaced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The whole verification's."""

    status: Status
    error_code: str | None
    error_class: ErrorClass | None
    can_retry: bool
    submissions: int
    submissions_left: int


def standing(sessions: Sequence[SessionStands], generation: int, *, limit: int) -> Standing:
    """Verified if any session is that was not replaced: the event of an older one may come late. Else as the current
    one, and to do as long as nothing is known of that.
    """
    of_now = [one for one in sessions if one.generation == generation]
    current = max(of_now, key=attrgetter("is_known"), default=None)
    status = current.status if current and current.status else Status.REQUIRES_INPUT
    # rule: a late success of an older session counts, unless it was replaced
    if any(one.status == Status.VERIFIED and not one.is_replaced for one in sessions):
        status = Status.VERIFIED
    code = current.error_code if current and status == Status.REQUIRES_INPUT else None
    submissions = sum(one.submissions for one in sessions if not one.is_replaced)
    left = max(0, limit - submissions)
    error_class = classify(code) if code else None
    can_retry = status == Status.REQUIRES_INPUT and not is_final(code) and left > 0
    return Standing(
        status=status,
        error_code=code,
        error_class=error_class,
        can_retry=can_retry,
        submissions=submissions,
        submissions_left=left,
    )


def is_final(error_code: str | None) -> bool:
    """Whether another try would not change this failure, or is not to be offered."""
    return bool(error_code) and classify(error_code) in _NO_RETRY
