"""Claims on inbox events and outbox actions: fenced by their attempt's number, put back or buried when a try fails."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Update, update
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from config.database import DATABASE_TROUBLE, statement
from config.settings import settings
from handlers.metrics import counting
from handlers.queue.failures import NotNowError, PermanentError, backoff, describe, stopping
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, utc_now

log = structlog.stdlib.get_logger(__name__)

_UNFINISHED = {InboxEvent: InboxStatus.RECEIVED, OutboxAction: ActionStatus.PENDING}
_NOUN = {InboxEvent: "event", OutboxAction: "action"}
# What a try came to is written down as soon as the database is back: else its outage would count as the work's own
# failure, and what is done would be done again. Its thread could do nothing else, and the fence outlives the lease.
_WRITTEN_WITHIN = 600.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one row until its lease ends."""

    table: type[InboxEvent] | type[OutboxAction]
    id: str | int
    attempts: int  # only ever grows, so that it fences whoever comes too late
    waits: int
    kind: str = ""  # the event's type, or the action's name

    @property
    def tries(self) -> int:
        """The attempts that count towards burying."""
        return self.attempts - self.waits

    @property
    def most_tries(self) -> int:
        """How many of them there may be."""
        return settings().event_attempts if self.table is InboxEvent else settings().action_attempts


class LostClaimError(Exception):
    """Somebody else has claimed or finished the row meanwhile: what was done under the old claim must not stay."""


def held(claim: Claim) -> Update:
    """An UPDATE of the claimed row that touches nothing once the claim is lost."""
    table = claim.table
    return update(table).where(
        col(table.id) == claim.id,
        col(table.attempts) == claim.attempts,
        col(table.status) == _UNFINISHED[table],
    )


def give_up(claim: Claim, error: Exception) -> None:
    """Puts the row back for later, or buries it: at once for a PermanentError, else when its tries are used up."""
    if isinstance(error, (NotNowError, *DATABASE_TROUBLE)):
        _put_back(claim, error, waits=1)
    elif isinstance(error, PermanentError) or claim.tries >= claim.most_tries:
        bury(claim, describe(error))
    else:
        _put_back(claim, error, waits=0)


def put_back_together(claims: Sequence[Claim], error: Exception) -> None:
    """Puts events of one shared first attempt back, when none of them is to blame."""
    due_at = utc_now() + backoff(claims[0].attempts)
    wait = (
        update(InboxEvent)
        .where(
            col(InboxEvent.id).in_([claim.id for claim in claims]),
            col(InboxEvent.attempts) == claims[0].attempts,
            col(InboxEvent.status) == InboxStatus.RECEIVED,
        )
        .values(waits=InboxEvent.waits + 1, due_at=due_at, last_error=describe(error))
    )
    if written := write(wait.returning(col(InboxEvent.id))):
        log.warning("events.put_back", events=len(written), error=describe(error), due_at=str(due_at))


def bury(claim: Claim, reason: str) -> None:
    """Nothing more is tried until an operator says so."""
    if _write(claim, status="dead", last_error=reason):
        if claim.table is InboxEvent:
            counting.count("identity_events_total", type=claim.kind, outcome="dead")
        else:
            counting.count("identity_actions_total", name=claim.kind, status="dead")
        log.error(f"{_NOUN[claim.table]}.buried", attempts=claim.attempts, error=reason)


def _put_back(claim: Claim, error: Exception, waits: int) -> None:
    due_at = utc_now() + backoff(claim.attempts)
    if _write(claim, waits=claim.waits + waits, due_at=due_at, last_error=describe(error)):
        log.warning(
            f"{_NOUN[claim.table]}.put_back", attempts=claim.attempts, error=describe(error), due_at=str(due_at)
        )


def _write(claim: Claim, **values: Any) -> bool:
    return bool(write(held(claim).values(**values).returning(col(claim.table.id))))


def write(change: ReturningUpdate[tuple[Any]]) -> list[Any]:
    """Makes a change in a transaction of its own, and returns its values; waits while the database is away.

    None too if the database stays away for too long, or if this process is asked to end meanwhile.
    """
    deadline = time.monotonic() + _WRITTEN_WITHIN
    while True:
        try:
            with statement() as connection:
                return list(connection.scalars(change))
        except DATABASE_TROUBLE as error:
            if time.monotonic() > deadline or stopping.wait(_PAUSE):
                log.error("claim.left_to_its_lease", error=describe(error))
                return []
