"""What is owed, done: claimed, still owed?, performed, and then done, skipped, due later or dead."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog
from sqlalchemy import bindparam, select
from sqlmodel import col

from config.database import statement
from config.settings import settings
from handlers.metrics import counting
from handlers.outbox import turns
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS
from handlers.queue.claims import Claim, attempt, claim, unless_used_up, write_down
from handlers.queue.failures import PermanentError, stopping
from handlers.record.decide import why_not_owed
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

_RECORD = select(*VerificationRecord.__table__.columns).where(  # type: ignore[attr-defined]  # SQLModel hides it
    col(VerificationRecord.session_id) == bindparam("session_id")
)
_TURN = 120.0  # seconds for one message, below the visibility timeout, after which Redis would hand it out again


def perform(action_id: int) -> list[int]:
    """Does what is owed, if it is due, unclaimed and still owed; returns the ids of actions that waited for this one.

    1. claims it, and reads its record as it is now;
    2. skips it where its cause is no longer the record's, or the person is forgotten;
    3. does it, outside any transaction: a kind that is told in order waits while a lower one is pending;
    4. writes down that it is done or skipped, which alone keeps it from being done again;
    5. releases the next one of a kind that is told in order.

    Whatever fails is put back or buried: nothing is raised for the action's own failure.
    """
    claimed = None if stopping.is_set() else claim_action(action_id)
    if claimed is None:
        return []
    held, action = claimed
    with structlog.contextvars.bound_contextvars(action_id=action_id, session_id=action.session_id, action=action.name):
        with attempt(held):
            unless_used_up(held)
            end_action(held, _do(action))
        # rule: the end of what is told in order releases the next
        return turns.release_next(action) if action.name in KINDS and KINDS[action.name].in_order else []


def claim_action(action_id: int) -> tuple[Claim, OutboxAction] | None:
    """Takes an action that is due and that nobody holds; None for any other."""
    for held, row in claim(OutboxAction, [action_id]):
        return held, OutboxAction(**row._mapping)
    return None


def end_action(held: Claim, reason: str | None) -> None:
    """An action is done, or skipped for a reason."""
    status = ActionStatus.SKIPPED if reason else ActionStatus.DONE
    # Should it not be written down, it is done again: mails carry the same Message-ID, so a reader sees one.
    if not write_down([held], status=status, reason=reason, done_at=timedelta(), last_error=None):
        log.warning("action.unrecorded")
        return
    counting.ENDED_ACTIONS.labels(name=held.kind, status=status).inc()
    counting.ACTION_AGE_SECONDS.observe(held.age)
    log.info(f"action.{status}", **({"reason": reason} if reason else {}))


def _do(action: OutboxAction) -> str | None:
    if action.name not in KINDS:
        raise PermanentError(f"there is no action {action.name!r}")
    with statement() as connection:
        found = connection.execute(_RECORD, {"session_id": action.session_id}).one()
    record = VerificationRecord(**found._mapping)
    # rule: what is no longer owed is not done
    if reason := why_not_owed(record.state, action.name, action.cause, settings().submission_limit):
        return reason
    if KINDS[action.name].in_order:  # rule: what is told in order waits for its turn
        turns.unless_lower_is_pending(action)
    return REGISTRY[action.name](action, record)


class Performers:
    """The few threads that may be in the hands of a mail server, Stripe or the application: the others are for events.

    Takes action ids from any number of tasks, performs them in a few of these tasks' threads, and hands on the ids of
    the actions that waited for one of them.
    """

    def __init__(self, hand_on: Callable[[Sequence[int]], object], most: int = 1) -> None:
        self.allow(most)
        self._hand_on = hand_on
        self._waiting: dict[int, None] = {}  # in order, and each once however often the sweep names it
        self._lock = threading.Lock()

    def allow(self, most: int) -> None:
        """How many threads at a time; before any of them is at work."""
        self._free = threading.Semaphore(most)

    def perform(self, action_ids: Sequence[int]) -> None:
        """Performs them now, or leaves them to the threads that are at it; what those leave, the sweep finds."""
        with self._lock:
            self._waiting.update(dict.fromkeys(action_ids))
        deadline = time.monotonic() + _TURN
        while self._waiting and time.monotonic() < deadline and not stopping.is_set():
            if not self._free.acquire(blocking=False):
                return
            try:
                with self._lock:
                    action_id = next(iter(self._waiting), None)
                    self._waiting.pop(action_id, None)  # type: ignore[arg-type]  # None is nobody's id
                if action_id is not None:
                    self._hand_on(perform(action_id))
            finally:
                self._free.release()
