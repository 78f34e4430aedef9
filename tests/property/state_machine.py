"""Everything that can happen to deliveries, workers and actions, in any succession, against the real database."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete, event, select
from sqlmodel import Session, SQLModel, col

from config.database import transaction
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.mails import Mail
from handlers.outbox.perform import perform
from handlers.owed.kinds import TELLING
from handlers.queue.claims import due
from handlers.queue.failures import NotNowError, PermanentError, RefusedError
from handlers.record.events import RANKS, VerificationEvent
from handlers.sessions.reminders import remind
from handlers.stripe_api.client import client
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    Submission,
    Verification,
    VerificationRecord,
    VerifiedOutput,
)
from tests.property.lifecycles import as_thin, as_twin, life_cycles
from tests.property.model import PERSONAL, Truth, truth
from tests.property.outside import Application, Key, PostBox
from tests.property.stripe_world import Story, StripeWorld
from tests.support import facts

LIMIT = 2
_LIFE_CYCLES = [one for one in life_cycles(6) if len(one.steps) > 2]
_SESSIONS = 2  # few, so that much happens to each


class CrashError(BaseException):
    """The end of a process, which no `except Exception` sees."""


class Commits:
    """Ends the process just before or just after one of its next commits."""

    def __init__(self) -> None:
        self.left = 0
        self.is_after = False
        event.listen(Session, "before_commit", self._before)
        event.listen(Session, "after_commit", self._after)

    def crash_at(self, number: int, *, after: bool) -> None:
        """Ends the process at this commit, counted from the next one; 0: at none."""
        self.left, self.is_after = number, after

    def close(self) -> None:
        """Ends no process any more."""
        event.remove(Session, "before_commit", self._before)
        event.remove(Session, "after_commit", self._after)

    def _before(self, _: Session) -> None:
        if not self.is_after:
            self._count()

    def _after(self, _: Session) -> None:
        if self.is_after:
            self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashError


@dataclass
class Setting:
    """The surroundings of a run, made once for all runs of a test."""

    world: StripeWorld
    post_box: PostBox
    application: Application
    commits: Commits
    has_key: bool
    runs: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.runs} runs, {self.steps:,} steps, the record true and everything owed done once after each"


@dataclass
class Tables:
    """All rows of the database at one moment."""

    events: list[InboxEvent]
    records: dict[str, VerificationRecord]
    submissions: list[Submission]
    actions: list[OutboxAction]
    outputs: list[VerifiedOutput] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Deliveries, workers, the clock, the mail server, the application and Stripe, each with a will of its own."""

    setting: Setting

    def __init__(self) -> None:
        super().__init__()
        self.world, self.post_box = self.setting.world, self.setting.post_box
        self.application, self.commits = self.setting.application, self.setting.commits
        self.waiting: dict[str, VerificationEvent] = {}  # made, and not delivered yet
        self.delivered: dict[str, VerificationEvent] = {}
        self.processed: set[str] = set()  # even if purged since
        self.canceled: set[str] = set()
        self.redacted: set[str] = set()
        self.window: Counter[Key] = Counter()  # mails whose sender died before it could write them down
        self.purged: set[Key] = set()
        self.wrong: list[str] = []
        self.mail_answer: Exception | None = None
        self._begin_afresh()
        self.setting.runs += 1

    def _begin_afresh(self) -> None:
        self.world.reset()
        self.post_box.sent.clear()
        self.post_box.told.clear()
        self.post_box.behave = self._look_at_mail
        self.application.taken.clear()
        self.application.caught.clear()
        self.application.status = 200
        with transaction() as session:
            for table in reversed(SQLModel.metadata.sorted_tables):
                session.connection().execute(delete(table))

    # Stripe

    @initialize(life_cycle=st.sampled_from(_LIFE_CYCLES))
    def a_first_session(self, life_cycle: Any) -> None:
        self._create(life_cycle)

    @precondition(lambda self: len(self.world.stories) < _SESSIONS)
    @rule(life_cycle=st.sampled_from(_LIFE_CYCLES))
    def another_session(self, life_cycle: Any) -> None:
        self._create(life_cycle)

    def _create(self, life_cycle: Any) -> None:
        story = Story(f"vs_{len(self.world.stories)}", life_cycle)
        self.world.stories[story.session_id] = story
        begun: dict[str, Any] = {"created_at": story.now, "updated_at": story.now, "livemode": False}
        with transaction() as session:
            session.add(Verification(id=story.verification_id, client_reference_id=story.session_id, **begun))
        self.something_happens(0, 1, "snapshot")

    @rule(
        number=st.integers(0, 9), seconds=st.integers(0, 2), form=st.sampled_from(["snapshot", "thin", "both", "twins"])
    )
    def something_happens(self, number: int, seconds: int, form: str) -> None:
        """Makes a change, told in one form or two. In the same second, or thin alone, only if Stripe can be asked."""
        going_on = [story for story in self.world.stories.values() if not story.is_over]
        if not going_on:
            return
        story = going_on[-1 - number % len(going_on)]
        told = story.happen(seconds if self.setting.has_key else max(seconds, 1))
        if form == "thin" and not self.setting.has_key:
            form = "both"
        story.is_told_in_full &= form != "thin"
        forms = {
            "snapshot": [told],
            "thin": [as_thin(told)],
            "both": [told, as_thin(told)],
            "twins": [told, as_twin(told)],
        }
        self.waiting |= {one.id: one for one in forms[form]}

    @rule(number=st.integers(0, 9), seconds=st.integers(0, 2), form=st.sampled_from(["snapshot", "thin", "both"]))
    def something_is_told_at_once(self, number: int, seconds: int, form: str) -> None:
        """Makes a change, delivers it and works it off, as is usual."""
        before = set(self.waiting)
        self.something_happens(number, seconds, form)
        news = [event_id for event_id in self.waiting if event_id not in before]
        self._deliver([self.waiting[event_id] for event_id in news])
        _perform_all(process(news))

    @rule(status=st.sampled_from([None, None, 429, 500]))
    def stripe_answers_or_not(self, status: int | None) -> None:
        self.world.fails_with = status

    # Deliveries

    @rule(data=st.data(), again=st.integers(0, 2))
    def deliver(self, data: st.DataObject, again: int) -> None:
        """Delivers some waiting events in one batch, in any order, with some that were delivered before."""
        fresh = data.draw(_some(self.waiting))
        known = data.draw(_some(self.delivered))[:again]
        self._deliver([self.waiting[one] for one in fresh] + [self.delivered[one] for one in known])

    def _deliver(self, events: list[VerificationEvent]) -> None:
        held = {row.id: row.status for row in _tables().events}
        receipt = receive(events)
        distinct = {one.id: one for one in events}
        assert receipt.accepted == distinct.keys() - held.keys(), "what is known is no news"
        assert receipt.unprocessed == {one for one in distinct if held.get(one) == InboxStatus.RECEIVED}
        self.delivered |= distinct
        for event_id in distinct:
            self.waiting.pop(event_id, None)

    @rule()
    def purge(self) -> None:
        """Purges processed events and finished mails; Stripe may deliver an event again still later."""
        ended = col(OutboxAction.status).in_((ActionStatus.DONE, ActionStatus.SKIPPED))
        mails = delete(OutboxAction).where(ended, col(OutboxAction.name).in_(TELLING))
        keys = mails.returning(col(OutboxAction.session_id), col(OutboxAction.name), col(OutboxAction.cause))
        with transaction() as session:
            session.connection().execute(delete(InboxEvent).where(col(InboxEvent.status) == InboxStatus.PROCESSED))
            self.purged |= {(one.session_id, one.name, one.cause) for one in session.connection().execute(keys)}

    # Workers

    @rule(data=st.data(), crash=st.integers(0, 3), after=st.booleans())
    def process(self, data: st.DataObject, crash: int, after: bool) -> None:
        """Processes a message with some ids, by a worker that may die at any commit."""
        event_ids = data.draw(_some(self.delivered))
        self.commits.crash_at(crash, after=after)
        with suppress(CrashError):
            process(event_ids)
        self.commits.crash_at(0, after=False)

    @rule(data=st.data(), answer=st.sampled_from(["ok", "ok", "refused", "never", "not now"]), takes=st.booleans())
    def perform(self, data: st.DataObject, answer: str, takes: bool) -> None:
        """Performs one owed action; the mail server and the application take it or not."""
        self._perform(data, answer, takes, crash=0, after=False)

    @rule(data=st.data(), crash=st.integers(1, 3), after=st.booleans())
    def perform_and_die(self, data: st.DataObject, crash: int, after: bool) -> None:
        """Performs one owed action by a worker that dies at a commit."""
        self._perform(data, "ok", takes=True, crash=crash, after=after)

    def _perform(self, data: st.DataObject, answer: str, takes: bool, crash: int, after: bool) -> None:
        pending = [one for one in _tables().actions if one.status == ActionStatus.PENDING]
        if not pending:
            return
        action = data.draw(st.sampled_from(pending))
        key = (action.session_id, action.name, action.cause)
        errors: dict[str, Exception] = {
            "refused": RefusedError("refused"),
            "never": PermanentError("never"),
            "not now": NotNowError("not now"),
        }
        self.mail_answer = errors.get(answer)
        self.application.status = 200 if takes else 500
        before = self.post_box.sent[key]
        self.commits.crash_at(crash, after=after)
        try:
            perform(action.id or 0)
        except CrashError:
            if self.post_box.sent[key] > before and facts.action(action.id or 0).status == ActionStatus.PENDING:
                self.window[key] += 1
        self.commits.crash_at(0, after=False)
        self.mail_answer, self.application.status = None, 200

    @rule()
    def time_passes(self) -> None:
        """Ends all leases and delays, and the quiet that Stripe has asked for."""
        facts.end_all_leases()
        client.cache_clear()

    @rule(at_once=st.booleans())
    def remind(self, at_once: bool) -> None:
        """Owes the reminders of the persons who have not begun."""
        owed = remind()
        _perform_all(owed if at_once else [])

    @rule(size=st.integers(1, 4))
    def sweep(self, size: int) -> None:
        """Works the due rows off, as after a sweep of the clock."""
        not_tried, tried_before = due(InboxEvent, 1000)
        for start in range(0, len(not_tried), size):
            _perform_all(process(not_tried[start : start + size]))
        for event_id in tried_before:
            _perform_all(process([event_id]))
        _perform_all(facts.due_actions())

    @rule()
    def everything_arrives(self) -> None:
        """Lets Stripe answer, all events arrive and time pass, until nothing is left to do."""
        self.world.fails_with = None
        self._deliver(list(self.waiting.values()))
        for _ in range(12):
            for story in self.world.stories.values():
                story.now += timedelta(seconds=2)  # a later answer settles a tie within one second
            self.time_passes()
            self.sweep(3)
            tables = _tables()
            if not any(one.status == InboxStatus.RECEIVED for one in tables.events) and not any(
                one.status == ActionStatus.PENDING for one in tables.actions
            ):
                break
        else:
            raise AssertionError("something is never done")
        self._record_what_is_processed(tables)
        for story in self.world.stories.values():
            self._ends_as_it_must(story, tables)

    def teardown(self) -> None:
        if self.world.stories:
            self.everything_arrives()
            self.all_holds()

    # The invariants

    @invariant()
    def all_holds(self) -> None:
        """Checks the invariants after every step."""
        self.setting.steps += 1
        tables = _tables()
        self._record_what_is_processed(tables)
        assert not self.wrong, self.wrong
        keys = Counter((one.session_id, one.name, one.cause) for one in tables.actions)
        assert not [key for key, count in keys.items() if count > 1], "one action for each key"
        for key, count in self.post_box.sent.items():
            assert keys[key] == 1 or key in self.purged, "nothing is sent that is not owed"
            is_once = key[1] not in TELLING or key[1] == "email_reminder"
            assert not is_once or count <= 1 + self.window[key], f"{key} was sent {count} times"
        for mails in self.post_box.told.values():
            for key, count in Counter(one.key for one, other in pairwise(mails) if one.key == other.key).items():
                assert count <= self.window[key], f"{key} was sent {count + 1} times in a row"
        for session_id, record in tables.records.items():
            self._holds(session_id, record, tables)

    def _holds(self, session_id: str, record: VerificationRecord, tables: Tables) -> None:
        changes = [
            int(one.cause) for one in tables.actions if one.session_id == session_id and one.name == "notify_app"
        ]
        assert sorted(changes) == list(range(1, record.change_number + 1)), "change numbers have no gap"
        taken = self.application.taken[session_id]
        assert taken == sorted(taken), f"told out of order: {taken}"
        reports = {one.report_id for one in tables.submissions if one.session_id == session_id}
        story = self.world.stories[session_id]
        assert record.submissions == len(reports), "a submission is a distinct report"
        assert reports <= truth(story.happened, LIMIT).reports
        assert reports >= self._reports_processed(session_id)
        if self._told(session_id):
            assert (record.verification_id, record.generation) == (story.verification_id, 1), "it is whose it says"
        if record.status == "canceled" and record.applied_at:
            self.canceled.add(session_id)
        assert session_id not in self.canceled or record.status == "canceled", "canceled absorbs"
        if record.redacted_at:
            self.redacted.add(session_id)
        if session_id in self.redacted:
            self._is_forgotten(session_id, record, tables)
        if not self.setting.has_key:
            self._is_the_latest(session_id, record)

    def _reports_processed(self, session_id: str) -> set[str]:
        return {
            one.state.report_id
            for one in self._told(session_id)
            if one.kind not in ("created", "processing") and one.state and one.state.report_id
        }

    def _told(self, session_id: str) -> list[VerificationEvent]:
        """The processed snapshots of a session's states."""
        events = [self.delivered[event_id] for event_id in self.processed]
        return [one for one in events if one.session_id == session_id and one.state and one.kind != "redacted"]

    def _is_forgotten(self, session_id: str, record: VerificationRecord, tables: Tables) -> None:
        assert record.redacted_at, "a redaction stays"
        mark = f"{PERSONAL}-{session_id}"
        assert mark not in repr((record, tables.actions, tables.submissions, tables.outputs))
        done_with = [one for one in tables.events if one.status == InboxStatus.PROCESSED]
        assert mark not in repr(done_with), "an event of a redacted session is emptied when it is processed"
        owed = [one for one in tables.actions if one.session_id == session_id and one.status == ActionStatus.PENDING]
        assert {one.name for one in owed} <= {"notify_app"}, "owed mails are dropped"

    def _is_the_latest(self, session_id: str, record: VerificationRecord) -> None:
        """Checks, with nobody to ask and seconds in between, that the record is the state of the latest event."""
        told = self._told(session_id)
        if not told:
            return
        last = max(told, key=lambda one: (one.kind == "canceled", one.created_at, RANKS[one.kind]))
        assert last.state is not None
        expected = (last.state.status, last.state.error_code, last.state.report_id)
        assert (record.status, record.last_error_code, record.last_report_id) == expected
        assert record.applied_at == last.created_at

    def _ends_as_it_must(self, story: Story, tables: Tables) -> None:
        true, session_id = truth(story.happened, LIMIT), story.session_id
        record = tables.records[session_id]
        outline = (record.status, record.last_error_code, record.last_report_id, record.redacted_at is not None)
        assert outline == (true.status, true.error_code, true.report_id, true.is_redacted)
        besides = ("notify_app", "email_reminder")  # their keys depend on the events heard, and on their order
        mails = [one for one in tables.actions if one.session_id == session_id and one.name not in besides]
        keys = {(one.name, one.cause) for one in mails}
        reports = {one.report_id for one in tables.submissions if one.session_id == session_id}
        keys |= {key[1:] for key in self.purged if key[0] == session_id and key[1] not in besides}
        if story.is_told_in_full:
            assert keys == true.keys
            assert reports == true.reports
        else:
            assert keys <= true.keys
        if true.is_redacted:
            assert f"{PERSONAL}-{session_id}" not in repr(tables)
        else:
            frauds = {one.status for one in mails if one.name == "alert_review" and one.cause != "submission_limit"}
            assert frauds <= {ActionStatus.DONE, ActionStatus.DEAD}, "a reviewer hears of it, however late"
        if not true.is_redacted and not true.is_at_limit:
            self._is_told(session_id, true, {one.name: one.status for one in mails if one.cause == true.cause})

    def _is_told(self, session_id: str, true: Truth, now: dict[str, str]) -> None:
        """Checks that the last mail is the one of the record's state, and that the reviewer has heard of it."""
        for name, cause in true.keys:
            if cause != true.cause or now.get(name) == ActionStatus.DEAD:
                continue
            if name not in TELLING:
                assert now[name] == ActionStatus.DONE
            elif not any(key[0] == session_id for key in self.window):
                assert self.post_box.told[session_id][-1].key == (session_id, name, cause)

    def _record_what_is_processed(self, tables: Tables) -> None:
        self.processed |= {one.id for one in tables.events if one.status == InboxStatus.PROCESSED}
        assert not [one.id for one in tables.events if one.status == InboxStatus.DEAD], "nothing here buries an event"

    def _look_at_mail(self, mail: Mail) -> None:
        """Notes a mail that is not owed when it is sent; an error here would only be taken for the mail server's."""
        session_id, name, cause = mail.key
        record = facts.record(session_id)
        if record.redacted_at:
            self.wrong.append(f"{mail.key} is sent after the redaction")
        now = f"{record.status}:{record.last_error_code or ''}:{record.last_report_id or ''}"
        if name == "email_reminder" and any(one.kind != "created" for one in self._told(session_id)):
            self.wrong.append(f"{mail.key} is sent to somebody who has begun")
        if name != "alert_review" and cause not in (now, record.status):
            self.wrong.append(f"{mail.key} is sent while the record is {now}")
        if self.mail_answer:
            raise self.mail_answer


def _some(events: Iterable[str]) -> st.SearchStrategy[list[str]]:
    ids = sorted(events)
    return st.lists(st.sampled_from(ids), unique=True, max_size=5) if ids else st.just([])


def _perform_all(action_ids: list[int]) -> None:
    for _ in range(50):
        if not action_ids:
            return
        action_ids = [released for action_id in action_ids for released in perform(action_id)]
    raise AssertionError("one action calls for another without an end")


def _tables() -> Tables:
    with transaction() as session:
        records = session.scalars(select(VerificationRecord)).all()
        return Tables(
            events=list(session.scalars(select(InboxEvent))),
            records={record.session_id: record for record in records},
            submissions=list(session.scalars(select(Submission))),
            actions=list(session.scalars(select(OutboxAction))),
            outputs=list(session.scalars(select(VerifiedOutput))),
        )
