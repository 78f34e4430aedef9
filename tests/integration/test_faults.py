"""An outage of the database or a shutdown amid work counts against no event and no action."""

import random
import socket
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from config.database import database_now
from config.settings import settings
from handlers.inbox import apply, process
from handlers.inbox.receive import receive
from handlers.outbox import perform as performing
from handlers.outbox.perform import perform
from handlers.outbox.registry import REGISTRY
from handlers.queue import claims, failures
from handlers.queue.claims import change_claimed
from handlers.queue.failures import AwayError, NotNowError, RefusedError
from handlers.stripe_api import client
from handlers.tables.models import ActionStatus, InboxStatus, OutboxAction, VerificationRecord
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.servers import FakeStripe

pytestmark = pytest.mark.usefixtures("database_url", "addresses")


@pytest.fixture
def stopping() -> Iterator[None]:
    """Makes this process one that was asked to end."""
    failures.stopping.set()
    yield
    failures.stopping.clear()


class Away:
    """A database that is away for the first few ends that are written down, and then back."""

    def __init__(self, times: int) -> None:
        self.times = times

    def before(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """The function that writes an end down, once the database is back."""

        def written(*arguments: Any, **values: Any) -> Any:
            if self.times:
                self.times -= 1
                raise _gone()
            return write(*arguments, **values)

        return written


def _away(environment: pytest.MonkeyPatch, times: int) -> None:
    """Takes the database away for so many ends of tries."""
    away = Away(times)
    for module in (claims, performing):
        environment.setattr(module, "change_claimed", away.before(change_claimed))
    environment.setattr(performing, "_told_and_ended", away.before(performing._told_and_ended))


def _gone(*_: object) -> OperationalError:
    return OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))


def _raise_gone(*_: object) -> None:
    raise _gone()


def _buried_at_the_first_failure(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EVENT_ATTEMPTS", "1")
    environment.setenv("ACTION_ATTEMPTS", "1")
    databases.forget_process_state()


def test_a_database_that_fails_under_a_batch_makes_all_of_it_wait(environment: pytest.MonkeyPatch) -> None:
    _buried_at_the_first_failure(environment)
    said = [event("verified", session_id=f"vs_{n}", report="vr") for n in range(3)]
    receive(said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "insert_new", _raise_gone)
        assert process.process([one.id for one in said]) == []
    rows = [facts.event_row(one.id) for one in said]
    assert {(row.status, row.attempts, row.waits, row.last_error) for row in rows} == {
        (InboxStatus.RECEIVED, 1, 1, "OperationalError")
    }
    facts.end_all_leases()
    assert len(process.process([one.id for one in said])) == 3


@pytest.mark.parametrize("ids", [["evt_1"], ["evt_1", "evt_2"]], ids=["alone", "together"])
def test_events_that_are_put_back_wait(environment: pytest.MonkeyPatch, ids: list[str]) -> None:
    receive([event("verified", event_id=event_id) for event_id in ids])
    began = _with_the_longest_delay(environment)
    environment.setattr(apply, "insert_new", _raise_gone)
    process.process(ids)
    assert all(facts.event_row(event_id).due_at >= began + timedelta(seconds=2) for event_id in ids)


def test_what_is_put_back_waits_for_as_long_as_was_asked_for(environment: pytest.MonkeyPatch) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    began = database_now()

    def fail(*_: object) -> None:
        raise AwayError("Stripe answered 429", again_after=300.0)

    environment.setitem(REGISTRY, "email_verified", fail)
    perform(action_id)
    assert facts.action(action_id).due_at >= began + timedelta(seconds=300)


@pytest.mark.parametrize("error", [NotNowError("not now"), RefusedError("refused"), _gone()], ids=type)
def test_an_action_that_is_put_back_waits(environment: pytest.MonkeyPatch, error: Exception) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    began = _with_the_longest_delay(environment)

    def fail(*_: object) -> None:
        raise error

    environment.setitem(REGISTRY, "email_verified", fail)
    perform(action_id)
    assert facts.action(action_id).due_at >= began + timedelta(seconds=2)


@pytest.mark.parametrize("end", [SystemExit("nadia@example.com"), CancelledError("nadia@example.com")], ids=type)
def test_an_action_that_would_end_its_thread_is_a_try_in_vain(
    environment: pytest.MonkeyPatch, end: BaseException
) -> None:
    first, second = [facts.applied(event("verified", session_id=f"vs_{n}", report=f"vr_{n}"))[0] for n in (1, 2)]
    original = REGISTRY["email_verified"]

    def fail(action: OutboxAction, record: VerificationRecord) -> str | None:
        if action.id == first:
            raise end
        return original(action, record)

    environment.setitem(REGISTRY, "email_verified", fail)
    perform(first, second)
    tried, done = facts.action(first), facts.action(second)
    assert (tried.status, tried.attempts, tried.waits, tried.last_error) == (ActionStatus.PENDING, 1, 0, "RuntimeError")
    assert done.status == ActionStatus.DONE


def _with_the_longest_delay(environment: pytest.MonkeyPatch) -> datetime:
    environment.setattr(random, "uniform", lambda _, longest: longest)
    return database_now()


def test_a_failures_excuse_is_written_down_when_the_database_is_back(environment: pytest.MonkeyPatch) -> None:
    _buried_at_the_first_failure(environment)
    _away(environment, times=3)
    environment.setattr(claims, "_PAUSE", claims._PAUSE / 50)
    said = event("verified")
    receive([said])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "insert_new", _raise_gone)
        process.process([said.id])
    row = facts.event_row(said.id)
    assert (row.status, row.attempts, row.waits) == (InboxStatus.RECEIVED, 1, 1)


def test_what_was_done_is_written_down_when_the_database_is_back(environment: pytest.MonkeyPatch) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    _away(environment, times=3)
    environment.setattr(claims, "_PAUSE", claims._PAUSE / 50)
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).attempts) == (ActionStatus.DONE, 1)
    assert len(list((settings().var_dir / "mail").iterdir())) == 1


def test_a_database_that_goes_away_behind_an_actions_claim_is_no_try_of_it(environment: pytest.MonkeyPatch) -> None:
    _buried_at_the_first_failure(environment)
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(performing, "brief", _raise_gone)
        assert perform(action_id) == []
    row = facts.action(action_id)
    assert (row.status, row.attempts, row.waits) == (ActionStatus.PENDING, 1, 1)
    facts.end_all_leases()
    perform(action_id)
    assert facts.action(action_id).status == ActionStatus.DONE


def test_a_database_that_stays_away_keeps_no_thread_for_ever(environment: pytest.MonkeyPatch) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    _away(environment, times=1000)
    environment.setattr(claims, "_PAUSE", claims._PAUSE / 50)
    environment.setattr(claims, "_WRITTEN_WITHIN", 0.05)
    with structlog.testing.capture_logs() as lines:
        perform(action_id)
    assert facts.action(action_id).status == ActionStatus.PENDING
    assert [line["event"] for line in lines] == ["claim.left_to_its_lease", "action.unrecorded"]


@pytest.mark.usefixtures("stopping")
def test_a_shutdown_waits_for_no_database(environment: pytest.MonkeyPatch) -> None:
    _away(environment, times=1000)
    environment.setattr(claims, "_PAUSE", 3600.0)
    said = event("verified")
    receive([said])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "insert_new", _raise_gone)
        process.process([said.id])
    assert facts.event_row(said.id).status == InboxStatus.RECEIVED


@pytest.mark.usefixtures("stripe_server", "stopping")
def test_events_that_a_shutdown_interrupts_go_back_and_count_no_failure(environment: pytest.MonkeyPatch) -> None:
    _buried_at_the_first_failure(environment)
    receive([facts.thin("verified")])
    assert process.process(["evt_thin"]) == []
    row = facts.event_row("evt_thin")
    assert (row.status, row.attempts, row.waits) == (InboxStatus.RECEIVED, 1, 1)
    assert row.last_error == "the worker was asked to end"


@pytest.mark.usefixtures("stopping")
def test_a_shutdown_begins_no_action_and_no_second_attempt() -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    assert perform(action_id) == []
    assert facts.action(action_id).attempts == 0


def test_a_stripe_that_answers_nobody_holds_one_event_up_and_lets_the_others_wait(
    environment: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment.setenv("STRIPE_API_KEY", "sk_test_made_up_for_tests")
        environment.setenv("STRIPE_API_BASE", f"http://127.0.0.1:{silent.getsockname()[1]}")
        environment.setattr(client, "_TOTAL_SECONDS", 0.2)
        databases.forget_process_state()
        said = [facts.thin("verified", session_id=f"vs_{n}", event_id=f"evt_{n}") for n in range(20)]
        receive(said)
        assert process.process([one.id for one in said]) == []
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    rows = [facts.event_row(one.id) for one in said]
    assert {(row.waits, row.last_error) for row in rows} == {(1, "Stripe was not reached: no answer came in time")}


def test_a_batch_that_a_slow_stripe_holds_up_goes_back_before_its_lease_is_over(
    environment: pytest.MonkeyPatch, stripe_server: FakeStripe
) -> None:
    environment.setattr(process, "_TURNS", timedelta(0))
    said = [facts.thin("verified", session_id=f"vs_{n}", event_id=f"evt_{n}") for n in range(3)]
    receive(said)
    assert process.process([one.id for one in said]) == []
    assert stripe_server.asked == []
    assert {(row.attempts, row.waits) for row in (facts.event_row(one.id) for one in said)} == {(1, 1)}


@pytest.mark.usefixtures("stripe_server")
def test_thin_notifications_are_tried_though_the_database_spoils_the_snapshots_of_their_batch(
    environment: pytest.MonkeyPatch,
) -> None:
    receive([event("created"), facts.thin("verified", session_id="vs_2")])
    environment.setattr(process, "apply", Away(times=1).before(apply.apply))
    process.process([event("created").id, "evt_thin"])
    assert facts.event_row(event("created").id).last_error == "OperationalError"
    assert facts.event_row("evt_thin").status == InboxStatus.PROCESSED


@pytest.mark.usefixtures("stripe_server", "stopping")
def test_a_shutdown_asks_stripe_nothing_more_about_an_event_that_was_tried_before() -> None:
    receive([facts.thin("verified")])
    (work,) = process.claim_events(["evt_thin"], first_try=True)
    assert process.process_alone(work) == []
    row = facts.event_row("evt_thin")
    assert (row.waits, row.last_error) == (1, "the worker was asked to end")
