"""The tasks: shallow, called by name, with ids for arguments."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import structlog
from pydantic import Field

from config.broker import (
    ACTIONS_QUEUE,
    EVENTS_QUEUE,
    KEEPS_WORKERS_BUSY,
    publish_actions,
    publish_events,
    queue_length,
)
from config.database import DATABASE_TROUBLE
from handlers.inbox.process import process, process_session
from handlers.metrics import outside
from handlers.metrics.counting import note_in_vain
from handlers.operator import endpoints, public_url
from handlers.outbox.perform import Performers
from handlers.queue.claims import due
from handlers.queue.failures import describe
from handlers.sessions.reminders import remind
from handlers.tables.models import InboxEvent, OutboxAction
from handlers.upkeep import unanswered
from handlers.upkeep.limits import judge_limits
from handlers.upkeep.purge import WrongClockError, purge
from handlers.upkeep.reconcile import reconcile
from handlers.upkeep.strayed import bring_back
from worker.consumer import celery_app

_SWEEP_MOST = 10_000  # ids of each kind a sweep: more than the workers finish until the next, or they would wait
_ALONE_MOST = 500  # events a sweep that were tried before, each a message by itself
SCHEDULE = "the schedule"
_GRACE = timedelta(seconds=2)  # a row that was published a moment ago needs no second message
_LONGEST_GRACE = timedelta(seconds=20)

# worker/foreign.py drops messages with other arguments; the bounds are those of the columns.
EventIds = list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,255}$")]]
ActionIds = list[Annotated[int, Field(ge=1, lt=2**63)]]

log = structlog.stdlib.get_logger(__name__)


def catch_up(session_id: str) -> None:
    """Applies a session's waiting events before an action of it is done: a newer state keeps an outdated mail away."""
    hand_on(process_session(session_id))


def hand_on(action_ids: Sequence[int]) -> None:
    """Gives this worker's own threads the actions that they will do in a moment; publishes the rest for all workers."""
    if action_ids and (others := performers.perform(action_ids, soon=True)):
        publish_actions(others)


performers = Performers(hand_on, catch_up)


@celery_app.task(name="process_events")  # type: ignore[untyped-decorator]  # celery ships no types
def process_events(event_ids: EventIds) -> None:
    """Applies events, then hands on the actions that they owe."""
    try:
        hand_on(process(event_ids))
    except DATABASE_TROUBLE as error:
        _leave_to_the_sweep("events", error)


@celery_app.task(name="perform_actions")  # type: ignore[untyped-decorator]
def perform_actions(action_ids: ActionIds) -> None:
    """Gives actions to the threads that perform them."""
    try:
        performers.perform(action_ids)
    except DATABASE_TROUBLE as error:
        _leave_to_the_sweep("actions", error)


@celery_app.task(name="sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Publishes the due rows that no worker has: after a lost message, a lost worker, or a wait that is over."""
    try:
        if (messages := queue_length(ACTIONS_QUEUE)) <= KEEPS_WORKERS_BUSY:
            new, again = due(OutboxAction, _SWEEP_MOST, _grace(messages), performers.engaged())
            publish_actions([*new, *again])
        if (messages := queue_length(EVENTS_QUEUE)) <= KEEPS_WORKERS_BUSY:
            not_tried, tried_before = due(InboxEvent, _SWEEP_MOST, _grace(messages))
            publish_events(not_tried)
            for event_id in tried_before[:_ALONE_MOST]:
                publish_events([event_id])
        outside.note_answer(outside.DATABASE, SCHEDULE)
    except DATABASE_TROUBLE as error:
        _leave_to_the_sweep(SCHEDULE, error)


@celery_app.task(name="reconcile")  # type: ignore[untyped-decorator]
def reconcile_with_stripe() -> None:
    """Asks Stripe for the events that never arrived, and judges the limit again."""
    publish_actions(judge_limits())
    publish_events(reconcile().to_process)


@celery_app.task(name="remind")  # type: ignore[untyped-decorator]
def remind_persons() -> None:
    """Owes a reminder to each person who has not begun in time, brings back rows that went astray, and asks Stripe what
    cannot wait for reconcile's time: whether it still delivers here, and about our account if it has not answered just
    now. It looks whether PUBLIC_URL leads here.
    """
    try:
        bring_back()
        publish_actions(remind())
        endpoints.look_at_endpoint()
        public_url.look_once(endpoints.url())
        if unanswered.is_to_be_asked_soon():
            publish_events(reconcile().to_process)
    except DATABASE_TROUBLE as error:
        _leave_to_the_sweep(SCHEDULE, error)


@celery_app.task(name="purge")  # type: ignore[untyped-decorator]
def purge_finished() -> None:
    """Deletes the rows that retention lets go."""
    try:
        purge()
    except WrongClockError as error:
        log.error("purge.refused", error=str(error))


def _grace(messages: int) -> timedelta:
    """The time within which a due row is taken to be in a message, with so many waiting: a slow Redis delays each."""
    return min(_GRACE * (messages + 1), _LONGEST_GRACE)


def _leave_to_the_sweep(doing: str, error: Exception) -> None:
    """Logs one line, no traceback, while the database is away: its rows are still due when it is back."""
    note_in_vain(doing, error)
    log.warning("task.left_to_the_sweep", error=describe(error))
