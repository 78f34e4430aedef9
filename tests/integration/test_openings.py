"""Openings that meet each other, or the traces of one that died: cases that tests/property/opening_machine.py found."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from config.database import database_now, transaction
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import outside
from handlers.outbox.perform import perform
from handlers.owed.kinds import TELLING
from handlers.queue.failures import NotNowError
from handlers.record.events import SessionState, VerificationEvent, parse
from handlers.sessions.closing import cancel_verification, redact_verification
from handlers.sessions.entering import WayIn, enter, enter_by_link, entry
from handlers.sessions.opening import Opened, open_verification
from handlers.sessions.refusals import OpeningError, unless_enough
from handlers.sessions.seen import seen
from handlers.sessions.views import view
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification
from handlers.upkeep.reconcile import reconcile
from tests.integration.openings import open_wanted, wanted
from tests.property.near_stripe import NearStripe, near_stripe
from tests.property.stepping import Stepped, stepping
from tests.simulator import person, sessions
from tests.simulator.store import Scope, Session
from tests.support import facts

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def near() -> Iterator[NearStripe]:
    with near_stripe() as stripe, stepping():
        stripe.reset()
        yield stripe


def _tries(near: NearStripe, answer: str, **changes: Any) -> None:
    """Opens; the call that makes a session gets this answer, and Stripe then answers again."""
    stepped = Stepped(lambda: open_verification(wanted(**changes)))
    _go_on_to(stepped, "post")
    stepped.answer = answer
    while not stepped.is_over:
        stepped.go_on()
    assert isinstance(stepped.raised, NotNowError)
    near.later(10.0)


def _go_on_to(stepped: Stepped, at: str) -> None:
    while not stepped.at.startswith(at):
        assert not stepped.is_over, stepped.raised
        stepped.go_on()


def _open_ones(near: NearStripe) -> list[Session]:
    return [one for one in near.sessions() if one.status == "requires_input"]


def _verifications() -> list[Verification]:
    with transaction() as session:
        return list(session.scalars(select(Verification)))


def _deliver(near: NearStripe) -> None:
    """Delivers all events, and performs the actions that they owe."""
    parsed = [parse(one.rendered()) for one in near.world.store.events.values() if not one.thin]
    events = [one for one in parsed if isinstance(one, VerificationEvent)]
    receive(events)
    process([one.id for one in events])
    for action_id in facts.due_actions():
        perform(action_id)


def test_what_a_try_with_other_parameters_made_meanwhile_is_changed_to_what_is_wanted(near: NearStripe) -> None:
    _tries(near, "on its way", params={"type": "document", "metadata": {"a": "1"}})
    second = Stepped(lambda: open_wanted(params={"type": "document", "metadata": {"a": "2"}}))
    _go_on_to(second, "post")
    near.arrive()
    while not second.is_over:
        second.go_on()
    [session] = near.sessions()
    assert isinstance(second.result, Opened)
    assert (second.result.answer.id, second.result.made, session.metadata["a"]) == (session.id, False, "2")


def test_what_a_try_with_the_same_parameters_made_meanwhile_is_entered_by_a_secret_of_its_own(near: NearStripe) -> None:
    _tries(near, "on its way")
    second = Stepped(open_wanted)
    _go_on_to(second, "post")
    near.arrive()
    while not second.is_over:
        second.go_on()
    saved, fresh = near.world.store.secrets
    assert isinstance(second.result, Opened)
    assert (second.result.made, second.result.answer.content["client_secret"]) == (False, fresh)
    assert saved != fresh


def test_what_is_still_being_made_is_waited_for_and_is_no_refusal_of_us(near: NearStripe) -> None:
    _tries(near, "on its way")
    with pytest.raises(NotNowError):
        open_wanted()
    at_large = [one for one in outside.heard(outside.said()) if (one.of, one.doing) == (outside.STRIPE, "")]
    assert [one.since for one in at_large] == [None]
    near.arrive()
    assert (open_wanted().made, len(near.sessions())) == (False, 1)


def test_who_is_held_up_begins_nothing_that_might_outlast_the_lease(near: NearStripe) -> None:
    open_wanted()
    sessions.cancel(near.world, near.sessions()[0])
    late = Stepped(open_wanted)
    _go_on_to(late, "get")
    near.later(60.0)
    while not late.is_over:
        late.go_on()
    assert isinstance(late.raised, OpeningError)
    assert _open_ones(near) == []
    assert open_wanted().generation == 2


def test_who_is_to_be_forgotten_meanwhile_is_not_let_in(near: NearStripe) -> None:
    opened = open_wanted()
    again = Stepped(open_wanted)
    _go_on_to(again, "the answer")
    redact_verification(opened.verification_id)
    while not again.is_over:
        again.go_on()
    assert isinstance(again.raised, OpeningError)
    assert again.raised.code == "redacted"
    assert near.sessions()[0].redaction is None  # a worker asks Stripe to redact it


@pytest.mark.parametrize("at", ["the database", "post", "the answer"])
def test_what_is_opened_while_its_person_is_forgotten_leaves_nothing_of_it(near: NearStripe, at: str) -> None:
    where = {"return_url": "https://app.example/done", "locale": "de"}
    _tries(near, "500")
    with transaction() as session:
        [id_] = session.scalars(select(col(Verification.id))).all()
    late = Stepped(lambda: open_wanted(**where))
    _go_on_to(late, "get")
    _go_on_to(late, at)
    redact_verification(id_)
    while not late.is_over:
        late.go_on()
    assert isinstance(late.raised, OpeningError)
    with transaction() as session:
        one = session.get_one(Verification, id_)
    assert [getattr(one, name) for name in Verification.PERSONAL] == [None] * 3
    assert all(facts.record(one.id).redaction_asked_at for one in near.sessions())


def test_a_place_to_return_to_is_that_of_the_session_though_nobody_heard_of_its_making(near: NearStripe) -> None:
    _tries(near, "never arrived", return_url="https://app.example/1")
    _tries(near, "lost", return_url="https://app.example/2")
    with pytest.raises(OpeningError, match="configuration-differs"):
        open_wanted(return_url="https://app.example/1")
    assert open_wanted(return_url="https://app.example/2").answer.id == near.sessions()[0].id


def test_two_who_ask_at_once_for_a_person_to_be_forgotten_leave_nothing_of_it(near: NearStripe) -> None:
    _tries(near, "500")
    with transaction() as session:
        [id_] = session.scalars(select(col(Verification.id))).all()
    first = Stepped(lambda: redact_verification(id_))
    first.go_on()  # it stands before the first look
    first.go_on()  # it has seen the row
    redact_verification(id_)
    while not first.is_over:
        first.go_on()
    with transaction() as session:
        assert session.scalars(select(col(Verification.client_reference_id))).all() == [None]


def test_whoever_dies_while_replacing_leaves_the_session_as_it_was(near: NearStripe) -> None:
    opened = open_wanted()
    replacing = Stepped(lambda: open_wanted(replaces=opened.answer.id))
    _go_on_to(replacing, "post")
    replacing.die()
    for happens in (person.submit, person.passed):
        near.later(10.0)  # Stripe's seconds show the order
        happens(near.world, near.sessions()[0])
    near.later(10.0)
    _deliver(near)
    record = facts.record(opened.answer.id)
    assert (record.status, record.replaced_at) == ("verified", None)
    assert view(opened.verification_id)["status"] == "verified"
    assert [(one.name, one.status, one.reason) for one in facts.actions(opened.answer.id)] == [
        ("email_verified", "skipped", "no address")
    ]


def test_who_is_faster_than_a_replacement_whose_maker_died_is_told_of_by_the_next(near: NearStripe) -> None:
    opened = open_wanted()
    replacing = Stepped(lambda: open_wanted(replaces=opened.answer.id))
    _go_on_to(replacing, "post")
    replacing.die()
    near.later(150.0)
    person.submit(near.world, near.sessions()[0])
    with pytest.raises(OpeningError, match="processing"):
        open_wanted(replaces=opened.answer.id)
    assert facts.record(opened.answer.id).replaced_at is None


def test_what_was_canceled_to_be_replaced_is_replaced_by_whoever_opens_next(near: NearStripe) -> None:
    opened = open_wanted(params={"type": "document", "provided_details": {"email": "jenny@example.com"}})
    replacing = Stepped(lambda: open_wanted(replaces=opened.answer.id))
    _go_on_to(replacing, "post")
    _go_on_to(replacing, "the answer")
    replacing.die()
    near.later(150.0)
    assert near.sessions()[0].status == "canceled"
    _deliver(near)
    assert [(one.name, one.status, one.reason) for one in facts.actions(opened.answer.id)] == [
        ("email_canceled", "skipped", "replaced")
    ]
    assert open_wanted().generation == 2
    assert facts.record(opened.answer.id).replaced_at is not None


def test_what_shows_up_beside_an_adopted_session_ends(near: NearStripe) -> None:
    _tries(near, "on its way")
    theirs = sessions.create(near.world, Scope(), {"type": "document", "client_reference_id": "user-1"})
    assert open_wanted(adopt=theirs.id).answer.id == theirs.id
    near.arrive()
    _deliver(near)
    assert _open_ones(near) == [theirs]


def _lost(near: NearStripe) -> None:
    """Answers all events, and loses them: Stripe takes them for delivered."""
    for event in near.world.store.events.values():
        event.pending.clear()


def _reconciled(*, bounded: bool = False) -> None:
    """Lets reconcile run, and the events that it has found be applied, until it finds nothing more."""
    while found := reconcile(bounded=bounded).to_process:
        process(found)


@pytest.mark.parametrize("account", ["", "acct_1"])
@pytest.mark.parametrize("answer", ["500, done", "lost", "on its way"])
def test_a_session_whose_opener_died_and_whose_events_were_lost_is_found_without_another_opening(
    near: NearStripe, answer: str, account: str
) -> None:
    _tries(near, answer, account=account)
    near.arrive()
    _lost(near)
    near.later(2 * 3600.0)
    _reconciled(bounded=True)
    [made] = near.sessions()
    [found] = _verifications()
    record = facts.record(made.id)
    assert (record.verification_id, record.generation, record.status) == (found.id, 1, "requires_input")
    assert (found.session_id, record.burned_at) == (made.id, None)
    assert open_wanted(account=account).answer.id == made.id


def test_a_session_whose_opener_died_is_found_though_it_is_older_than_any_record(near: NearStripe) -> None:
    _tries(near, "500, done")
    near.arrive()
    _lost(near)
    [died] = near.sessions()
    near.later(2 * 3600.0)
    open_wanted(client_reference_id="person-b")
    near.later(2 * 3600.0)
    _reconciled(bounded=True)
    assert facts.record(died.id).status == "requires_input"


def test_a_session_is_taken_up_once_the_lease_of_its_opener_is_over(near: NearStripe) -> None:
    opener = Stepped(open_wanted)
    _go_on_to(opener, "the answer to post")
    _deliver(near)
    _reconciled()
    assert [one.session_id for one in _verifications()] == [None]
    opener.die()
    near.later(150.0)
    _reconciled()
    assert [(one.session_id, one.opening_until) for one in _verifications()] == [(near.sessions()[0].id, None)]


def test_whoever_only_slept_and_finds_its_session_taken_up_lets_nobody_in_twice(near: NearStripe) -> None:
    opener = Stepped(open_wanted)
    _go_on_to(opener, "the answer to post")
    near.later(150.0)
    _lost(near)
    _reconciled()
    while not opener.is_over:
        opener.go_on()
    assert isinstance(opener.raised, OpeningError)
    assert open_wanted().answer.id == near.sessions()[0].id


@pytest.mark.parametrize("is_opened", [False, True])
def test_of_two_sessions_that_sleepers_made_for_one_generation_one_ends(near: NearStripe, is_opened: bool) -> None:
    sleeper = Stepped(open_wanted)
    _go_on_to(sleeper, "post")
    near.later(150.0)
    _tries(near, "500, done")
    near.later(30 * 3600.0)  # Stripe has forgotten the key
    while not sleeper.is_over:
        sleeper.go_on()
    near.later(150.0)
    assert len(_open_ones(near)) == 2
    _deliver(near)
    if is_opened:
        open_wanted()
    _reconciled()
    for action_id in facts.due_actions():
        perform(action_id)
    [left] = _open_ones(near)
    assert [one.session_id for one in _verifications()] == [left.id]
    assert open_wanted().answer.id == left.id


def test_what_a_person_who_is_to_be_forgotten_has_left_behind_is_not_taken_up(near: NearStripe) -> None:
    _tries(near, "500, done")
    [found] = _verifications()
    redact_verification(found.id)
    _lost(near)
    _reconciled()
    assert [one.session_id for one in _verifications()] == [None]
    assert facts.record(near.sessions()[0].id).redaction_asked_at is not None


@pytest.mark.parametrize("how", ["cancel quietly", "replaces"])
def test_the_marks_of_an_end_that_never_came_are_taken_back(near: NearStripe, how: str) -> None:
    jenny = {"type": "document", "provided_details": {"email": "jenny@example.com"}}
    opened = open_wanted(params=jenny)
    _deliver(near)
    works = {
        "cancel quietly": lambda: cancel_verification(opened.verification_id, notify=False),
        "replaces": lambda: open_wanted(replaces=opened.answer.id),
    }
    closing = Stepped(works[how])
    _go_on_to(closing, "post")
    process(reconcile(bounded=False).to_process)  # it is not over yet
    record = facts.record(opened.answer.id)
    assert record.ends_quietly or record.replacing_at
    closing.die()
    near.later(700.0)  # the session is compared again
    process(reconcile().to_process)
    record = facts.record(opened.answer.id)
    assert (record.ends_quietly, record.replacing_at) == (None, None)
    sessions.cancel(near.world, near.sessions()[0])
    _deliver(near)
    assert [(one.name, one.status) for one in facts.actions(opened.answer.id)] == [("email_canceled", "done")]


def test_an_end_that_was_to_be_quiet_and_was_not_is_told_later(near: NearStripe) -> None:
    opened = open_wanted(params={"type": "document", "provided_details": {"email": "jenny@example.com"}})
    closing = Stepped(lambda: cancel_verification(opened.verification_id, notify=False))
    _go_on_to(closing, "post")
    person.submit(near.world, near.sessions()[0])
    while not closing.is_over:
        closing.go_on()
    assert isinstance(closing.raised, OpeningError)
    person.failed(near.world, near.sessions()[0], "document_expired")
    sessions.cancel(near.world, near.sessions()[0])
    _deliver(near)
    assert ("email_canceled", "done") in [(one.name, one.status) for one in facts.actions(opened.answer.id)]


def _not_there(near: NearStripe) -> None:
    """A replica of Stripe's that knows nothing yet answers the next question."""
    near.world.faults.add(status=404)


def _not_known_for_a_while(near: NearStripe, *happens: Callable[..., object]) -> tuple[Opened, Opened]:
    """Opens a session that Stripe once calls gone, and another one in its place; then acts in the first one."""
    first = open_wanted(params={"type": "document", "provided_details": {"email": "jenny@example.com"}})
    _not_there(near)
    second = open_wanted()
    assert (second.verification_id, second.generation) == (first.verification_id, 2)
    for happens_now in happens:
        near.later(10.0)
        happens_now(near.world, near.sessions()[0])
    near.later(10.0)
    _deliver(near)
    return first, second


def test_who_was_verified_in_a_session_that_stripe_did_not_know_for_a_while_is_not_asked_again(
    near: NearStripe,
) -> None:
    first, second = _not_known_for_a_while(near, person.submit, person.passed)
    for _ in range(2):
        again = open_wanted()
        assert (again.generation, again.answer.id, again.made) == (2, first.answer.id, False)
        assert entry(first.verification_id, again.answer, None, WayIn()) is None
        assert view(first.verification_id)["status"] == "verified"
        for let_in in (enter, enter_by_link):
            with pytest.raises(OpeningError, match="verified"):
                let_in(first.verification_id, WayIn())
        if near.sessions()[1].status == "requires_input":  # then the newer one ends, too
            sessions.cancel(near.world, near.sessions()[1])
        near.later(10.0)
    assert len(near.sessions()) == 2
    assert open_wanted(replaces=second.answer.id).generation == 3


def test_who_was_verified_in_a_session_that_stripe_did_not_know_for_a_while_is_told(near: NearStripe) -> None:
    first, _ = _not_known_for_a_while(near, person.submit, person.passed)
    assert {one.name: one.status for one in facts.actions(first.answer.id) if one.name in TELLING} == {
        "email_verified": "done"
    }


def test_who_is_checked_in_a_session_that_stripe_did_not_know_for_a_while_goes_into_no_other(near: NearStripe) -> None:
    first, second = _not_known_for_a_while(near, person.submit)
    again = open_wanted()
    assert (again.answer.id, again.made) == (first.answer.id, False)
    assert entry(first.verification_id, again.answer, None, WayIn()) is None
    assert view(first.verification_id, again.answer)["status"] == "processing"
    assert seen(first.verification_id).word == "processing"
    for let_in in (enter, enter_by_link):
        with pytest.raises(OpeningError, match="processing"):
            let_in(first.verification_id, WayIn(integration="modal"))
    with pytest.raises(OpeningError, match="processing"):
        open_wanted(replaces=second.answer.id)
    person.failed(near.world, near.sessions()[0], "document_expired")  # its event is late
    near.later(10.0)
    assert enter(first.verification_id, WayIn(integration="modal")).fields["client_secret"]
    assert (facts.record(first.answer.id).status, seen(first.verification_id).word) == ("requires_input", "todo")
    assert open_wanted().answer.id == second.answer.id


def test_who_is_verified_is_not_asked_again_though_stripe_has_forgotten_the_session(near: NearStripe) -> None:
    opened = open_wanted()
    for happens in (person.submit, person.passed):
        near.later(10.0)
        happens(near.world, near.sessions()[0])
    near.later(10.0)
    _deliver(near)
    near.world.store.sessions.clear()
    for _ in range(2):
        again = open_wanted()
        assert (again.generation, again.answer.id, again.answer.state.status) == (1, opened.answer.id, "verified")
        with pytest.raises(OpeningError, match="verified"):
            enter(opened.verification_id, WayIn())
    assert near.sessions() == []
    assert open_wanted(replaces=opened.answer.id).made


def test_the_end_of_a_session_that_is_gone_is_asked_for_once(near: NearStripe) -> None:
    first = open_wanted()
    near.world.store.sessions.clear()
    second = open_wanted()
    asked: list[str] = []
    near.before = lambda method, path, _: asked.append(f"{method} {path}")
    for code in ("document_expired", "selfie_face_mismatch"):
        near.later(10.0)
        person.failed(near.world, near.sessions()[0], code)
        _deliver(near)
    near.before = lambda *_: None
    assert second.generation == 2
    assert sum(path.endswith(f"{first.answer.id}/cancel") for path in asked) == 1


def test_a_session_that_stripe_did_not_know_for_a_while_ends_where_another_was_begun_for_it(near: NearStripe) -> None:
    open_wanted()
    _not_there(near)
    second = open_wanted()
    _deliver(near)
    assert [one.id for one in _open_ones(near)] == [second.answer.id]


def test_who_is_found_not_to_be_verified_after_all_is_let_in_at_the_next_try(near: NearStripe) -> None:
    first, _ = _not_known_for_a_while(near, person.submit, person.passed)
    near.world.store.sessions[first.answer.id].status = "requires_input"  # a reviewer's act, whose event is late
    near.later(400.0)
    with pytest.raises(OpeningError, match="opening"):
        open_wanted()


def test_the_report_that_a_check_under_way_still_names_is_no_new_submission(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SUBMISSION_LIMIT", "1")
    settings.cache_clear()
    facts.applied(facts.event("created", session_id="vs_1"))
    for status, is_enough in (("processing", False), ("verified", True)):
        state = SessionState(status=status, report_id="vr_1")
        answer = Answer(id="vs_1", state=state, content={}, asked_at=database_now(), is_replayed=False)
        with pytest.raises(OpeningError) if is_enough else nullcontext():
            unless_enough(None, answer)
