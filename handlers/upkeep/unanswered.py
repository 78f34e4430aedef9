"""Accounts, sessions and seconds of lists that Stripe did not answer about: they are shown, and asked about last.

A row stays until there is an answer, or until nobody has asked for four days.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, select
from sqlmodel import col

from config.database import database_now, now, reading, statement
from config.inserts import NOW, insert_or
from config.settings import settings
from handlers.metrics import counting
from handlers.queue.failures import AwayError, NotAllowedError, UnreadableError, describe
from handlers.record.events import MalformedEventError
from handlers.tables.models import Unanswered

log = structlog.stdlib.get_logger(__name__)

_FIRST_PAUSE = timedelta(minutes=5)  # doubled with each failure in a row
_LONGEST_PAUSE = timedelta(hours=1)  # an outage of Stripe's fails all alike; each is asked about again soon after it
_SOON = timedelta(
    seconds=50
)  # doubled likewise: an outage is over by the schedule's next minute, or as long again after
_FORGOTTEN_AFTER = timedelta(days=4)  # without a question
_AGAIN = (
    "(what, livemode, name) DO UPDATE SET failures = identity_unanswered.failures + 1,"
    " reason = excluded.reason, asked_at = excluded.asked_at"
)
# Errors about a whole account, or about all of Stripe: no fault of the session or second that was asked about.
OF_THE_ACCOUNT = (AwayError, NotAllowedError)
_REASONS = {
    AwayError: "away",
    NotAllowedError: "not allowed",
    UnreadableError: "unreadable",
    MalformedEventError: "unreadable",
}


def add_failure(what: str, name: str, error: Exception) -> int:
    """Adds one failure; returns how many there have been in a row."""
    row = {
        "what": what,
        "livemode": bool(settings().livemode),
        "name": name,
        "reason": describe(error),
        "failures": 1,
        "since": NOW,
        "asked_at": NOW,
    }
    with statement() as connection:
        [(failures,)] = insert_or(connection, Unanswered, [row], on_conflict=_AGAIN, returning="failures")
    count(what, name, error, failures=failures)
    return int(failures)


def count(what: str, name: str, error: Exception, **fields: int) -> None:
    """Shows a failure in the log and the metrics."""
    reason = next((word for kind, word in _REASONS.items() if isinstance(error, kind)), "failed")
    counting.UNANSWERED.labels(what, reason).inc()
    log.error("stripe.unanswered", what=what, name=name, error=describe(error), **fields)


def drop(what: str, *names: str) -> None:
    """Deletes the rows of what Stripe has answered about."""
    _delete(col(Unanswered.what) == what, col(Unanswered.name).in_(names))


def drop_old() -> None:
    """Deletes rows that nobody asks about any more: of ended sessions, of seconds that Stripe keeps no longer."""
    _delete(col(Unanswered.asked_at) < now(-_FORGOTTEN_AFTER))


def pause_after(failures: int) -> timedelta:
    """The pause before the next question, after so many failures in a row."""
    return min(_FIRST_PAUSE * (1 << min(failures - 1, 10)), _LONGEST_PAUSE)


def known(what: str | None = None, prefix: str = "") -> Sequence[Unanswered]:
    """The rows of this key's mode, unanswered longest first; `what` and `prefix` narrow them."""
    rows = select(Unanswered).where(
        _is_of_this_mode(),
        *([col(Unanswered.what) == what] if what else []),
        col(Unanswered.name).startswith(prefix, autoescape=True),
    )
    with reading() as session:
        return session.scalars(rows.order_by(col(Unanswered.since), col(Unanswered.name))).all()


def failures(what: str, name: str) -> int:
    """The number of failures in a row; 0 if the last question was answered."""
    return next((row.failures for row in known(what, name) if row.name == name), 0)


def waiting(what: str) -> list[str]:
    """The names whose pause is not over yet; our own account is never among them."""
    at = database_now()
    return [row.name for row in known(what) if row.name and _was_asked(row, pause_after(row.failures), at)]


def is_to_be_asked_soon() -> bool:
    """Whether our own account is to be asked about again before the next run: Stripe was away for a moment, perhaps."""
    ours, at = [row for row in known() if not row.name], database_now()
    return not all(_was_asked(row, _SOON * (1 << min(row.failures - 1, 10)), at) for row in ours)


def counts(rows: Iterable[Unanswered]) -> dict[str, int]:
    """The numbers of accounts, sessions and seconds of lists among the rows."""
    one = {"session": "sessions", "second": "seconds"}
    kinds = {(one.get(row.what, "accounts"), row.name) for row in rows}
    return {kind: sum(kind == other for other, _ in kinds) for kind in ("accounts", "sessions", "seconds")}


def _was_asked(row: Unanswered, within: timedelta, at: datetime) -> bool:
    """Whether it was asked about within this time; a clock that was ahead may have written a later moment."""
    return row.asked_at <= at < row.asked_at + within


def _is_of_this_mode() -> ColumnElement[bool]:
    return col(Unanswered.livemode) == bool(settings().livemode)


def _delete(*conditions: ColumnElement[bool]) -> None:
    with statement() as connection:
        connection.execute(delete(Unanswered).where(_is_of_this_mode(), *conditions))
