"""The state of a verification, from the records of its sessions. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from handlers.record.error_codes import ErrorClass, classify
from handlers.record.events import Status

_NO_RETRY = {ErrorClass.ALTERNATIVE, ErrorClass.UNDER_AGE, ErrorClass.FRAUD_SIGNAL}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStands:
    """The part of one session's record that counts for its verification."""

    generation: int
    status: Status | None  # None: no event has told it yet
    is_known: bool = True  # the verification's row names it; False: only an event does
    error_code: str | None = None
    submissions: int = 0
    is_replaced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The state of the whole verification."""

    status: Status
    error_code: str | None
    error_class: ErrorClass | None
    can_retry: bool
    submissions: int
    submissions_left: int


def standing(sessions: Sequence[SessionStands], generation: int, *, limit: int) -> Standing:
    """The verification's state: verified if any session is that was not replaced, since an older one's event may come
    late; else the current session's, which is requires_input as long as nothing is known of it.
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
    """Whether another try would not change this failure, or must not be offered."""
    return bool(error_code) and classify(error_code) in _NO_RETRY
