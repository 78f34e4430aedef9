"""Rounds of many workers at once on one session: each round has to end as the true order does."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog
from sqlalchemy import text

from config.database import transaction
from handlers.inbox.apply import Work
from handlers.inbox.process import claim_events, process, process_together
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.queue.claims import due
from handlers.record.events import VerificationEvent
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus
from tests.property.lifecycles import LifeCycle, as_twin, life_cycles
from tests.property.model import PERSONAL, Truth, told_of, truth
from tests.property.outside import Application, PostBox
from tests.support import facts

WORKERS = 8
LIMIT = 2
# The service's words for a failure that is tried again: none may occur here, ...
_FAILURES = {"batch.split", "event.put_back", "event.buried"} | {
    "action.put_back",
    "action.buried",
    "claim.left_to_its_lease",
}
# ... except for a lost claim in a batch, and for rows that wait their turn.
_EXPECTED = {
    "LostClaimError",
    "a lower change number is pending",
    "another mail to this person is under way",
    "an event of its session waits its turn",  # a worker has it
}
_LIFE_CYCLES = [one for one in life_cycles(6) if len(one.steps) >= 4]


@dataclass
class Tally:
    """The number of rounds, events and actions, and of late workers."""

    rounds: int = 0
    events: int = 0
    actions: int = 0
    fenced: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds of {WORKERS} workers on one session, {self.events:,} events and {self.actions:,} "
            f"actions, {self.fenced} late workers fenced off, all agree"
        )


class Rounds:
    """Runs rounds in the database that this process uses."""

    def __init__(self, post_box: PostBox, application: Application, seed: int = 0) -> None:
        self.post_box, self.application = post_box, application
        self.random = random.Random(seed)
        self.tally = Tally()
        self.pool = ThreadPoolExecutor(WORKERS + 1)

    def run(self, count: int) -> Tally:
        """Runs the rounds. Raises AssertionError if one did not end as it must."""
        with self.pool, structlog.testing.capture_logs() as lines:
            for number in range(count):
                self._round(f"vs_{number}", self.random.choice(_LIFE_CYCLES))
        failed = [line for line in lines if line["event"] in _FAILURES and line["error"] not in _EXPECTED]
        assert not failed, failed
        assert deadlocks() == 0
        self.tally.fenced = sum(line["event"] == "event.claim_lost" for line in lines)
        return self.tally

    def _round(self, session_id: str, life_cycle: LifeCycle) -> None:
        story = told_of(session_id, life_cycle)
        copies = [as_twin(event) for event in self.random.sample(story, 2)]
        events = story + copies
        receive(self._shuffled(events))
        late = self._slow_worker(events)
        barrier = threading.Barrier(WORKERS)
        workers = [self.pool.submit(self._work, barrier, self._shuffled(events)) for _ in range(WORKERS)]
        stray = [self.pool.submit(process_together, [work]) for work in late]
        for one in workers + stray:
            one.result()
        self._sweep()
        self._check(session_id, truth(story, LIMIT))
        self.tally.rounds += 1
        self.tally.events += len(events)

    def _shuffled(self, events: Sequence[VerificationEvent]) -> list[VerificationEvent]:
        return self.random.sample(list(events), len(events))

    def _slow_worker(self, events: Sequence[VerificationEvent]) -> list[Work]:
        """Claims an event in every third round for a worker that goes on although its lease is over."""
        if self.tally.rounds % 3:
            return []
        late = claim_events([self.random.choice(events).id], first_try=True)
        facts.end_all_leases()
        return late

    def _work(self, barrier: threading.Barrier, events: list[VerificationEvent]) -> None:
        """Works as a process of its own: redelivered events in messages of any size, then the actions that they owe."""
        barrier.wait()
        middle = len(events) // 2
        receive(events[:middle])
        for batch in (events[:1], events[1:middle], events[middle:]):
            _perform(process([event.id for event in batch]))

    def _sweep(self) -> None:
        """Works as after the clock's sweeps, with every lease and wait over, until nothing is left."""
        for _ in range(20):
            facts.end_all_leases()
            not_tried, tried_before = due(InboxEvent, 1000)
            owed = process(not_tried + tried_before) + facts.due_actions()
            if not (not_tried or tried_before or owed):
                return
            _perform(owed)
        raise AssertionError("something is never done")

    def _check(self, session_id: str, true: Truth) -> None:
        record, owed = facts.record(session_id), facts.actions(session_id)
        assert (record.status, record.last_error_code, record.last_report_id) == (
            true.status,
            true.error_code,
            true.report_id,
        )
        assert facts.reports(session_id) == true.reports
        assert record.submissions == len(true.reports)
        assert {event.status for event in facts.event_rows(session_id)} == {InboxStatus.PROCESSED}
        mails = [action for action in owed if action.name != "notify_app"]
        assert Counter((one.name, one.cause) for one in mails) == dict.fromkeys(true.keys, 1)
        changes = [int(action.cause) for action in owed if action.name == "notify_app"]
        assert sorted(changes) == list(range(1, record.change_number + 1))
        told = self.application.taken[session_id]
        assert told == sorted(changes), f"not each once and in order: {told}"
        for one in owed:
            assert one.status in (ActionStatus.DONE, ActionStatus.SKIPPED), one
            sent = self.post_box.sent[session_id, one.name, one.cause]
            if one.reason == "redacted":  # its redaction may have come while the mail was under way
                assert sent <= 1, one
            else:
                is_mail = one.name not in ("notify_app", "cancel_session")
                assert sent == (one.status == ActionStatus.DONE and is_mail), one
        if not true.is_redacted and not true.is_at_limit:
            assert {one.status for one in mails if one.cause == true.cause} <= {ActionStatus.DONE}
        if true.is_redacted:
            assert PERSONAL not in repr((record, owed, facts.event_rows(session_id)))
        self.tally.actions += len(owed)


def deadlocks() -> int:
    """The number of deadlocks that PostgreSQL broke in this database; SQLite has a single writer, and so none."""
    with transaction() as session:
        if session.get_bind().dialect.name != "postgresql":
            return 0
        counted = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(session.connection().execute(counted).scalar_one())


def _perform(action_ids: list[int]) -> None:
    for _ in range(50):  # messages that lead to the next one; an endless chain would keep every worker busy
        if not action_ids:
            return
        action_ids = [released for action_id in action_ids for released in perform(action_id)]
    raise AssertionError("one action calls for another without an end")
