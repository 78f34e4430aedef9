"""An answer that is not Stripe's is no verdict: events and actions wait, whatever it is, and count no try."""

from datetime import UTC, datetime, timedelta

import pytest

from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import exposition
from handlers.operator.audit import By, Way
from handlers.outbox import outputs
from handlers.queue.failures import NotNowError
from handlers.record.decide import Outcome
from handlers.record.events import Status, VerificationEvent
from handlers.sessions import closing
from handlers.stripe_api import sessions
from handlers.stripe_api.client import MissingError
from handlers.tables.models import ActionStatus, InboxStatus
from tests.integration.stories import Stories, by_name, perform_everything, process_everything
from tests.property.outside import PostBox
from tests.simulator.nonsense import KINDS
from tests.support import databases, facts
from tests.support.facts import event

pytestmark = pytest.mark.usefixtures("database_url", "post_box")
_OF_PARTS = "parts that are none"


@pytest.fixture(autouse=True)
def _no_second_try(environment: pytest.MonkeyPatch) -> None:
    """Buries every failure that counts at once."""
    environment.setenv("EVENT_ATTEMPTS", "1")
    environment.setenv("ACTION_ATTEMPTS", "1")


def _verified(stripe: Stories) -> str:
    session_id = stripe.simulator.create(email="jenny@example.com")
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    return session_id


def _asks_stripe(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("EMAIL_LOOKUP")
    databases.forget_process_state()


def _told(stripe: Stories) -> VerificationEvent:
    databases.forget_process_state()
    told = stripe.news(_verified(stripe), thin=True)[-1]
    receive([told])
    return told


@pytest.mark.parametrize("kind", [*KINDS, "no date", "a status of the future", _OF_PARTS])
def test_an_event_waits_for_an_answer_whatever_comes_instead(stripe: Stories, kind: str) -> None:
    told = _told(stripe)
    stripe.simulator.fault(nonsense=kind, path=told.session_id)
    for waits in (1, 2):
        process([told.id])
        row = facts.event_row(told.id)
        assert (row.status, row.attempts, row.waits) == (InboxStatus.RECEIVED, waits, waits)
        stripe.simulator.fault(nonsense=kind, path=told.session_id)
        databases.forget_process_state()
        facts.end_all_leases()
    stripe.simulator.clear_faults()
    process_everything()
    assert facts.record(told.session_id).status == Status.VERIFIED


@pytest.mark.parametrize("kind", [*KINDS, _OF_PARTS, "an address that is no text"])
def test_a_mail_waits_for_its_address_whatever_comes_instead(
    stripe: Stories, post_box: PostBox, environment: pytest.MonkeyPatch, kind: str
) -> None:
    _asks_stripe(environment)
    session_id = _verified(stripe)
    stripe.deliver(session_id)
    stripe.simulator.fault(nonsense=kind, count=2, path=session_id)
    for _ in range(2):
        perform_everything()
        assert by_name(session_id)["email_verified"] == [ActionStatus.PENDING]
        databases.forget_process_state()
    perform_everything()
    assert by_name(session_id)["email_verified"] == [ActionStatus.DONE]
    assert post_box.sent[session_id, "email_verified", _cause(session_id)] == 1


@pytest.mark.parametrize("kind", ["a lock", "a limit of the object's"])
def test_a_limit_of_one_object_makes_nothing_else_wait(
    stripe: Stories, environment: pytest.MonkeyPatch, kind: str
) -> None:
    _asks_stripe(environment)
    held, other = _verified(stripe), _verified(stripe)
    stripe.deliver(held)
    stripe.deliver(other)
    stripe.simulator.fault(nonsense=kind, count=None, path=held)
    perform_everything()
    assert by_name(held)["email_verified"] == [ActionStatus.PENDING]
    assert by_name(other)["email_verified"] == [ActionStatus.DONE]
    stripe.simulator.clear_faults()
    perform_everything()
    assert by_name(held)["email_verified"] == [ActionStatus.DONE]


@pytest.mark.parametrize("kind", [*KINDS, _OF_PARTS])
def test_outputs_wait_for_an_answer_whatever_comes_instead(
    stripe: Stories, environment: pytest.MonkeyPatch, kind: str
) -> None:
    environment.setenv("VERIFIED_OUTPUTS", "first_name")
    environment.setenv("VERIFIED_OUTPUTS_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    environment.setenv("STRIPE_RESTRICTED_KEY", stripe.simulator.restricted_key)
    databases.forget_process_state()
    session_id = _verified(stripe)
    stripe.deliver(session_id)
    stripe.simulator.fault(nonsense=kind, path=session_id)
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.PENDING]
    databases.forget_process_state()
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.DONE]
    assert outputs.read_outputs(session_id)


@pytest.mark.parametrize("kind", [*KINDS, "as it was created", _OF_PARTS])
def test_a_cancellation_waits_for_an_answer_whatever_comes_instead(stripe: Stories, kind: str) -> None:
    databases.forget_process_state()
    session_id = _at_the_limit(stripe)
    stripe.simulator.fault(nonsense=kind, path="/cancel")
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.PENDING]
    databases.forget_process_state()
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.DONE]
    assert stripe.simulator.session(session_id)["status"] == "canceled"


@pytest.mark.parametrize("kind", [*KINDS, "as it was created"])
def test_a_redaction_waits_for_an_answer_whatever_comes_instead(stripe: Stories, kind: str) -> None:
    databases.forget_process_state()
    session_id = _verified(stripe)
    stripe.deliver(session_id)
    closing.redact(session_id, By(who="anna", way=Way.COMMAND))
    stripe.simulator.fault(nonsense=kind, path="/redact")
    perform_everything()
    assert by_name(session_id)["redact_session"] == [ActionStatus.PENDING]
    databases.forget_process_state()
    perform_everything()
    assert by_name(session_id)["redact_session"] == [ActionStatus.DONE]
    assert stripe.simulator.session(session_id)["redaction"]


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"another id"}))
def test_a_list_that_is_none_is_not_taken_for_an_empty_one(stripe: Stories, kind: str) -> None:
    databases.forget_process_state()
    stripe.simulator.fault(nonsense=kind, path="/v1/identity/verification_sessions")
    now = datetime.now(UTC)
    with pytest.raises(NotNowError):
        sessions.list_sessions(now - timedelta(days=1), now, None)


def test_where_no_order_is_decided_no_date_is_needed(
    stripe: Stories, post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    _asks_stripe(environment)
    session_id, other = _verified(stripe), _at_the_limit(stripe)
    stripe.deliver(session_id)
    stripe.simulator.fault(nonsense="no date", count=None)
    perform_everything()
    assert post_box.sent[session_id, "email_verified", _cause(session_id)] == 1
    assert stripe.simulator.session(other)["status"] == "canceled"


@pytest.mark.parametrize("status", [401, 403])
def test_not_allowed_is_not_the_same_as_not_there(
    stripe: Stories, post_box: PostBox, environment: pytest.MonkeyPatch, status: int
) -> None:
    _asks_stripe(environment)
    session_id = _verified(stripe)
    stripe.deliver(session_id)
    stripe.simulator.fault(status, count=None)
    for _ in range(3):
        perform_everything()
    (action,) = [one for one in facts.actions(session_id) if one.name == "email_verified"]
    assert (action.status, action.waits, action.last_error) == (ActionStatus.PENDING, 3, f"Stripe answered {status}")
    shown = exposition.exposition()[0].decode()
    assert 'identity_no_answers_total{of="Stripe",why="not allowed"} 3.0' in shown
    stripe.simulator.clear_faults()
    perform_everything()
    assert post_box.sent[session_id, "email_verified", action.cause] == 1


def test_an_override_that_is_told_while_we_are_refused_is_not_lost(stripe: Stories) -> None:
    told = _told(stripe)
    process([told.id])
    assert facts.record(told.session_id).status == Status.VERIFIED
    stripe.later().simulator.override(told.session_id, "requires_input")
    stripe.simulator.fault(403, count=None)
    overridden = stripe.news(told.session_id, thin=True)
    receive(overridden)
    process([one.id for one in overridden])
    assert {facts.event_row(one.id).status for one in overridden} == {InboxStatus.RECEIVED}
    stripe.simulator.clear_faults()
    process_everything()
    assert facts.record(told.session_id).status == Status.REQUIRES_INPUT


def test_an_account_that_does_not_let_us_in_is_waited_for(stripe: Stories) -> None:
    connected = "acct_1Connected"
    session_id = stripe.simulator.create(account=connected)
    stripe.simulator.endpoint("http://127.0.0.1:9/connect", payload="both", hold=True, connect=True)
    stripe.later().simulator.submit(session_id)
    stripe.simulator.keys(account=connected, reachable=False)
    databases.forget_process_state()
    told = stripe.news(session_id, thin=True)[-1]
    facts.applied(told)
    assert facts.event_row(told.id).last_error == "Stripe answered 403"
    stripe.simulator.keys(account=connected, reachable=True)
    process_everything()
    assert facts.record(session_id).status == Status.PROCESSING


def test_what_stripe_says_there_is_not_ends_an_event_and_buries_a_mail(
    stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    assert stripe
    _asks_stripe(environment)
    facts.applied(event("verified", report="vr_1"))
    perform_everything()
    (mail,) = [one for one in facts.actions() if one.name == "email_verified"]
    assert (mail.status, mail.last_error) == (ActionStatus.DEAD, "Stripe answered 404")
    told = facts.thin("verified", session_id="vs_2")
    facts.applied(told)
    assert facts.event_row(told.id).outcome == Outcome.IGNORED
    with pytest.raises(MissingError):
        sessions.retrieve_email("vs_1", None)


def test_a_status_that_nobody_knows_yet_is_waited_for(stripe: Stories) -> None:
    told = _told(stripe)
    stripe.simulator.fault(nonsense="a status of the future", path=told.session_id)
    process([told.id])
    assert facts.event_row(told.id).status == InboxStatus.RECEIVED
    process_everything()
    assert facts.record(told.session_id).status == Status.VERIFIED


@pytest.mark.parametrize("saved", [400, 500])
def test_a_refusal_that_stripe_has_saved_is_not_repeated_for_ever(stripe: Stories, saved: int) -> None:
    databases.forget_process_state()
    session_id = _at_the_limit(stripe)
    stripe.simulator.fault(saved, path="/cancel", saved=True)
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.PENDING]
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.DONE]


def test_a_date_from_the_future_makes_nothing_after_it_stale(stripe: Stories) -> None:
    told = _told(stripe)
    stripe.simulator.clock(offset=86400 * 365)
    process([told.id])
    applied_at = facts.record(told.session_id).applied_at
    assert applied_at is not None
    assert applied_at < datetime.now(UTC) + timedelta(minutes=6)


def test_a_snapshot_that_contradicts_an_answer_asks_again(stripe: Stories) -> None:
    """A replica of Stripe's has answered with an earlier state, and dated it now."""
    databases.forget_process_state()
    session_id = _verified(stripe)
    told = stripe.news(session_id, thin=True)[-1]
    stripe.simulator.fault(nonsense="as it was before", path=session_id)
    facts.applied(told)
    assert (facts.record(session_id).status, facts.record(session_id).applied_answer) == (Status.PROCESSING, True)
    stripe.seen.clear()
    facts.applied(stripe.news(session_id)[-1])
    assert facts.record(session_id).status == Status.VERIFIED


def _at_the_limit(stripe: Stories) -> str:
    session_id = stripe.simulator.create(email="jenny@example.com")
    for _ in range(settings().submission_limit):
        stripe.later().simulator.submit(session_id)
        stripe.later().simulator.fail(session_id, "document_unverified_other")
    stripe.deliver(session_id)
    return session_id


def _cause(session_id: str) -> str:
    return next(one.cause for one in facts.actions(session_id) if one.name == "email_verified")
