"""The turn of each event: it is claimed, and applied with others or alone; Stripe is asked if only Stripe can tell."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import inf
from operator import attrgetter
from typing import TypeVar

import structlog
from sqlalchemy import select
from sqlmodel import col

from config.database import DATABASE_TROUBLE, now, statement, steady, transaction
from config.settings import settings
from handlers.inbox.apply import Work, apply
from handlers.inbox.receive import event_in
from handlers.queue.claims import attempt, claim, put_back, unless_used_up
from handlers.queue.failures import LEASE, NotNowError, UnreadableError, describe, stopping, unless_stopping
from handlers.record.ordering import answered, overtakes, seen_in
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import InboxEvent, InboxStatus, VerificationRecord, status_of

log = structlog.stdlib.get_logger(__name__)

_TURNS = LEASE / 2  # for the events of a batch that wait for Stripe one after the other: they share one lease
_Found = TypeVar("_Found")
_ROUNDS = 3  # of asking Stripe about one event before it waits: each round sees a newer answer


def process(event_ids: Sequence[str]) -> list[int]:
    """Applies those of these events that are due and unclaimed; returns the ids of the actions that are owed now.

    1. claims the events without a try that counts, and applies them in one transaction;
    2. asks Stripe about thin notifications that nothing has overtaken, and applies those in another transaction;
    3. applies the events that a transaction leaves to Stripe, and those of a failed batch, each alone;
    4. claims the events that were tried before one by one, so that one that ends its process harms no other.

    A failed event is put back or buried by itself: nothing is raised for its own failure.
    """
    together = claim_events(event_ids, first_try=True)
    owed = process_together(together)
    others = set(event_ids) - {work.event.id for work in together}
    for event_id in _tried_before(others) if others else ():
        if stopping.is_set():  # another worker's sweep takes them
            break
        for work in claim_events([event_id], first_try=False):
            owed += process_alone(work)
    return owed


def process_session(session_id: str) -> list[int]:
    """Applies the events of a session that were never tried, before their turn; else as `process`."""
    waiting = select(col(InboxEvent.id)).where(
        col(InboxEvent.session_id) == session_id,
        status_of(InboxEvent) == InboxStatus.RECEIVED,
        col(InboxEvent.attempts) == 0,
    )
    with statement() as connection:
        event_ids = list(connection.scalars(waiting))
    return process(event_ids)


def claim_events(event_ids: Sequence[str], *, first_try: bool) -> list[Work]:
    """Claims those of the events that are due and unclaimed, for a first try or for a later one; in Stripe's order."""
    works, can_ask = [], bool(settings().stripe_api_key)
    for claimed, row in claim(InboxEvent, event_ids, first_try=first_try):
        with attempt(claimed):  # a row may hold no event: its claim is committed, and so the attempt counts
            event = event_in(row)
            shown = seen_in(event)
            said = {"can_ask": can_ask, "owes_nothing": row.owes_nothing, "has_record": row.has_record}
            works.append(Work(claim=claimed, event=event, shown=shown, **said))
    # rule: a batch is applied in Stripe's order; else its older events would be stale, and their mails superseded
    return sorted(works, key=attrgetter("event.created_at", "event.id"))


def _tried_before(event_ids: set[str]) -> list[str]:
    """The ids of the events that wait for another try: none, if a message only repeats a finished one."""
    waiting = (
        select(col(InboxEvent.id))
        .where(
            col(InboxEvent.id).in_(event_ids),
            status_of(InboxEvent) == InboxStatus.RECEIVED,
            col(InboxEvent.due_at) <= now(),
            col(InboxEvent.attempts) > col(InboxEvent.waits),
        )
        .order_by(col(InboxEvent.id))
    )
    with statement() as connection:
        return list(connection.scalars(waiting))


def process_together(works: list[Work]) -> list[int]:
    """Applies claimed first tries, those that need Stripe's answer last; returns the ids of the actions owed now."""
    owed: list[int] = []
    ends_at = steady() + _TURNS.total_seconds()
    thin = [work for work in works if _says_nothing(work)]
    for some in ([work for work in works if not _says_nothing(work)], thin):
        try:
            some = _with_answers(some, ends_at) if some is thin and thin else some
            unsettled, owed_now = apply(some) if some else ([], [])
        except DATABASE_TROUBLE as error:
            put_back([work.claim for work in some], error)
            continue
        except Exception as error:  # each event is tried again alone, and then waits or is buried by itself
            log.warning("batch.split", events=len(some), error=describe(error))
            unsettled, owed_now = some, []  # rule: each event of a failed batch is tried alone
        owed += owed_now + (_in_turn(unsettled, _settle, ends_at) if unsettled else [])
    return owed


def process_alone(work: Work) -> list[int]:
    """Applies one claimed event, puts it back or buries it; returns the ids of the actions that are owed now."""
    return _in_turn([work], _settle, inf)


def _with_answers(works: list[Work], ends_at: float) -> list[Work]:
    """Thin notifications with Stripe's answer, one answer per session; an overtaken notification needs none."""
    about = select(VerificationRecord).where(
        col(VerificationRecord.session_id).in_({w.event.session_id for w in works})
    )
    with transaction() as session:
        states = {record.session_id: record.state for record in session.scalars(about)}
    retrieve = cache(sessions.retrieve_state)

    def answer(work: Work) -> list[Work]:
        state = states.get(work.event.session_id)
        return [work if state and overtakes(state, work.event.created_at) else _asked(work, retrieve)]

    return _in_turn(works, answer, ends_at)  # rule: Stripe is asked about a thin notification before a transaction


def _in_turn(works: list[Work], each: Callable[[Work], list[_Found]], ends_at: float) -> list[_Found]:
    """The results of `each`, called for one work after the other; a work that fails is put back or buried."""
    found: list[_Found] = []
    for place, work in enumerate(works):
        # rule: an event that waits for too long in a batch is put back
        if stopping.is_set() or steady() > ends_at:
            why = "the worker was asked to end" if stopping.is_set() else "its turn did not come in time"
            put_back([late.claim for late in works[place:]], NotNowError(why))
            break
        about = {"event_id": work.event.id, "session_id": work.event.session_id}
        with structlog.contextvars.bound_contextvars(**about), attempt(work.claim):
            unless_used_up(work.claim)
            found += each(work)
    return found


def _settle(work: Work) -> list[int]:
    if _says_nothing(work):
        work = _asked(work, sessions.retrieve_state)
    for _ in range(_ROUNDS):
        unsettled, owed = apply([work])
        if not unsettled:
            return owed
        unless_stopping()
        work = _asked(work, sessions.retrieve_state)
    raise NotNowError("Stripe's answers contradict what is known within one second")


def _says_nothing(work: Work) -> bool:
    """Whether a transaction is of no use before Stripe is asked."""
    return work.shown is None and work.answer is None and work.event.kind != "redacted" and work.can_ask


def _asked(work: Work, retrieve: Callable[[str, str | None], Retrieved | None]) -> Work:
    """The work with Stripe's answer; if Stripe has no such session, it is not asked again."""
    retrieved = retrieve(work.event.session_id, work.event.account)
    if retrieved is None:
        # rule: a session that Stripe does not know is not asked about again
        return replace(work, can_ask=False)
    answer = answered(work.event, retrieved.state, retrieved.asked_at)
    if answer is None:
        raise UnreadableError("Stripe's answer has a status that is not known here")
    return replace(work, answer=answer)
