"""Each owed action is written once per key, done once, and checked at the moment of doing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from config.database import database_now, statement, transaction
from config.settings import settings
from handlers.inbox.process import claim_events, process, process_session
from handlers.inbox.receive import receive
from handlers.outbox import mails
from handlers.outbox.perform import perform
from handlers.owed.kinds import LIMIT_CAUSE, Owed
from handlers.owed.owe import owe
from handlers.queue.claims import due, give_up
from handlers.queue.failures import NotNowError
from handlers.tables.models import ActionStatus, OutboxAction
from tests.support import databases, facts
from tests.support.facts import NOON, claim_action, end_action, event
from tests.support.servers import FakeStripe
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url", "addresses")
VERIFIED = Owed("email_verified", "verified::vr_1")


def _set(environment: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    databases.forget_process_state()


def _owe(*owed: Owed) -> list[int]:
    with transaction() as session:
        return owe(session, [("vs_1", list(owed))], database_now())


def _mails() -> list[str]:
    folder = settings().var_dir / "mail"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_nothing_owed_is_nothing_written() -> None:
    assert _owe() == []
    assert facts.actions() == []


def test_a_key_is_owed_once() -> None:
    assert len(_owe(VERIFIED, VERIFIED)) == 1
    assert _owe(VERIFIED) == []
    assert len(_owe(Owed("email_verified", "verified::vr_2"))) == 1
    assert len(facts.actions()) == 2


def test_what_is_owed_wins_over_what_is_only_written_down_in_one_batch() -> None:
    skipped = Owed(VERIFIED.kind, VERIFIED.cause, skipped="superseded")
    assert len(_owe(skipped, VERIFIED)) == 1
    assert [one.status for one in facts.actions()] == [ActionStatus.PENDING]


def test_what_stood_as_skipped_and_is_owed_again_becomes_pending() -> None:
    assert _owe(Owed(VERIFIED.kind, VERIFIED.cause, skipped="superseded")) == []
    (written,) = facts.actions()
    assert (written.status, written.reason) == (ActionStatus.SKIPPED, "superseded")
    assert _owe(VERIFIED) == [written.id]
    (again,) = facts.actions()
    assert (again.status, again.reason, again.done_at) == (ActionStatus.PENDING, None, None)


@pytest.mark.parametrize("status", [ActionStatus.DONE, ActionStatus.DEAD, ActionStatus.PENDING])
def test_what_is_done_dead_or_pending_is_left_alone(status: ActionStatus) -> None:
    cancellation = Owed("cancel_session", LIMIT_CAUSE)
    (action_id,) = _owe(cancellation)
    with transaction() as session:
        session.get_one(OutboxAction, action_id).status = status
    assert _owe(cancellation, Owed(cancellation.kind, LIMIT_CAUSE, skipped="superseded")) == []
    assert facts.action(action_id).status == status


def test_concurrent_writers_owe_a_key_once() -> None:
    barrier = threading.Barrier(6)

    def owe(_: int) -> list[int]:
        barrier.wait()
        return _owe(VERIFIED)

    with ThreadPoolExecutor(6) as pool:
        owed = [action_id for some in pool.map(owe, range(6)) for action_id in some]
    assert len(owed) == len(facts.actions()) == 1


def test_an_action_whose_record_cannot_be_read_is_buried_after_its_tries(environment: pytest.MonkeyPatch) -> None:
    """The database is well, so nobody waits for it."""
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    _set(environment, ACTION_ATTEMPTS="2")
    moment = "infinity" if databases.SERVER_URL else "yesterday"
    with statement() as connection:
        connection.execute(text(f"UPDATE verification_record SET applied_at = '{moment}'"))  # noqa: S608  # our own word
    for _ in range(2):
        perform(action_id)
        facts.end_all_leases()
    with statement() as connection:
        rows = connection.execute(text("SELECT status, attempts, waits FROM outbox_action")).all()
    assert [tuple(row) for row in rows] == [("dead", 2, 0)]


def test_an_owed_mail_is_written_once() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    perform(action_id)
    perform(action_id)
    facts.end_all_leases()
    perform(action_id)
    done = facts.action(action_id)
    assert (done.status, done.attempts, done.last_error) == (ActionStatus.DONE, 1, None)
    assert len(_mails()) == 1


def test_an_action_nobody_wrote_down_is_not_performed() -> None:
    assert perform(4711) == []


def test_a_claimed_action_is_nobody_elses_until_its_lease_is_over() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    assert claim_action(action_id)  # and here its worker dies
    perform(action_id)
    assert _mails() == []
    assert due(OutboxAction, 10) == ([], [])
    facts.end_all_leases()
    assert due(OutboxAction, 10) == ([], [action_id])
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).attempts) == (ActionStatus.DONE, 2)


def test_whoever_comes_after_its_lease_writes_nothing() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    slow = claim_action(action_id)
    facts.end_all_leases()
    perform(action_id)
    before = facts.action(action_id)
    assert slow
    end_action(*slow, "no address")
    assert facts.action(action_id) == before


def test_concurrent_workers_do_it_once() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    barrier = threading.Barrier(6)

    def perform_with_the_others(_: int) -> None:
        barrier.wait()
        perform(action_id)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(perform_with_the_others, range(6)))
    assert (facts.action(action_id).status, facts.action(action_id).attempts) == (ActionStatus.DONE, 1)


def test_a_prompt_is_superseded_once_the_person_has_submitted_again() -> None:
    (action_id,) = facts.applied(event("requires_input", code="document_expired", report="vr_1"))
    facts.applied(event("processing", NOON + 60))
    perform(action_id)
    done = facts.action(action_id)
    assert (done.status, done.reason) == (ActionStatus.SKIPPED, "superseded")
    assert _mails() == []


def test_a_prompt_waits_while_an_event_of_its_session_waits_its_turn() -> None:
    (action_id,) = facts.applied(event("requires_input", code="document_expired", report="vr_1"))
    verified = event("verified", NOON + 60, report="vr_2")
    receive([verified])
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).waits) == (ActionStatus.PENDING, 1)
    process([verified.id])
    facts.end_all_leases()
    perform(action_id)
    assert facts.action(action_id).reason == "superseded"
    assert _mails() == []


def test_an_event_that_waits_its_turn_gets_it_before_something_is_done_about_its_session() -> None:
    (prompt,) = facts.applied(event("requires_input", code="document_expired", report="vr_1"))
    receive([event("verified", NOON + 60, report="vr_2"), event("verified", NOON + 60, session_id="vs_2")])
    owed: list[int] = []
    perform(prompt, catch_up=lambda session_id: owed.extend(process_session(session_id)))
    assert facts.action(prompt).reason == "superseded"
    assert facts.event_row("evt_vs_2_verified_1794830460").status == "received"
    (mail,) = owed
    receive([event("processing", NOON - 60)])
    perform(mail, catch_up=process_session)
    assert (facts.action(mail).status, len(_mails())) == (ActionStatus.DONE, 1)


def test_a_mail_does_not_wait_for_another_session_or_for_an_event_that_was_tried_in_vain() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    receive([event("verified", session_id="vs_2"), event("processing", NOON - 60)])
    (work,) = claim_events(["evt_vs_1_processing_1794830340"], first_try=True)
    give_up(work.claim, NotNowError("Stripe was not reached"))
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.DONE


def test_a_superseded_prompt_is_owed_again_when_its_state_comes_back() -> None:
    failed = event("requires_input", code="abandoned")
    (action_id,) = facts.applied(failed)
    facts.applied(event("processing", NOON + 60))
    perform(action_id)
    assert facts.applied(event("requires_input", NOON + 120, code="abandoned")) == [action_id]
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.DONE


def test_a_redacted_person_gets_no_mail() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    facts.applied(event("redacted", NOON + 60))
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).reason) == (ActionStatus.SKIPPED, "redacted")
    assert _mails() == []


def test_without_an_address_nothing_is_sent_and_nothing_is_wrong(environment: pytest.MonkeyPatch) -> None:
    _set(environment, EMAIL_LOOKUP="tests.support.lookups:nobody")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).reason) == (ActionStatus.SKIPPED, "no address")


def test_without_a_key_or_a_lookup_there_is_no_address(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("EMAIL_LOOKUP")
    databases.forget_process_state()
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    perform(action_id)
    assert facts.action(action_id).reason == "no STRIPE_API_KEY"


def test_a_look_up_that_fails_is_tried_again_and_quoted_nowhere() -> None:
    with pytest.MonkeyPatch.context() as environment:
        _set(environment, EMAIL_LOOKUP="tests.support.lookups:broken")
        (action_id,) = facts.applied(event("verified", report="vr_1", user="u"))
        perform(action_id)
    failed = facts.action(action_id)
    assert (failed.status, failed.last_error) == (ActionStatus.PENDING, "RuntimeError")
    assert failed.due_at > datetime.now(UTC) - timedelta(seconds=5)


@pytest.mark.parametrize("lookup", ["ending", "canceled"])
def test_a_look_up_that_would_end_its_thread_or_process_fails_alone(
    lookup: str, environment: pytest.MonkeyPatch
) -> None:
    """Else the threads that mail would end one after the other, and nobody was mailed any more."""
    _set(environment, EMAIL_LOOKUP=f"tests.support.lookups:{lookup}")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    perform(action_id)
    failed = facts.action(action_id)
    assert (failed.status, failed.last_error, failed.waits) == (ActionStatus.PENDING, "RuntimeError", 0)


def test_a_look_up_that_hangs_holds_up_nobody_and_is_asked_once_until_it_answers(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(environment, EMAIL_LOOKUP="tests.support.lookups:silent_about_one")
    monkeypatch.setattr(mails, "_LOOKUP_SECONDS", 0.5)
    settings().var_dir.mkdir(exist_ok=True)
    stall = settings().var_dir / "stall"
    stall.touch()
    silent, other, third = (
        facts.applied(event("verified", session_id=session_id, report="vr_1"))[0]
        for session_id in ("vs_silent", "vs_1", "vs_2")
    )
    perform(silent)
    perform(other)
    assert facts.action(other).status == ActionStatus.DONE
    held_up = facts.action(silent)
    assert (held_up.status, held_up.waits) == (ActionStatus.PENDING, 1)
    assert held_up.last_error == "EMAIL_LOOKUP has not answered in time"
    facts.end_all_leases()
    perform(silent)
    assert facts.action(silent).last_error == "EMAIL_LOOKUP has not answered yet"
    assert list(mails._left) == ["vs_silent"]
    monkeypatch.setattr(mails, "_MOST_LEFT", 1)
    perform(third)
    assert facts.action(third).last_error == "EMAIL_LOOKUP has not answered yet"
    stall.unlink()
    wait_until(lambda: not mails._left)
    facts.end_all_leases()
    for action_id in (silent, third):
        perform(action_id)
        assert facts.action(action_id).status == ActionStatus.DONE


@pytest.mark.parametrize("lookup", ["no_such_module:lookup", "tests.support.lookups:no_such_function"])
def test_a_look_up_that_does_not_exist_is_told_in_the_row(lookup: str, environment: pytest.MonkeyPatch) -> None:
    _set(environment, EMAIL_LOOKUP=lookup)
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    perform(action_id)
    assert facts.action(action_id).last_error in ("ModuleNotFoundError", "AttributeError")


def test_the_address_comes_from_stripe_at_the_moment_of_sending(
    stripe_server: FakeStripe, environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("EMAIL_LOOKUP")
    databases.forget_process_state()
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    stripe_server.sessions["vs_1"] = {"provided_details": {"email": "anna@example.com"}}
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.DONE
    (mail,) = (settings().var_dir / "mail").iterdir()
    assert b"To: anna@example.com" in mail.read_bytes()
    assert stripe_server.keys == {"sk_test_made_up_for_tests"}


def test_a_stripe_that_is_away_says_nothing_of_the_mail_server(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("EMAIL_LOOKUP")
    _set(environment, STRIPE_API_KEY="sk_test_made_up_for_tests", STRIPE_API_BASE="http://127.0.0.1:1")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    heard: list[bool] = []
    perform(action_id, answered=heard.append)
    assert facts.action(action_id).last_error == "Stripe was not reached: nobody listens there"
    assert heard == []


def test_a_mail_that_waits_for_stripe_is_not_buried(stripe_server: FakeStripe, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("EMAIL_LOOKUP")
    _set(environment, ACTION_ATTEMPTS="1")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    stripe_server.fail_with = 500
    for _ in range(3):
        perform(action_id)
        facts.end_all_leases()
    waiting = facts.action(action_id)
    assert (waiting.status, waiting.attempts, waiting.waits) == (ActionStatus.PENDING, 3, 3)
    assert waiting.last_error == "Stripe answered 500"


def test_an_action_that_fails_each_time_is_buried(environment: pytest.MonkeyPatch) -> None:
    _set(environment, EMAIL_LOOKUP="tests.support.lookups:broken", ACTION_ATTEMPTS="2")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    for _ in range(3):
        perform(action_id)
        facts.end_all_leases()
    assert (facts.action(action_id).status, facts.action(action_id).attempts) == (ActionStatus.DEAD, 2)


def test_an_action_that_kills_its_worker_each_time_is_buried(environment: pytest.MonkeyPatch) -> None:
    _set(environment, ACTION_ATTEMPTS="2")
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    for _ in range(2):
        assert claim_action(action_id)
        facts.end_all_leases()
    perform(action_id)
    dead = facts.action(action_id)
    assert (dead.status, dead.last_error) == (ActionStatus.DEAD, "every attempt ended with its process")
    assert _mails() == []


def test_an_action_of_a_newer_version_waits_for_it() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    with transaction() as session:
        session.get_one(OutboxAction, action_id).name = "send_postcard"
    for _ in range(20):
        perform(action_id)
        facts.end_all_leases()
    waits = facts.action(action_id)
    assert waits.status == ActionStatus.PENDING
    assert waits.last_error == "there is no action 'send_postcard' in this version"


@pytest.mark.parametrize(("kind", "is_due"), [("redact_session", True), ("cancel_session", False)])
def test_what_somebody_asks_for_again_is_due_again_though_it_is_dead(kind: str, is_due: bool) -> None:
    def asked() -> list[int]:
        with transaction() as session:
            return owe(session, [("vs_1", [Owed(kind, "asked")])], datetime.now(UTC))

    (action_id,) = asked()
    with transaction() as session:
        session.get_one(OutboxAction, action_id).status = ActionStatus.DEAD
    assert bool(asked()) is is_due


def test_a_full_disk_makes_a_mail_wait() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    settings().var_dir.mkdir(parents=True, exist_ok=True)
    (settings().var_dir / "mail").touch()  # no folder can be made there
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.PENDING
    (settings().var_dir / "mail").unlink()
    facts.end_all_leases()
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.DONE


def test_an_address_that_stripe_has_redacted_meanwhile_is_none(
    stripe_server: FakeStripe, environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("EMAIL_LOOKUP")
    databases.forget_process_state()
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    stripe_server.sessions["vs_1"] = {"provided_details": {"email": "[redacted]"}}
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).reason) == (ActionStatus.SKIPPED, "no address")
