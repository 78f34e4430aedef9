"""One clock decides, the database's: whatever a host's own clock shows, nothing is late, done twice or deleted."""

import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from config import database
from config.database import database_now, host_clock, measure_clock, now, transaction, true_now
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import heartbeats
from handlers.operator.figures import Figures
from handlers.operator.queries import backlogs
from handlers.outbox.perform import perform
from handlers.outbox.smtp import MAIL_LEASE
from handlers.queue.claims import claim, due, give_up
from handlers.queue.failures import LEASE, NotNowError, UnknownOutcomeError
from handlers.tables import schema
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction
from handlers.upkeep import purge, strayed
from tests.chaos.stores import Postgres, free_port
from tests.support import databases, facts, faketime, shapes
from tests.support.facts import claim_action, end_action, event
from tests.support.faketime import SteppingClock
from tests.support.operator import ROOT, command
from tests.support.waiting import PATIENCE, wait_until
from worker import tasks

pytestmark = pytest.mark.usefixtures("database_url", "addresses")
HOSTS = {"90 s ahead": 90.0, "an hour behind": -3600.0, "61 days ahead": 61 * 86400.0}
hosts = pytest.mark.parametrize("ahead", HOSTS.values(), ids=HOSTS)


def _elsewhere(ahead: float, code: str) -> None:
    """Runs Python on a host whose clock is wrong."""
    words = "from handlers.inbox.process import process\nfrom handlers.inbox.receive import receive\n"
    words += "from handlers.outbox.perform import perform\nfrom tests.support.facts import claim_action, event\n"
    done = subprocess.run(
        [sys.executable, "-c", words + textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, **faketime.host(ahead)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_databases_clock_is_the_time_to_parts_of_a_second() -> None:
    before = datetime.now(UTC)
    shown = [database_now() for _ in range(20)]
    assert before - timedelta(milliseconds=1) <= shown[0] <= shown[-1] <= datetime.now(UTC)
    assert len({moment.microsecond for moment in shown}) > 1 or shown[0] < shown[-1]


def test_it_does_not_stand_still_within_a_transaction() -> None:
    with transaction() as session:
        connection = session.connection()
        first = connection.scalar(select(now()))
        while connection.scalar(select(now())) == first:
            pass


def test_what_is_later_is_so_much_later() -> None:
    with transaction() as session:
        earlier, later = session.connection().execute(select(now(-LEASE), now(LEASE))).one()
    assert abs((later - earlier).total_seconds() - 2 * LEASE.total_seconds()) < LEASE.total_seconds()


@faketime.needed
@faketime.on_postgres
@hosts
def test_what_such_a_host_receives_is_applied_at_once(ahead: float) -> None:
    _elsewhere(ahead, "receive([event('verified', report='vr_1')])")
    assert len(process([event("verified").id])) == 1
    assert 0 <= backlogs()["actions"].oldest_seconds < LEASE.total_seconds()


@faketime.needed
@faketime.on_postgres
@hosts
def test_such_a_host_applies_and_does_what_is_due(ahead: float) -> None:
    receive([event("verified", report="vr_1")])
    _elsewhere(ahead, f"[perform(one) for one in process(['{event('verified').id}'])]")
    (mail,) = facts.actions()
    assert (mail.status, mail.attempts) == (ActionStatus.DONE, 1)
    assert timedelta() <= database_now() - mail.done_at < LEASE  # type: ignore[operator]  # it is done
    assert timedelta() <= database_now() - mail.created_at < LEASE


@faketime.needed
@faketime.on_postgres
@hosts
def test_such_a_host_takes_nothing_out_of_anybodys_hands(ahead: float) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    claimed = claim_action(action_id)
    assert claimed
    _elsewhere(ahead, f"perform({action_id})")
    assert facts.action(action_id).attempts == 1
    end_action(*claimed, None)
    assert facts.action(action_id).status == ActionStatus.DONE


@faketime.needed
@faketime.on_postgres
@hosts
def test_what_such_a_host_claims_is_its_own_for_a_lease(ahead: float) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    _elsewhere(ahead, f"assert claim_action({action_id})")
    assert timedelta() < facts.action(action_id).due_at - database_now() <= LEASE
    assert claim_action(action_id) is None


@faketime.needed
@faketime.on_postgres
@hosts
def test_what_such_a_host_puts_back_waits_for_its_delay_and_no_longer(ahead: float) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    put_back = f"""
        from handlers.queue.claims import give_up
        from handlers.queue.failures import NotNowError
        give_up(claim_action({action_id})[0], NotNowError("not now"))
    """
    before = database_now()
    _elsewhere(ahead, put_back)
    assert before < facts.action(action_id).due_at < database_now() + timedelta(seconds=60)


@faketime.needed
@faketime.on_postgres
@hosts
def test_such_a_host_deletes_nothing_that_was_accepted_a_minute_ago(ahead: float) -> None:
    facts.applied(event("verified"))
    said = command("purge", **faketime.host(ahead))
    if abs(ahead) > heartbeats.MOST_APART:
        assert said.code == 1
        assert "clocks" in said.err
    purge_anyway = "from handlers.upkeep import purge\npurge.MOST_APART = 1e9\nassert purge.purge().events == 0"
    _elsewhere(ahead, purge_anyway)
    assert facts.event_row(event("verified").id).status == InboxStatus.PROCESSED


@faketime.needed
@faketime.on_postgres
@pytest.mark.usefixtures("simulator")
def test_what_a_command_hears_from_stripe_on_a_host_behind_is_no_older_for_that() -> None:
    """The database's clock bounds Stripe's: by this host's, every answer of Stripe's would be too old to count."""
    opened = command("open", "user-1", "--type", "document", "--json", **faketime.host(-3600.0))
    assert opened.code == 0, opened.err
    heard_at = facts.record(opened.json["session_id"]).applied_at
    assert heard_at is not None
    assert database_now() - heard_at < LEASE


def test_a_purge_that_another_clock_contradicts_is_refused(environment: pytest.MonkeyPatch) -> None:
    facts.applied(event("created"))
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(processed_at=now(-timedelta(days=90))))
    for apart in (-3600.0, 121.0):
        environment.setattr(purge, "measure_clock", lambda apart=apart: apart)
        with pytest.raises(purge.WrongClockError):
            purge.purge()
    environment.setattr(purge, "measure_clock", lambda: 90.0)
    assert purge.purge().events == 1


def test_what_nobody_has_tried_is_due_whatever_the_clock_shows() -> None:
    received, new = event("verified", report="vr_1"), event("verified", session_id="vs_2", report="vr_2")
    (owed,) = facts.applied(new)
    receive([received])
    with transaction() as session:
        for table in (InboxEvent, OutboxAction):
            session.connection().execute(update(table).values(due_at=now(timedelta(hours=1))))
    assert (due(InboxEvent, 1), due(OutboxAction, 1)) == (([], []), ([], []))
    tasks.remind_persons()
    assert (due(InboxEvent, 1), due(OutboxAction, 1)) == (([received.id], []), ([owed], []))
    with transaction() as session:
        for table in (InboxEvent, OutboxAction):
            session.connection().execute(update(table).values(due_at=now(timedelta(hours=1))))
    assert len(process([received.id])) == 1
    perform(owed)
    assert facts.action(owed).status == ActionStatus.DONE


def test_a_lease_longer_than_any_and_a_wait_longer_than_any_are_shortened() -> None:
    in_work, waiting, unknown = (
        action_id
        for number in range(3)
        for action_id in facts.applied(event("verified", report="vr_1", session_id=f"vs_{number}"))
    )
    held = [claimed for one in (in_work, waiting, unknown) if (claimed := claim_action(one))]
    give_up(held[1][0], NotNowError("not now"))
    give_up(held[2][0], UnknownOutcomeError("nobody knows"))
    kept = facts.action(unknown).due_at
    with transaction() as session:
        for one in (in_work, waiting):
            later = update(OutboxAction).where(col(OutboxAction.id) == one).values(due_at=now(timedelta(hours=3)))
            session.connection().execute(later)
    a_wait = facts.action(waiting).due_at
    tasks.remind_persons()
    assert MAIL_LEASE < facts.action(in_work).due_at - database_now() <= timedelta(minutes=10)
    assert (facts.action(waiting).due_at, facts.action(unknown).due_at) == (a_wait, kept)
    with transaction() as session:
        session.connection().execute(update(OutboxAction).values(due_at=now(timedelta(hours=5))))
    tasks.remind_persons()
    assert all(
        facts.action(one).due_at - database_now() <= timedelta(minutes=10) for one in (in_work, waiting, unknown)
    )


def test_rows_that_a_wrong_clock_of_the_databases_has_put_days_ahead_are_brought_back(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr(strayed, "_BATCH", 1)
    events = [event("verified", session_id=f"vs_{number}", report="vr_1") for number in range(2)]
    receive(events)
    assert len(claim(InboxEvent, [one.id for one in events])) == len(events)
    (in_work,) = facts.applied(event("verified", report="vr_1", session_id="vs_in_work"))
    claimed = claim_action(in_work)
    assert claimed
    (waiting,) = facts.applied(event("verified", report="vr_1", session_id="vs_waiting"))
    claim_action(waiting)
    an_hour = database_now() + timedelta(hours=1)
    with transaction() as session:
        for table in (InboxEvent, OutboxAction):
            session.connection().execute(update(table).values(due_at=now(timedelta(days=61))))
        put_back = update(OutboxAction).where(col(OutboxAction.id) == waiting)
        session.connection().execute(put_back.values(due_at=an_hour, last_error="not now"))
    tasks.remind_persons()
    assert facts.action(waiting).due_at == an_hour
    for row in (*(facts.event_row(one.id) for one in events), facts.action(in_work)):
        assert MAIL_LEASE < row.due_at - database_now() <= timedelta(minutes=10)
    end_action(*claimed, None)
    assert facts.action(in_work).status == ActionStatus.DONE
    assert strayed.bring_back() == 0


def test_a_lease_outlives_a_jump_of_the_databases_clock(environment: pytest.MonkeyPatch) -> None:
    (action_id,) = facts.applied(event("verified", report="vr_1"))
    claimed = claim_action(action_id)
    assert claimed
    with transaction() as session:  # the lease is over by a clock that has jumped
        session.connection().execute(update(OutboxAction).values(due_at=now(-timedelta(seconds=30))))
    before_the_jump = database_now() - timedelta(seconds=90 + database.steady())
    environment.setattr(database, "_reading", before_the_jump)
    assert claim_action(action_id) is None
    assert len(facts.applied(event("verified", session_id="vs_2", report="vr_2"))) == 1  # a new action does not wait
    end_action(*claimed, None)
    assert facts.action(action_id).status == ActionStatus.DONE


def test_a_jump_is_believed_at_once_but_for_leases_until_all_from_before_it_are_over(
    environment: pytest.MonkeyPatch,
) -> None:
    measure_clock()
    steady, passed = database.steady, 0.0
    environment.setattr(database, "steady", lambda: steady() + passed)

    def show(ahead: float) -> None:
        environment.setattr(database, "database_now", lambda: datetime.now(UTC) + timedelta(seconds=ahead + passed))
        measure_clock()

    def apart(moment: datetime) -> int:
        return round((moment - datetime.now(UTC)).total_seconds() - passed)

    longest = MAIL_LEASE.total_seconds()
    for passed, ahead, for_leases in (
        (0.0, 90.0, 0),
        (30.0, 90.0, 0),
        (longest, 90.0, 0),
        (longest + 60, 90.0, 90),
        (longest + 90, 180.0, 90),
        (longest + 120, 90.0, 90),  # it has stepped back, as if there had been no jump
        (2 * longest, 290.0, 90),  # and this one is another, whose leases are as young
        (2 * longest + 30, 290.0, 90),
        (2 * longest + 60, 390.0, 90),
        (3 * longest + 60, 390.0, 90),
        (3 * longest + 120, 390.0, 390),
        (3 * longest + 120, -90.0, -90),  # a step back ends no lease
    ):
        show(ahead)
        assert (apart(true_now()), apart(true_now(for_leases=True))) == (ahead, for_leases), passed


@pytest.mark.parametrize("frozen", ["before", "after"])
def test_an_answer_that_was_long_on_its_way_tells_no_time(environment: pytest.MonkeyPatch, frozen: str) -> None:
    measure_clock()
    steady, passed, shown = database.steady, 0.0, database.database_now
    environment.setattr(database, "steady", lambda: steady() + passed)

    def late() -> datetime:
        nonlocal passed
        before = shown()
        passed = 600.0
        return before if frozen == "after" else before + timedelta(seconds=600)

    environment.setattr(database, "database_now", late)
    measure_clock()
    for moment in (true_now(), true_now(for_leases=True)):
        assert abs(moment - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=45)


@pytest.fixture
def stepping(environment: pytest.MonkeyPatch) -> Iterator[SteppingClock]:
    """The clock of a PostgreSQL server that this process uses."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        clock = SteppingClock(Path(folder) / "clock")
        server = Postgres(clock.environment)
        try:
            environment.setenv("DATABASE_URL", server.url)
            databases.forget_process_state()
            schema.migrate()
            yield clock
        finally:
            databases.forget_process_state()
            server.end()


@faketime.needed
@faketime.on_postgres
@pytest.mark.parametrize("step", [90.0, -90.0, -3600.0, -2 * 86400.0])
def test_a_step_of_the_databases_clock_mails_nobody_twice_and_keeps_nobody_waiting(
    stepping: SteppingClock, step: float
) -> None:
    measure_clock()
    waiting = event("verified", session_id="vs_waiting", report="vr_1")
    receive([waiting])
    (in_work,) = facts.applied(event("verified", report="vr_1"))
    claimed = claim_action(in_work)
    assert claimed
    stepping.step_to(step)
    assert claim_action(in_work) is None
    assert len(facts.applied(event("verified", session_id="vs_later", report="vr_1"))) == 1
    assert len(process([waiting.id])) == 1
    end_action(*claimed, None)
    for action_id in facts.due_actions():
        perform(action_id)
    assert [one.attempts for name in ("vs_1", "vs_waiting", "vs_later") for one in facts.actions(name)] == [1, 1, 1]
    assert {one.status for name in ("vs_1", "vs_waiting", "vs_later") for one in facts.actions(name)} == {"done"}


@pytest.fixture
def web_an_hour_behind(environment: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web process on a host an hour behind, once it has measured its clock."""
    environment.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)
    environment.setenv("PORT", str(free_port()))
    databases.forget_process_state()
    web = subprocess.Popen(
        [sys.executable, "-m", "receiver"],
        cwd=ROOT,
        env={**os.environ, **faketime.host(-3600.0)},
    )
    try:
        wait_until(lambda: Figures(None).clocks)
        yield f"http://127.0.0.1:{os.environ['PORT']}"
    finally:
        web.terminate()
        web.wait()


@faketime.needed
@faketime.on_postgres
def test_a_signature_is_judged_by_the_databases_clock_and_every_process_is_shown(web_an_hour_behind: str) -> None:
    def deliver(ago: float) -> int:
        signature = shapes.signature(body, at=time.time() - ago)
        request = urllib.request.Request(f"{web_an_hour_behind}/webhooks/stripe", body, {"Stripe-Signature": signature})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    body = shapes.as_body(facts.payload("verified"))
    assert (deliver(ago=3600), deliver(ago=0)) == (400, 200)
    assert timedelta() <= database_now() - facts.event_row(event("verified").id).received_at < timedelta(minutes=5)
    with urllib.request.urlopen(f"{web_an_hour_behind}/metrics", timeout=PATIENCE) as answer:
        shown = re.search(r'identity_clock_ahead_seconds{process="web"} (\S+)', answer.read().decode())
    assert shown
    assert abs(float(shown[1]) + 3600) < 60
    findings = {
        line["words"].split(":")[0]: line["level"]
        for line in command("doctor", "--json").json
        if line["what"] == "clocks"
    }
    assert findings.pop("here") == "OK"
    assert [(name.split()[0], level) for name, level in findings.items()] == [("web", "FAIL")]


def test_a_clock_that_is_set_under_a_process_is_measured_with_its_next_beat(environment: pytest.MonkeyPatch) -> None:
    heartbeats.beat("worker")
    apart = host_clock()
    environment.setattr(heartbeats, "measure_clock", lambda: 200.0)
    heartbeats.beat("worker")
    [(_, before)] = Figures(None).clocks
    environment.setattr(heartbeats, "host_clock", lambda: apart + 200.0)
    heartbeats.beat("worker")
    [(_, after)] = Figures(None).clocks
    assert abs(before) < 100.0
    assert after == 200.0


def test_without_a_measurement_this_machines_clock_will_do() -> None:
    assert true_now(for_leases=True) > database_now() + timedelta(days=365)
    assert abs(true_now() - datetime.now(UTC)) < timedelta(minutes=1)
