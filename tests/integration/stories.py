"""Acts at the local Stripe, and their events, delivered as a test wants them."""

from collections.abc import Iterable

from sqlalchemy import delete
from sqlmodel import col

from config.database import transaction
from handlers.inbox.process import process
from handlers.outbox.perform import perform
from handlers.queue.claims import due
from handlers.record.events import VerificationEvent
from handlers.tables.models import InboxEvent, InboxStatus
from tests.simulator.client import Simulator
from tests.support import facts, shapes


class Stories:
    """The simulator with a clock that goes on between two acts, and deliveries by hand."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.offset = 0
        self.seen: set[str] = set()

    def later(self, seconds: int = 10) -> "Stories":
        """Moves the clock on by so many seconds."""
        self.offset += seconds
        self.simulator.clock(offset=self.offset)
        return self

    def news(self, session_id: str, *, thin: bool = False) -> list[VerificationEvent]:
        """The events since the last time, in one of the two forms; the clock goes on first."""
        self.later()
        found = [event for event in self.simulator.events(session_id) if event["id"] not in self.seen]
        self.seen |= {event["id"] for event in found}
        return [shapes.parsed(event["body"]) for event in found if event["thin"] == thin]

    def deliver(self, session_id: str, *, thin: bool = False) -> list[int]:
        """Delivers and applies the news; returns the ids of the actions owed now."""
        return facts.applied(*self.news(session_id, thin=thin))


def perform_everything() -> None:
    """Performs every owed action that can be performed now, without waiting for due times."""
    facts.end_all_leases()
    for action_id in facts.due_actions():
        perform_all([action_id])


def perform_all(action_ids: Iterable[int]) -> None:
    """Performs these actions, and those that they release, as the tasks do."""
    queue = list(action_ids)
    for _ in range(100):
        if not queue:
            return
        queue += perform(queue.pop(0))
    raise AssertionError("one action calls for another without an end")


def process_everything() -> None:
    """Processes every received event that can be processed now, without waiting for due times."""
    facts.end_all_leases()
    not_tried, tried_before = due(InboxEvent, 1000)
    process(not_tried + tried_before)


def by_name(session_id: str) -> dict[str, list[str]]:
    """The statuses of a session's actions by name, in the order in which they became owed."""
    statuses: dict[str, list[str]] = {}
    for action in facts.actions(session_id):
        statuses.setdefault(action.name, []).append(action.status)
    return statuses


def purge() -> None:
    """Deletes the processed events, as after the time for which they are kept."""
    with transaction() as session:
        session.connection().execute(delete(InboxEvent).where(col(InboxEvent.status) == InboxStatus.PROCESSED))
