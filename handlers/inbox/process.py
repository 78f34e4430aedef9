"""Whose turn an event is: claimed, applied with others or alone, and Stripe asked where only Stripe can say."""

import time
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import structlog
from sqlalchemy import select
from sqlmodel import col

from config.database import DATABASE_TROUBLE, now, statement
from config.settings import settings
from handlers.inbox.apply import Work, apply
from handlers.inbox.receive import event_in
from handlers.queue.claims import attempt, claim, put_back, unless_used_up
from handlers.queue.failures import LEASE, NotNowError, UnreadableError, describe, stopping, unless_stopping
from handlers.record.ordering import answered, seen_in
from handlers.stripe_api import sessions
from handlers.tables.models import InboxEvent, InboxStatus

log = structlog.stdlib.get_logger(__name__)

_TURNS = LEASE / 2  # for those of a batch that wait for Stripe one after the other: they share one lease
_ROUNDS = 3  # of asking Stripe about one event before it waits: each round sees a newer answer


def process(event_ids: Sequence[str]) -> list[int]:
    """Applies those of these events that are due and unclaimed; returns the ids of the actions that are owed now.

    1. claims those that were never tried, and applies all of them in one transaction;
    2. those that only Stripe can settle, one after the other: Stripe is asked between transactions;
    3. if the transaction fails, because of one of them, each is applied alone;
    4. claims those that were tried before one by one, so that what one may do to its process harms no other.

    Whatever fails is put back or buried by itself: nothing is raised for an event's own failure.
    """
    together = claim_events(event_ids, first_attempt=True)
    owed = process_together(together)
    others = set(event_ids) - {work.event.id for work in together}
    for event_id in _tried_before(others) if others else ():
        if stopping.is_set():  # another worker's sweep takes them
            break
        for work in claim_events([event_id], first_attempt=False):
            owed += process_alone(work)
    return owed


def process_session(session_id: str) -> list[int]:
    """Applies those of a session's events that were never tried, before their turn; as `process`."""
    waiting = select(col(InboxEvent.id)).where(
        col(InboxEvent.session_id) == session_id,
        col(InboxEvent.status) == InboxStatus.RECEIVED,
        col(InboxEvent.attempts) == 0,
    )
    with statement() as connection:
        event_ids = list(connection.scalars(waiting))
    return process(event_ids)


def claim_events(event_ids: Sequence[str], *, first_attempt: bool) -> list[Work]:
    """Takes those that are due and that nobody holds, for their first attempt or for a later one; in Stripe's order."""
    works, can_ask = [], bool(settings().stripe_api_key)
    for claimed, row in claim(InboxEvent, event_ids, first_attempt=first_attempt):
        with attempt(claimed):  # what its row holds may be no event: the claim is committed, and so this is counted
            event = event_in(row)
            shown = seen_in(event)
            works.append(Work(claim=claimed, event=event, shown=shown, can_ask=can_ask, owes_nothing=row.owes_nothing))
    # rule: a batch is applied in Stripe's order; else its older events would be stale, and their mails superseded
    return sorted(works, key=attrgetter("event.created_at", "event.id"))


def _tried_before(event_ids: set[str]) -> list[str]:
    """Those that wait for another attempt: none at all, when a message only repeats one that was worked off."""
    waiting = (
        select(col(InboxEvent.id))
        .where(
            col(InboxEvent.id).in_(event_ids),
            col(InboxEvent.status) == InboxStatus.RECEIVED,
            col(InboxEvent.due_at) <= now(),
            col(InboxEvent.attempts) > 0,
        )
        .order_by(col(InboxEvent.id))
    )
    with statement() as connection:
        return list(connection.scalars(waiting))


def process_together(works: list[Work]) -> list[int]:
    """Applies claimed first attempts; the ids of the actions that are owed now."""
    alone = [work for work in works if _says_nothing(work)]
    together = [work for work in works if not _says_nothing(work)]
    owed: list[int] = []
    if together:
        try:
            unsettled, owed = apply(together)
        except DATABASE_TROUBLE as error:
            put_back([work.claim for work in works], error)
            return []
        except Exception as error:  # each is tried again alone, and then waits or is buried by itself
            log.warning("batch.split", events=len(together), error=describe(error))
            unsettled = together  # rule: where a batch fails, each of its events is tried alone
        alone += unsettled
    return owed + _process_in_turn(alone) if alone else owed


def _process_in_turn(works: list[Work]) -> list[int]:
    owed: list[int] = []
    deadline = time.monotonic() + _TURNS.total_seconds()
    for place, work in enumerate(works):
        # rule: who waits for too long in a batch goes back
        if stopping.is_set() or time.monotonic() > deadline:
            put_back([late.claim for late in works[place:]], NotNowError("its turn did not come in time"))
            break
        owed += process_alone(work)
    return owed


def process_alone(work: Work) -> list[int]:
    """Applies one claimed event, puts it back or buries it; the ids of the actions that are owed now."""
    with (
        structlog.contextvars.bound_contextvars(event_id=work.event.id, session_id=work.event.session_id),
        attempt(work.claim),
    ):
        unless_used_up(work.claim)
        return _settle(work)
    return []


def _settle(work: Work) -> list[int]:
    unless_stopping()
    if _says_nothing(work):  # rule: about a thin notification Stripe is asked before a transaction
        work = _asked(work)
    for _ in range(_ROUNDS):
        unsettled, owed = apply([work])
        if not unsettled:
            return owed
        unless_stopping()
        work = _asked(work)
    raise NotNowError("Stripe's answers contradict what is known within one second")


def _says_nothing(work: Work) -> bool:
    """Whether there is no use in opening a transaction before Stripe is asked."""
    return work.shown is None and work.event.kind != "redacted" and work.can_ask


def _asked(work: Work) -> Work:
    """With Stripe's answer; where there is no such session, there is nobody to ask any more."""
    retrieved = sessions.retrieve_state(work.event.session_id, work.event.account)
    if retrieved is None:
        # rule: where Stripe knows nothing, nobody is asked again
        return replace(work, can_ask=False)
    answer = answered(work.event, retrieved.state, retrieved.asked_at)
    if answer is None:
        raise UnreadableError("Stripe's answer has a status that is not known here")
    return replace(work, answer=answer)
