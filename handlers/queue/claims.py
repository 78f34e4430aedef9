"""Claims on rows of the inbox and the outbox: taken with a lease, fenced by their attempt's number, and ended.

No library does this on tables that are not its own, and on both databases: docs/decisions/0007. Celery delivers a task
again while its first worker is still at it, and has no fence: https://github.com/celery/celery/issues/5935.
"""

import time
from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import (
    Connection,
    Executable,
    Float,
    Select,
    bindparam,
    or_,
    select,
    tuple_,
    update,
)
from sqlmodel import col

from config.database import DATABASE_TROUBLE, UtcDateTime, brief, now, statement, steady, true_now
from config.settings import settings
from handlers.metrics import counting
from handlers.queue.failures import (
    LEASE,
    NotNowError,
    PermanentError,
    RefusedError,
    UnknownOutcomeError,
    delay,
    describe,
    stopping,
)
from handlers.tables.models import InboxEvent, OutboxAction, status_of

log = structlog.stdlib.get_logger(__name__)

# The outcome of a try is written down as soon as the database is back: else its outage would count as the work's own
# failure, and finished work would be done again. The thread could do nothing else, and the fence outlives the lease.
_WRITTEN_WITHIN = 600.0
_PAUSE = 0.5
_SLACK = timedelta(seconds=2)  # the error of the true time is smaller
# Each try after one whose outcome is unknown may send a second copy. A silent server is mended within hours, and by
# then a reader has seen the first copy.
_MOST_UNKNOWN = 3
_UNKNOWN_WAITS = timedelta(hours=2)
_LOOK_SECONDS = 5.0  # an answer that took longer may be out of date: this process was frozen, or the database was
_LEAST_ENDS = 2  # ends of a process: a first try shares its process with others, and one of these may be to blame
_ROWS_AT_ONCE = 1000  # of a result of any length: a row takes four times the memory of its id

Table = type[InboxEvent] | type[OutboxAction]
# The two queues, by the name of their rows.
QUEUES: dict[str, Table] = {"events": InboxEvent, "actions": OutboxAction}
_Written = TypeVar("_Written")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one row until its lease ends."""

    table: Table
    id: Any  # an event's text, an action's number
    kind: str  # the event's type, or the action's name
    waited: float  # seconds from its receipt, or from its being owed, to the claim: both by the database's clock
    attempts: int  # only grows, so that it fences a late worker
    waits: int
    since: datetime  # of its receipt, or of its being owed: a failover may give its number to another row
    before: Mapping[str, Any] = field(default_factory=dict)  # the values that a try without effect restores
    claimed: float = field(default_factory=steady)  # the moment of the claim

    @property
    def tries(self) -> int:
        """The attempts that count towards burying."""
        return self.attempts - self.waits

    @property
    def most_tries(self) -> int:
        """The number of tries that there may be."""
        return int(getattr(settings(), self.table.MOST_TRIES))

    @property
    def age(self) -> float:
        """Seconds since its receipt, or since it became owed; no step of a clock makes them negative."""
        return max(0.0, self.waited) + steady() - self.claimed

    @property
    def unknown(self) -> "Claim":
        """The same claim for a try whose outcome is unknown: it counts as a third of all tries."""
        return replace(self, waits=self.waits + 1 - -(-self.most_tries // _MOST_UNKNOWN), before={})


class LostClaimError(Exception):
    """Another worker has claimed or ended the row meanwhile: changes under the old claim must not stay."""


def claim(table: Table, ids: Sequence[Any], *, first_try: bool | None = None) -> list[tuple[Claim, Any]]:
    """Claims those of these rows that are due and unclaimed; returns the claims and all columns as a named tuple, and
    for an event `has_record`, whether its session has one.

    `first_try` takes only rows without a try that counts, or only the others, or (None) both.
    """
    parameters = {"ids": ids, "leases_now": true_now(for_leases=True) + _SLACK}
    try:
        asked, row_type = _claiming(table, first_try)
        rows = [row_type(*row) for row in brief(asked, parameters)]
    except DATABASE_TROUBLE:
        raise
    except Exception as error:  # a row cannot be read: it may be claimed by now, and nobody would count that
        if len(ids) > 1:
            return [one for row_id in ids for one in claim(table, [row_id], first_try=first_try)]
        _bury_unread(table, ids[0], describe(error))
        return []
    claims = []
    for row in rows:
        kind, since = getattr(row, table.KIND), getattr(row, table.SINCE)
        waited = (row.due_at - LEASE - since).total_seconds()
        before = {name: getattr(row, name) for name in table.GIVES_AWAY}
        claims.append((Claim(table, row.id, kind, waited, row.attempts, row.waits, since, before), row))
    return claims


def due(
    table: Table, limit: int, since: timedelta = timedelta(), but_for: Collection[str] = ()
) -> tuple[list[Any], list[Any]]:
    """The ids of unclaimed rows that have been due for `since`, the longest first: rows without a try that counts, and
    the others. The kinds in `but_for` are left out.
    """
    waiting = (
        select(col(table.id), col(table.attempts) > col(table.waits))
        .where(col(table.status) == table.UNFINISHED, col(table.due_at) <= now(-since))
        .where(*table.goes_on(), *([getattr(table, table.KIND).not_in(but_for)] if but_for else []))
        .order_by(col(table.due_at))
        .limit(limit)
    )
    not_tried: list[Any] = []
    tried_before: list[Any] = []
    with statement() as connection:
        for some in connection.execute(waiting).partitions(_ROWS_AT_ONCE):
            for row_id, was_tried in some:
                (tried_before if was_tried else not_tried).append(row_id)
    return not_tried, tried_before


@contextmanager
def attempt(claim: Claim) -> Iterator[None]:
    """One try: an error puts the row back for later, or buries it; the work itself writes down a good end.

    After a lost claim the row is left to its new worker.
    """
    try:
        yield
    except LostClaimError:
        log.info(f"{claim.table.NOUN}.claim_lost")
    except Exception as error:
        give_up(claim, error)


def unless_used_up(claim: Claim) -> None:
    """Raises PermanentError, before the work itself, if all tries have ended with their process, and at least one of
    them was alone in it.
    """
    # rule: a row that ends its process each time is buried at last
    if claim.tries > max(claim.most_tries, _LEAST_ENDS):
        raise PermanentError("every attempt ended with its process")


def unless_lost(row: InboxEvent | OutboxAction, lease: timedelta = LEASE, *, unknown: bool = False) -> None:
    """Holds the claimed row for a lease from now, right before an act that cannot be taken back.

    With `unknown`, the try counts as one of unknown outcome, and as given away, until its outcome is written down.
    Raises LostClaimError if another worker has claimed or ended the row meanwhile, NotNowError if the database's answer
    came too late to be relied on.
    """
    kind, since = getattr(row, row.KIND), getattr(row, row.SINCE)
    mine = Claim(type(row), row.id, kind, 0.0, row.attempts, row.waits, since)
    waits = (mine.unknown if unknown else mine).waits
    given_away = dict.fromkeys(mine.table.GIVES_AWAY if unknown else (), timedelta())
    # rule: a worker that has lost its claim does nothing more
    if not change_claimed(None, [mine], waits=waits, due_at=lease, **given_away):
        raise LostClaimError
    if steady() - mine.claimed > _LOOK_SECONDS:  # rule: a last look that took too long is not relied on
        raise NotNowError("this process was held up")


def give_up(claim: Claim, error: Exception) -> None:
    """Puts the row back for later, or buries it: at once for a PermanentError, else when its tries are used up.

    A try that the database, Stripe or the network spoils does not count.
    """
    if isinstance(error, UnknownOutcomeError):  # rule: there are few tries whose outcome is unknown
        claim = claim.unknown
    if isinstance(error, (NotNowError, *DATABASE_TROUBLE)):
        put_back([claim], error)
    # rule: a row that was tried often enough is buried
    elif isinstance(error, PermanentError) or claim.tries >= claim.most_tries:
        _bury(claim, describe(error))
    else:
        put_back([claim], error, is_try=True)
    if not isinstance(error, (NotNowError, PermanentError, RefusedError, UnknownOutcomeError, *DATABASE_TROUBLE)):
        counting.note_in_vain(f"{claim.table.NOUN}s", error, str(claim.id), claim.kind)


def put_back(claims: Sequence[Claim], error: Exception, *, is_try: bool = False, has_begun: bool = True) -> None:
    """Makes rows of one first try, or one row, due later; the attempt counts as a try only if it `is_try`.

    A row whose work has not begun is due at once.
    """
    first = claims[0]
    if others := [claim for claim in claims if claim.attempts != first.attempts]:
        put_back(others, error, has_begun=has_begun)
        claims = [claim for claim in claims if claim.attempts == first.attempts]
    if isinstance(error, DATABASE_TROUBLE):
        counting.note_in_vain(f"{first.table.NOUN}s", error, kind=first.kind)
    # rule: a row that is put back waits
    wait = delay(first.attempts, error) if has_begun else timedelta()
    if isinstance(error, UnknownOutcomeError):  # rule: tries whose outcome is unknown are far apart
        wait = _UNKNOWN_WAITS
    # rule: a try that the database, Stripe or the network spoils does not count
    waits = first.waits if is_try else first.waits + 1
    if written := write_down(claims, waits=waits, due_at=wait, last_error=describe(error), **first.before):
        seconds = round(wait.total_seconds(), 3)
        noun, attempts = first.table.NOUN, first.attempts
        log.warning(f"{noun}.put_back", rows=written, attempts=attempts, error=describe(error), for_seconds=seconds)


def write_down(claims: Sequence[Claim], **values: Any) -> int:
    """Changes claimed rows in a transaction of its own, and waits for that while the database is away.

    Returns the number of changed rows: 0 if the claims are lost, or if `insist` gives up.
    """
    return insist(partial(change_claimed, None, claims, **values)) or 0


def insist(write: Callable[[], _Written]) -> _Written | None:
    """Writes once the database is there; returns None if it stays away for too long, or once this process shall end."""
    deadline = time.monotonic() + _WRITTEN_WITHIN
    while True:
        try:
            return write()
        except DATABASE_TROUBLE as error:
            # rule: a worker waits for the database to write down the outcome of a try
            if time.monotonic() > deadline or stopping.wait(_PAUSE):
                log.error("claim.left_to_its_lease", error=describe(error))
                return None


def change_claimed(connection: Connection | None, claims: Sequence[Claim], **values: Any) -> int:
    """Changes columns of one claimed row, or of first tries of one attempt; returns how many were still claimed.

    Without a connection it is a transaction by itself. A timedelta stands for the moment so much later than the
    database's clock.
    """
    whose = {"ids": [claim.id for claim in claims], "claimed_since": [(claim.id, claim.since) for claim in claims]}
    parameters = {**whose, "claimed_attempts": claims[0].attempts, **values}
    moments = tuple(name for name, value in values.items() if isinstance(value, timedelta))
    for name in moments:
        parameters[f"{name}_seconds"] = parameters.pop(name).total_seconds()
    asked = _claimed_rows(claims[0].table, moments)
    return len(connection.execute(asked, parameters).all() if connection else brief(asked, parameters))


def _bury(claim: Claim, reason: str) -> None:
    """Ends the row as dead: nothing more is tried until an operator says so."""
    if write_down([claim], status=claim.table.DEAD, waits=claim.waits, last_error=reason, **claim.before):
        counting.ENDED_BY_NOUN[claim.table.NOUN].labels(claim.kind, claim.table.DEAD).inc()
        log.error(f"{claim.table.NOUN}.buried", attempts=claim.attempts, error=reason)


def _bury_unread(table: Table, row_id: Any, reason: str) -> None:
    unfinished = update(table).where(col(table.id) == row_id, status_of(table) == table.UNFINISHED)
    with statement() as connection:
        connection.execute(unfinished.values(status=table.DEAD, last_error=reason))
    log.error(f"{table.NOUN}.unreadable", id=row_id, error=reason)


# Statements are built once: building one costs more than running it.
@cache
def _claiming(table: Table, first_try: bool | None) -> tuple[Executable, Any]:
    """The statement that claims rows, and the named tuple for each: its columns, and the values besides."""
    is_new = col(table.attempts) == 0  # nobody holds it, and it waits for nothing: no step of a clock keeps it back
    free: Select[Any] = select(col(table.id)).where(
        col(table.id).in_(bindparam("ids", expanding=True)),
        status_of(table) == table.UNFINISHED,  # rule: a row that has ended is not claimed
        or_(is_new, col(table.due_at) <= now()),  # rule: a row that is not due is not claimed
        # rule: a lease outlives a jump of the database's clock
        or_(is_new, col(table.due_at) <= bindparam("leases_now", type_=UtcDateTime)),
        *table.goes_on(),  # rule: a paused action is not claimed
    )
    if first_try is not None:  # rule: a row that was tried before is tried alone
        was_tried = col(table.attempts) > col(table.waits)
        free = free.where(~was_tried if first_try else was_tried)
    leased_until = now(LEASE)  # rule: a row under a lease is nobody else's
    read = [*table.__table__.columns, *table.besides()]  # type: ignore[union-attr]
    # rule: a claim clears the error of the try before
    claiming = (
        update(table)
        .where(col(table.id).in_(free.order_by(col(table.id)).with_for_update(skip_locked=True)))
        # rule: a claim counts an attempt
        .values(attempts=col(table.attempts) + 1, due_at=leased_until, last_error=None)
        .returning(*read)
    )
    return claiming, namedtuple(table.__name__, [str(one.key) for one in read])


@cache
def _claimed_rows(table: Table, moments: tuple[str, ...]) -> Executable:
    """The statement that changes claimed rows; it touches nothing once the claim is lost."""
    claimed = update(table.__table__).where(  # type: ignore[union-attr]
        col(table.id).in_(bindparam("ids", expanding=True)),
        col(table.attempts) == bindparam("claimed_attempts"),  # rule: a late worker is fenced by the attempt
        # rule: a row with the number of one that a failover lost is another
        tuple_(col(table.id), getattr(table, table.SINCE)).in_(bindparam("claimed_since", expanding=True)),
        status_of(table) == table.UNFINISHED,  # rule: a row that has ended stays as it is
    )
    later = {name: now(bindparam(f"{name}_seconds", type_=Float)) for name in moments}
    return claimed.values(later).returning(col(table.id))
