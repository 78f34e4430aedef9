"""Everything that can happen to openings, in any succession, against the real database and the local Stripe."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete, func, select
from sqlmodel import SQLModel, col

from config.database import transaction
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox import mails
from handlers.outbox.mails import Mail
from handlers.outbox.perform import perform
from handlers.owed.kinds import ENDED_BY_BURNING, TELLING
from handlers.queue.claims import due
from handlers.queue.failures import NotNowError
from handlers.record.events import Status, VerificationEvent
from handlers.sessions.closing import cancel_verification, redact_verification
from handlers.sessions.entering import Entry, WayIn, enter, entry
from handlers.sessions.opening import open_verification
from handlers.sessions.refusals import FaultsError, OpeningError
from handlers.sessions.reminders import remind
from handlers.sessions.standing import SessionStands, standing
from handlers.sessions.turn import Wanted
from handlers.sessions.views import NotFoundError, view
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, Verification, VerificationRecord
from handlers.upkeep.reconcile import reconcile
from tests.property.near_stripe import NearStripe
from tests.property.stepping import DeadError, Stepped, current
from tests.simulator import control, person, redaction, sessions
from tests.simulator.errors import ApiError
from tests.simulator.store import Scope, Session
from tests.support import shapes
from tests.support.databases import unsynced

PEOPLE = ("person-a", "person-b")  # few, so that much happens to each
_WANTED: tuple[dict[str, Any], ...] = (
    {"type": "document"},
    {"type": "document", "metadata": {"a": "1"}},
    {"type": "id_number", "metadata": {"a": "2", "b": "3"}},
    {"type": "document", "options": {"document": {"require_id_number": True}}},
)
_LEASE_OVER, _KEY_FORGOTTEN = 150.0, 30 * 3600.0  # seconds
_DAY = 24 * 3600.0
# The outcomes of an opener's next call.
ANSWERS = (
    *("as it is",) * 12,
    *(
        "lost",
        "never arrived",
        "500",
        "500, saved",
        "500, done",
        "500, done and saved",
        "429",
        "on its way",
        "not there",
    ),
)
# The ways in. Fields that are no secret may be handed out again.
WAYS = (
    WayIn(integration="modal"),
    WayIn(integration="redirect"),
    WayIn(integration="native", stripe_version="2026-10-28.endive"),
)
_NO_SECRETS = {"publishable_key", "session_id"}
_MOST_STEPS = 14  # about as many as an opening takes
_MOST_AT_ONCE = 4  # each holds a connection while it stands still


@dataclass
class Setting:
    """The surroundings of a run, made once for all runs of a test."""

    stripe: NearStripe
    mails: list[Mail] = field(default_factory=list)
    runs: int = 0
    steps: int = 0
    opened: int = 0

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.steps:,} steps, {self.opened:,} openings with an answer; no person had two open "
            "sessions, and each session its record"
        )


@contextmanager
def post_box(environment: pytest.MonkeyPatch) -> Iterator[list[Mail]]:
    """Takes the mails of this process in place of the mail server."""
    sent: list[Mail] = []
    environment.setattr(mails, "send", sent.append)
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    with unsynced():
        yield sent


class OpeningMachine(RuleBasedStateMachine):
    """Openers, closers, persons, Stripe, its deliveries, workers and the clock, each with a will of its own."""

    setting: Setting

    def __init__(self) -> None:
        super().__init__()
        self.stripe = self.setting.stripe
        self.at_work: list[Stepped] = []
        self.since: dict[Stepped, float] = {}  # the time on the clocks when each was at the database last
        self.made: dict[str, tuple[str, int]] = {}  # by session: its verification and generation, as told to Stripe
        self.secrets: Counter[str] = Counter()
        self.seen: set[str] = set()  # events that were delivered or lost
        self.delivered: list[VerificationEvent] = []
        self.windows: set[str] = set()  # verifications of which two sessions may be open for some time
        self.wrong: list[str] = []
        self.asked_to_forget: dict[str, str] = {}  # verification: reference
        self._begin_afresh()
        self.setting.runs += 1

    def _begin_afresh(self) -> None:
        self.stripe.reset()
        self.stripe.before = self._look_at_call
        self.setting.mails.clear()
        with transaction() as session:
            for table in reversed(SQLModel.metadata.sorted_tables):
                session.connection().execute(delete(table))

    # Openers

    @initialize()
    def a_first_opener(self) -> None:
        self.opens(0, 0, "", 0, 0, "as it is", is_last=False, way=WAYS[0])

    @precondition(lambda self: len(self.at_work) < _MOST_AT_ONCE)
    @rule(
        who=st.integers(0, 1),
        what=st.integers(0, len(_WANTED) - 1),
        how=st.sampled_from(["", "", "", "", "replaces", "adopts"]),
        which=st.integers(0, 9),
        steps=st.integers(0, _MOST_STEPS),
        answer=st.sampled_from(ANSWERS),
        is_last=st.sampled_from([False, False, True]),
        way=st.sampled_from(WAYS),
    )
    def opens(
        self, who: int, what: int, how: str, which: int, steps: int, answer: str, is_last: bool, way: WayIn
    ) -> None:
        """Begins to open a verification, and goes on by some steps; then all may die, and nobody comes for a day."""
        ours = [one.id for one in self.stripe.sessions() if one.client_reference_id == PEOPLE[who]]
        chosen = ours[-1 - which % len(ours)] if how and ours else None
        wanted = Wanted(
            client_reference_id=PEOPLE[who],
            purpose="",
            account="",
            livemode=False,
            params=_WANTED[what],
            replaces=chosen if how == "replaces" else None,
            adopt=chosen if how == "adopts" else None,
        )
        self._begins(lambda: self._open(wanted, way), steps, answer)
        if is_last:
            while self.at_work:
                self.at_work.pop().die()
            self.stripe.later(_KEY_FORGOTTEN)

    def _open(self, wanted: Wanted, way: WayIn = WAYS[0]) -> None:
        """Opens a verification as the API does."""
        opened = open_verification(wanted)
        if opened is None:
            return
        if entered := entry(opened.verification_id, opened.answer, None, way):
            self._hand_out(entered)
        self.setting.opened += 1

    @precondition(lambda self: len(self.at_work) < _MOST_AT_ONCE)
    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from(["cancel", "cancel quietly", "redact", "enter", "enter"]),
        steps=st.integers(0, _MOST_STEPS),
        answer=st.sampled_from(ANSWERS),
        way=st.sampled_from(WAYS),
    )
    def closes_or_enters(self, which: int, how: str, steps: int, answer: str, way: WayIn) -> None:
        """Begins to close a verification, to have its person forgotten, or to go in."""
        ids = [one.id for one in _verifications()]
        if not ids:
            return
        id_ = ids[-1 - which % len(ids)]
        works: dict[str, Callable[[], object]] = {
            "cancel": lambda: cancel_verification(id_, notify=True),
            "cancel quietly": lambda: cancel_verification(id_, notify=False),
            "redact": lambda: self._redact(id_),
            "enter": lambda: self._hand_out(enter(id_, way)),
        }
        self._begins(works[how], steps, answer)

    def _redact(self, id_: str) -> None:
        reference = next(one.client_reference_id for one in _verifications() if one.id == id_)
        redact_verification(id_)
        if reference:
            self.asked_to_forget[id_] = reference

    def _hand_out(self, entered: Entry) -> None:
        self.secrets.update(value for name, value in entered.fields.items() if name not in _NO_SECRETS)

    def _begins(self, work: Callable[[], object], steps: int, answer: str) -> None:
        self.at_work.append(Stepped(work))
        self.goes_on(-1, steps, answer)

    @precondition(lambda self: self.at_work)
    @rule(which=st.integers(0, 9), steps=st.integers(1, _MOST_STEPS), answer=st.sampled_from(ANSWERS))
    def goes_on(self, which: int, steps: int, answer: str) -> None:
        """Moves one of those at work on by some steps; `answer` is the outcome of its next call."""
        stepped = self.at_work[which % len(self.at_work)]
        stepped.answer = answer
        for _ in range(steps):
            self._one_step(stepped)
        if answer != "as it is":
            self.stripe.later(10.0)  # a caller without an answer asks no sooner
        self._look_at_ends()

    def _one_step(self, stepped: Stepped) -> None:
        if stepped.at == "the database":
            self.since[stepped] = self.stripe.ahead
        stepped.go_on()
        self._look_at_sessions()

    @precondition(lambda self: self.at_work)
    @rule(which=st.integers(0, 9), dies=st.booleans())
    def dies_or_all_go_on(self, which: int, dies: bool) -> None:
        """Lets one of those at work die; or moves all on, in turns, to their ends, as is usual."""
        if dies:
            self.at_work[which % len(self.at_work)].die()
        while self.at_work and not dies:
            for stepped in self.at_work:
                self._one_step(stepped)
            self._look_at_ends()
        self._look_at_ends()

    def _look_at_ends(self) -> None:
        for stepped in [one for one in self.at_work if one.is_over]:
            self.at_work.remove(stepped)
            expected = (OpeningError, FaultsError, NotNowError, NotFoundError, DeadError)
            if stepped.raised is not None and not isinstance(stepped.raised, expected):
                raise stepped.raised

    # Persons, reviewers, the Dashboard, the application's own code

    @precondition(lambda self: self.stripe.sessions())
    @rule(
        which=st.integers(0, 9),
        what=st.sampled_from(["submit", "pass", "fail", "abandon", "cancel", "override", "redact", "metadata"]),
    )
    def something_happens(self, which: int, what: str) -> None:
        """Does something to one of the sessions, as far as Stripe lets it."""
        one, world = self.stripe.sessions()[-1 - which % len(self.stripe.sessions())], self.stripe.world
        works: dict[str, Callable[[], object]] = {
            "submit": lambda: person.submit(world, one),
            "pass": lambda: person.passed(world, one),
            "fail": lambda: person.failed(world, one, "document_expired"),
            "abandon": lambda: person.failed(world, one, "abandoned"),
            "cancel": lambda: sessions.cancel(world, one),
            "override": lambda: self._override(one),
            "redact": lambda: redaction.begin(world, one),
            "metadata": lambda: self._touch_metadata(one),
        }
        with suppress(ApiError):  # Stripe may refuse it
            works[what]()

    def _override(self, one: Session) -> None:
        """Lets a reviewer take a verdict back: a session that was replaced may be open again for a while."""
        person.override(self.stripe.world, one)
        self.windows.add(self.made.get(one.id, ("", 0))[0])

    def _touch_metadata(self, one: Session) -> None:
        """Adds metadata at the Dashboard; of a session that is written down, takes our generation away."""
        metadata = {"note": "seen"}
        if any(verification.session_id == one.id for verification in _verifications()):
            metadata["idv_generation"] = ""
        sessions.update(one, {"metadata": metadata})

    @rule(who=st.integers(0, 1), what=st.sampled_from(["stranger", "theirs", "reconcile", "settles"]))
    def something_seldom_happens(self, who: int, what: str) -> None:
        """A stranger types a reference into a static link; the application's own code makes a session; reconcile runs,
        with no quiet asked for any more; or everything comes to rest.
        """
        world = self.stripe.world
        if what == "stranger":
            control.from_link(world, Scope(), PEOPLE[who], None)
        elif what == "theirs":
            sessions.create(world, Scope(), {"type": "document", "client_reference_id": PEOPLE[who]})
        elif what == "reconcile":
            self.stripe.later(60.0)
            process(reconcile().to_process)
        else:
            self.everything_settles()

    # Stripe's deliveries, workers and the clock

    @rule(
        data=st.data(),
        order=st.randoms(use_true_random=False),
        kind=st.sampled_from(["", "", "thin", "lost"]),
        works=st.booleans(),
    )
    def deliveries(self, data: st.DataObject, order: Any, kind: str, works: bool) -> None:
        """Delivers some events in any order, some of them again, or answers and loses them; workers may be at work."""
        waiting = [one for one in self.stripe.world.store.events.values() if one.id not in self.seen]
        some = waiting[: data.draw(st.integers(0, len(waiting)))] if waiting else []
        order.shuffle(some)
        self.seen |= {one.id for one in some}
        for one in some:
            one.pending.clear()
        if kind == "lost":
            return
        news = [shapes.parsed(one.rendered()) for one in some if one.thin == (kind == "thin")]
        self.delivered += news
        again = self.delivered[: data.draw(st.integers(0, 2))]
        receive([*news, *again])
        process([one.id for one in (*news, *again)])
        if works:
            self._work()

    def _work(self) -> None:
        remind()
        not_tried, tried_before = due(InboxEvent, 1000)
        process([*not_tried, *tried_before])
        not_tried, tried_before = due(OutboxAction, 1000)
        owed = [*not_tried, *tried_before]
        for _ in range(20):
            if not owed:
                return
            owed = [released for action_id in owed for released in self._perform(action_id)]
        raise AssertionError("one action calls for another without an end")

    def _perform(self, action_id: int) -> list[int]:
        before = len(self.setting.mails)
        owed = perform(action_id)
        for mail in self.setting.mails[before:]:
            self._look_at_mail(mail)
        return owed

    @rule(seconds=st.sampled_from([0.0, 60.0, _LEASE_OVER, _LEASE_OVER, _KEY_FORGOTTEN]), arrives=st.booleans())
    def time_passes(self, seconds: float, arrives: bool) -> None:
        """Moves all clocks on; late calls may arrive at Stripe, long after their callers have given up."""
        self.stripe.later(seconds)
        if arrives:
            self.stripe.arrive()

    def everything_settles(self) -> None:
        """Lets all at work die; Stripe answers, all late calls arrive, and time passes until nothing is left to do."""
        for stepped in self.at_work:
            stepped.die()
        self.at_work.clear()
        self.stripe.arrive()
        self._settle()
        for reference in PEOPLE:
            self._can_be_opened(reference)
        self._settle()

    def _settle(self) -> None:
        for _ in range(4):
            self._rest()
            found = reconcile(bounded=False).to_process
            # A mark is taken back once its session has not changed for as long as an opening may take.
            if not found and not self._unrest() and not self._marked():
                break
            process(found)
        else:
            raise AssertionError("reconcile finds ever more")
        self._look_at_sessions()
        self.windows.clear()
        self.all_holds()
        self._ends_as_it_must()

    def _rest(self) -> None:
        world = self.stripe.world
        for _ in range(12):
            self.stripe.later(2 * 3600.0)
            for one in self.stripe.sessions():
                if one.status == "processing" and _is_to_be_forgotten(one.id):
                    person.failed(world, one, "document_expired")
                while one.redaction in redaction.NEXT:
                    redaction.step(world, one)
            waiting = [one for one in world.store.events.values() if one.id not in self.seen and not one.thin]
            self.seen |= set(world.store.events)
            for event in world.store.events.values():
                event.pending.clear()
            receive([shapes.parsed(one.rendered()) for one in waiting])
            self._work()
            if not self._unrest():
                return
        raise AssertionError("something is never done")

    def _unrest(self) -> bool:
        store = self.stripe.world.store
        is_told = all(one.id in self.seen for one in store.events.values())
        return not is_told or any(one.redaction in redaction.NEXT for one in store.sessions.values()) or _unfinished()

    def _marked(self) -> list[str]:
        """The open sessions that are marked as about to end."""
        still_open = {one.id for one in self.stripe.sessions() if one.status == "requires_input" and not one.redaction}
        return [
            one.session_id
            for one in _records()
            if one.session_id in still_open and (one.replacing_at or one.ends_quietly)
        ]

    def _can_be_opened(self, reference: str) -> None:
        """Opens a verification, to show that no earlier opening is in the way."""
        wanted = Wanted(client_reference_id=reference, purpose="", account="", livemode=False, params=_WANTED[0])
        try:
            self._open(wanted)
        except OpeningError as error:
            if error.code not in ("submission-limit", "configuration-differs"):
                raise

    def teardown(self) -> None:
        try:
            self.everything_settles()
        finally:
            for stepped in self.at_work:
                stepped.die()

    # The invariants

    @invariant()
    def all_holds(self) -> None:
        """Checks the invariants after every step."""
        self.setting.steps += 1
        self._look_at_sessions()
        assert not self.wrong, self.wrong
        assert all(count == 1 for count in self.secrets.values()), "a secret is handed out once"
        replaced = {one.session_id for one in _records() if one.replaced_at}
        assert not replaced & {one.session_id for one in _verifications()}, "the current session is never replaced"

    def _look_at_sessions(self) -> None:
        open_ones: Counter[str] = Counter()
        for one in self.stripe.sessions():
            if "idv_id" in one.metadata and "idv_generation" in one.metadata:
                self.made[one.id] = one.metadata["idv_id"], int(one.metadata["idv_generation"])
            if one.id in self.made and one.status == "requires_input" and not one.redaction:
                open_ones[self.made[one.id][0]] += 1
        for id_, count in open_ones.items():
            assert count == 1 or id_ in self.windows, f"{count} sessions are open"

    def _look_at_call(self, method: str, path: str, body: Any) -> None:
        """Notes a session that is made for a person who is verified already. Two sessions may be open for some time if
        their maker has slept for a day, if the call was late, or if Stripe has denied the first one.
        """
        if method == "DENIED":
            self.windows.add(self.made.get(path.rpartition("/")[2], ("", 0))[0])
        if method in ("GET", "DENIED") or not path.endswith("/verification_sessions"):
            return
        params = dict(parse_qsl(body))
        id_ = params["metadata[idv_id]"]
        stepped = current()
        if method == "LATE":
            self.windows.add(id_)
        if stepped is not None and self.stripe.ahead - self.since.get(stepped, 0.0) > _DAY:
            self.windows.add(id_)
        verified = [
            one.id
            for one in self.stripe.sessions()
            if one.status == "verified" and self.made.get(one.id, ("", 0))[0] == id_
        ]
        if verified and id_ not in self.windows and not all(_record(one).replaced_at for one in verified):
            self.wrong.append(f"{verified} is verified, and another one is made")

    def _look_at_mail(self, mail: Mail) -> None:
        record = _record(mail.key[0])
        if mail.template in TELLING and record.replaced_at:
            self.wrong.append(f"{mail.key} is sent about a session that was replaced")
        if mail.template in ENDED_BY_BURNING and record.burned_at:
            self.wrong.append(f"{mail.key} is sent about a session that is burned")
        if mail.template == "email_reminder":
            at_stripe = self.stripe.world.store.sessions[record.session_id]
            if at_stripe.status != "requires_input" or at_stripe.last_error or at_stripe.redaction:
                self.wrong.append(f"{mail.key} is sent to somebody who has begun")
            current_ones = {one.session_id for one in _verifications()}
            if record.verification_id and record.session_id not in current_ones:
                self.wrong.append(f"{mail.key} is sent about a session that is not the current one")
            if sum(one.key == mail.key for one in self.setting.mails) > 1:
                self.wrong.append(f"{mail.key} is sent again")

    def _ends_as_it_must(self) -> None:
        verifications = {one.id: one for one in _verifications()}
        records = {one.session_id: one for one in _records()}
        for one in self.stripe.sessions():
            if one.id in self.made and not one.redaction:
                record = records[one.id]
                assert (record.verification_id, record.generation) == self.made[one.id], "each session has its record"
                if one.status == "requires_input":
                    known = verifications[self.made[one.id][0]]
                    assert known.session_id == one.id or known.redaction_asked_at, "an open session is the current one"
                    marks = record.replacing_at, record.ends_quietly or None
                    assert marks == (None, None), "an open session is about to end"
        for id_, verification in verifications.items():
            if verification.redaction_asked_at:
                self._is_forgotten(verification)
            else:
                self._stands(verification, [one for one in records.values() if one.verification_id == id_])

    def _stands(self, verification: Verification, records: list[VerificationRecord]) -> None:
        at_stripe = {one.id: one for one in self.stripe.sessions()}
        stands = [
            SessionStands(
                generation=record.generation or 0,
                status=Status(at_stripe[record.session_id].status),
                is_known=record.session_id == verification.session_id,
                is_replaced=record.replaced_at is not None,
            )
            for record in records
        ]
        true = standing(stands, verification.generation, limit=settings().submission_limit)
        assert view(verification.id)["status"] == true.status

    def _is_forgotten(self, verification: Verification) -> None:
        reference = self.asked_to_forget.get(verification.id, "person-")
        assert reference not in repr(verification)
        ids = [one.session_id for one in _records() if one.verification_id == verification.id]
        for table in (VerificationRecord, InboxEvent, OutboxAction):
            with transaction() as session:
                rows = session.scalars(select(table).where(col(table.session_id).in_(ids))).all()
            assert reference not in repr(rows), f"nothing of the person is left in {table.__tablename__}"
        for one in self.stripe.sessions():
            if one.id in ids:
                assert one.redaction == "redacted", "Stripe has forgotten the person, too"


def _verifications() -> list[Verification]:
    with transaction() as session:
        return list(session.scalars(select(Verification).order_by(col(Verification.created_at))))


def _records() -> list[VerificationRecord]:
    with transaction() as session:
        return list(session.scalars(select(VerificationRecord)))


def _record(session_id: str) -> VerificationRecord:
    with transaction() as session:
        return session.get_one(VerificationRecord, session_id)


def _is_to_be_forgotten(session_id: str) -> bool:
    with transaction() as session:
        record = session.get(VerificationRecord, session_id)
        return bool(record and record.redaction_asked_at)


def _unfinished() -> bool:
    with transaction() as session:
        events = select(func.count()).where(col(InboxEvent.status) == InboxStatus.RECEIVED)
        actions = select(func.count()).where(col(OutboxAction.status) == ActionStatus.PENDING)
        return bool(session.scalar(events) or session.scalar(actions))
