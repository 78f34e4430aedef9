"""Events that never reached us are fetched, and sessions are compared and mended, as if their events had come."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.receive import receive
from handlers.metrics import exposition
from handlers.operator.queries import Filter, find_actions, find_events
from handlers.tables.models import Bookmark, VerificationRecord
from handlers.upkeep import lost, progress, undelivered
from handlers.upkeep.accounts import bookmark, heard_of
from handlers.upkeep.allowance import Report
from handlers.upkeep.rebuild import rebuild
from handlers.upkeep.reconcile import reconcile
from receiver.webhooks import delivery
from tests.simulator.client import Simulator
from tests.support import databases, facts, shapes
from tests.support.operator import command, work
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url")

NOWHERE = "http://127.0.0.1:9/webhooks/stripe"


def test_without_a_key_nobody_is_asked() -> None:
    assert reconcile() == Report(stopped=["no STRIPE_API_KEY"])


@pytest.mark.usefixtures("simulator")
def test_with_nothing_missing_nothing_is_found() -> None:
    assert reconcile(bounded=False) == Report()


def test_undelivered_events_are_fetched_and_applied(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    session_id = _verified(simulator)
    report = reconcile(bounded=False)
    assert len(report.recovered) == report.undelivered == len(report.to_process) == 3
    work()
    assert facts.record(session_id).status == "verified"
    assert [action.name for action in facts.actions(session_id)] == ["email_verified"]


def test_a_delivery_that_was_too_large_is_counted_and_its_event_fetched(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(delivery, "MAX_BODY_BYTES", 100)
    environment.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)
    databases.forget_process_state()
    with running_receiver() as port:
        simulator.endpoint(f"http://127.0.0.1:{port}/webhooks/stripe/", secret=shapes.SECRET)
        session_id = simulator.create()
        wait_until(lambda: [one["code"] for sent in simulator.deliveries() for one in sent["attempts"]] == [413])
    assert find_events(Filter(), None) == []
    assert 'outcome="refused",reason="the body is too large"} 1.0' in exposition.exposition()[0].decode()
    assert len(reconcile(bounded=False).recovered) == 1
    assert facts.event_rows(session_id)


@pytest.mark.parametrize("has_run", [True, False])
def test_a_run_by_a_clock_far_ahead_passes_over_no_undelivered_event(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, has_run: bool
) -> None:
    """By such a clock the bookmark is older than all that Stripe keeps, or begins in the future."""
    simulator.endpoint(NOWHERE)
    _verified(simulator)
    if has_run:
        progress.begin(bookmark("events", None), datetime.now(UTC) - timedelta(hours=2))
    with monkeypatch.context() as wrong:
        wrong.setattr(undelivered, "database_now", lambda: datetime.now(UTC) + timedelta(days=61))
        found = reconcile().recovered
    assert len(found + reconcile().recovered) == 3


def test_a_bookmark_from_the_future_keeps_no_event_waiting_for_that(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    _verified(simulator)
    progress.begin(bookmark("events", None), datetime.now(UTC) + timedelta(days=31))
    assert len(reconcile().recovered) == 3


def test_a_list_with_a_date_of_long_ago_makes_the_next_run_read_no_more(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    progress.begin(bookmark("events", None), start := datetime.now(UTC) - timedelta(hours=2))
    simulator.clock(offset=-40 * 365 * 86400.0)
    reconcile()
    assert progress.reached(bookmark("events", None)) == start


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no standby")
def test_a_promoted_standby_whose_clock_is_far_behind_lacks_no_event_for_good(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconcile()
    _verified(simulator)
    _is_another_database()
    with monkeypatch.context() as wrong:
        wrong.setattr(lost, "database_now", lambda: datetime.now(UTC) - timedelta(days=61))
        assert len(reconcile().recovered) == 3


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no standby")
def test_what_was_answered_and_is_lost_is_fetched_once_the_database_is_another(simulator: Simulator) -> None:
    """A standby that was promoted lacks the last commits, and Stripe holds their events for delivered."""
    reconcile()
    session_id = _verified(simulator)
    assert reconcile().recovered == []
    noted = _is_another_database()
    report = reconcile()
    assert (len(report.recovered), report.undelivered) == (3, 0)
    work()
    assert facts.record(session_id).status == "verified"
    assert noted in _bookmarks()
    assert reconcile().recovered == []


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no standby")
def test_more_than_a_page_of_what_is_lost_is_fetched(simulator: Simulator) -> None:
    reconcile()
    with _earlier(simulator):
        simulator.run(40, "passes")
    assert reconcile().recovered == []
    _is_another_database()
    assert len(reconcile().recovered) == 3 * 40


def _is_another_database() -> str:
    """Makes the log another's, without the events since the last run; returns the bookmark that has to come back."""
    (noted,) = (name for name in _bookmarks() if name.startswith("history:"))
    with transaction() as session:
        gone = update(Bookmark).where(col(Bookmark.name) == noted).values(name="history:7/00000001")
        session.connection().execute(gone)
    return noted


def _bookmarks() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(col(Bookmark.name))))


def test_a_second_run_finds_nothing_new(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    _verified(simulator)
    reconcile(bounded=False)
    work()
    again = reconcile(bounded=False)
    assert (again.recovered, again.to_process) == ([], [])


def test_a_scheduled_run_leaves_a_delivery_that_is_on_its_way_alone(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    late = _verified(simulator)
    on_its_way = simulator.create()
    reconcile()
    assert {event.session_id for event in find_events(Filter(), None)} == {late}
    assert on_its_way != late


def test_more_than_a_page_is_fetched_in_time_order_and_whole(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    for hours_ago in (70, 30, 5):
        simulator.clock(offset=-3600.0 * hours_ago)
        simulator.run(30, "passes")
    report = reconcile()
    assert len(report.recovered) == 3 * 30 * 3
    assert report.stopped == []
    work()
    assert facts.count_records() == 90


def test_more_than_a_page_within_one_second_is_fetched_too(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    simulator.clock(frozen=float(int(datetime.now(UTC).timestamp()) - 600))
    simulator.run(80, "passes")
    assert len(reconcile().recovered) == 240


def test_a_rate_limit_ends_a_run_and_the_next_one_goes_on(simulator: Simulator) -> None:
    simulator.endpoint(NOWHERE)
    for hours_ago in (70, 5):
        simulator.clock(offset=-3600.0 * hours_ago)
        simulator.run(40, "passes")
    simulator.fault(429, path="/v1/events", count=1)
    first = reconcile()
    assert first.stopped == ["events: Stripe answered 429"]
    databases.forget_process_state()
    second = reconcile()
    assert len(first.recovered) + len(second.recovered) == 240


def test_a_used_up_share_of_requests_ends_a_run_and_the_next_one_goes_on(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upkeep.allowance.REQUESTS", 3)
    simulator.endpoint(NOWHERE)
    for hours_ago in (600, 400, 200, 5):
        simulator.clock(offset=-3600.0 * hours_ago)
        simulator.run(20, "passes")
    found, runs = 0, 0
    while (report := reconcile()).stopped:
        found, runs = found + len(report.recovered), runs + 1
    assert found + len(report.recovered) == 240
    assert runs > 1


def test_a_session_whose_events_never_came_is_mended(simulator: Simulator) -> None:
    session_id = _known_but_untold(simulator)
    report = reconcile(bounded=False)
    assert [(one.session_id, one.ours, one.theirs) for one in report.drifted] == [
        (session_id, "requires_input", "verified")
    ]
    work()
    assert facts.record(session_id).status == "verified"
    assert [action.name for action in facts.actions(session_id)] == ["email_verified"]
    assert reconcile(bounded=False).drifted == []


def test_what_comes_late_after_a_mended_drift_changes_and_owes_nothing(simulator: Simulator) -> None:
    session_id = _known_but_untold(simulator)
    reconcile(bounded=False)
    work()
    owed = {(action.name, action.cause) for action in facts.actions(session_id)}
    for event in simulator.events(session_id):
        receive([shapes.parsed(event["body"])])
    assert work() == []
    assert facts.record(session_id).status == "verified"
    assert {(action.name, action.cause) for action in facts.actions(session_id)} == owed


def test_a_session_that_only_an_unread_event_speaks_of_gets_its_status(simulator: Simulator) -> None:
    session_id = simulator.create()
    with transaction() as session:
        row = VerificationRecord(
            session_id=session_id, livemode=False, created_at=datetime.now(UTC), updated_at=datetime.now(UTC)
        )
        session.add(row)
    assert [one.ours for one in reconcile(bounded=False).drifted] == ["unknown"]
    work()
    assert facts.record(session_id).status == "requires_input"


def test_a_redaction_that_never_came_is_followed(simulator: Simulator) -> None:
    session_id = simulator.create(client_reference_id="personal", metadata={"user_id": "personal"})
    receive([shapes.parsed(simulator.events(session_id)[0]["body"])])
    work()
    simulator.redact(session_id)
    reconcile(bounded=False)
    work()
    record = facts.record(session_id)
    assert record.redacted_at
    assert (record.client_reference_id, record.user_id) == (None, None)


def test_a_session_stripe_does_not_know_is_left_as_it_is(simulator: Simulator) -> None:
    facts.applied(facts.event("created"))
    assert reconcile(bounded=False).drifted == []
    assert facts.record().status == "requires_input"
    assert simulator


def test_final_and_other_mode_sessions_are_not_asked_about_one_by_one(simulator: Simulator) -> None:
    facts.applied(facts.event("verified", session_id="vs_final"))
    facts.applied(facts.event("created", session_id="vs_live", livemode=True))
    facts.applied(facts.event("redacted", session_id="vs_redacted", status="verified"))
    assert reconcile(bounded=False).compared == 0
    assert simulator


def test_a_session_is_compared_once_it_has_settled_and_then_ever_more_rarely(simulator: Simulator) -> None:
    session_id = simulator.create()
    receive([shapes.parsed(simulator.events(session_id)[0]["body"])])
    work()
    assert reconcile().compared == 0
    record = facts.record(session_id)
    assert record.compare_at == record.updated_at + timedelta(minutes=10)
    _move(session_id, updated_at=datetime.now(UTC) - timedelta(days=4), compare_at=datetime.now(UTC))
    assert reconcile().compared == 1
    assert reconcile().compared == 0
    wait = facts.record(session_id).compare_at - datetime.now(UTC)  # type: ignore[operator]  # set by the run
    assert timedelta(days=1.9) < wait < timedelta(days=2.1)


def test_each_account_is_remembered_with_the_moment_it_was_first_heard_of(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upkeep.progress._PAGE", 1)
    assert heard_of() == {}
    for number, account in enumerate(("acct_1", None, "acct_2", "acct_1")):
        facts.applied(replace(facts.event("created", session_id=f"vs_{number}"), account=account))
    made = {number: facts.record(f"vs_{number}").created_at for number in range(3)}
    a_minute = timedelta(minutes=1)  # by which the clocks may differ
    expected = {"acct_1": made[0] - a_minute, None: made[1] - a_minute, "acct_2": made[2] - a_minute}
    assert heard_of() == expected
    _move("vs_0", created_at=made[0] + timedelta(days=1))  # an account heard of before is not looked for again
    facts.applied(replace(facts.event("created", session_id="vs_late"), account="acct_3"))
    # Made before the last look, and committed after it.
    late = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
    _move("vs_late", created_at=late)
    facts.applied(facts.event("created", session_id="vs_live", livemode=True))
    assert heard_of() == {**expected, "acct_3": late - a_minute}
    assert simulator


def test_connected_accounts_are_asked_as_themselves(simulator: Simulator) -> None:
    account = "acct_1Connected"
    session_id = simulator.create(account=account)
    event = simulator.events(session_id)[0]["body"] | {"account": account}
    receive([shapes.parsed(event)])
    work()
    simulator.endpoint(NOWHERE, account=account)
    # Seconds apart: two changes within one second could only be told apart a second later.
    with _earlier(simulator, seconds=-10.0):
        simulator.submit(session_id)
    with _earlier(simulator, seconds=-20.0):
        simulator.passed(session_id)
    with _earlier(simulator, seconds=-30.0):
        report = reconcile(bounded=False)
        assert len(report.recovered) == 2
        assert len(report.drifted) == 1
        work()
    assert facts.record(session_id).status == "verified"
    assert {event.account for event in find_events(Filter(session_id=session_id), None)} == {account}


def test_a_key_that_may_not_list_events_still_compares_sessions(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    simulator.keys(key=simulator.restricted_key, permissions=["identity_product_read"])
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    databases.forget_process_state()
    _known_but_untold(simulator)
    report = reconcile(bounded=False)
    assert [(one.what, one.reason) for one in report.failed] == [("events", "Stripe answered 403")]
    assert len(report.drifted) == 1


def test_a_run_leaves_a_mark(simulator: Simulator) -> None:
    assert simulator
    reconcile()
    mark = progress.reached("reconcile")
    assert mark
    assert datetime.now(UTC) - mark < timedelta(minutes=1)


def test_a_wiped_database_is_rebuilt_without_a_mail(simulator: Simulator) -> None:
    with _earlier(simulator):
        ids = simulator.run(120, "mixed")
    listed = list(rebuild(datetime.now(UTC) - timedelta(days=1), [None], owes_nothing=True))
    assert sum(page.listed for page in listed if page.what == "sessions") == 120
    assert work() == []
    assert {action.status for action in find_actions(Filter(), None)} == {"skipped"}
    assert "read back from Stripe" in {action.reason for action in find_actions(Filter(), None)}
    truths = simulator.truth()["sessions"]
    assert len(truths) == len(ids)
    for truth in truths:
        session_id = truth["id"]
        record = facts.record(session_id)
        error = truth["last_error"] or {}
        assert (record.status, record.last_error_code) == (truth["status"], error.get("code")), session_id


def test_a_rebuild_may_be_repeated_and_live_events_go_on_as_ever(simulator: Simulator) -> None:
    session_id = _verified(simulator)
    for _ in range(2):
        list(rebuild(datetime.now(UTC) - timedelta(days=1), [None], owes_nothing=True))
        work()
    with _earlier(simulator, seconds=-10.0):
        simulator.override(session_id, "requires_input")
    receive([shapes.parsed(simulator.events(session_id)[-1]["body"])])
    assert len(work()) == 1
    assert facts.record(session_id).status == "requires_input"


def test_sessions_older_than_any_event_are_rebuilt_from_what_they_are_now(simulator: Simulator) -> None:
    with _earlier(simulator, seconds=40 * 86400.0):
        session_id = simulator.create()
        simulator.passed(session_id)
    pages = list(rebuild(datetime.now(UTC) - timedelta(days=60), [None], owes_nothing=False))
    assert [(page.what, page.listed) for page in pages] == [("events", 0), ("sessions", 1)]
    assert len(work()) == 1
    assert facts.record(session_id).status == "verified"
    assert facts.record(session_id).submissions == 1


def test_the_reconcile_command_says_what_it_found(simulator: Simulator) -> None:
    session_id = _known_but_untold(simulator)
    said = command("reconcile", "--json")
    assert said.code == 0
    assert said.json["drifted"] == [{"session_id": session_id, "ours": "requires_input", "theirs": "verified"}]
    work()
    assert "requires_input" not in command("reconcile").out
    # The command's own process wrote it before it ended.
    assert exposition._counted()["identity_drifted_sessions_total"] == {"": 1.0}


def test_the_reconcile_command_fails_when_stripe_does(simulator: Simulator) -> None:
    simulator.fault(500, count=None)
    said = command("reconcile")
    assert said.code == 1
    assert "Stripe answered 500" in said.err


def test_the_rebuild_command_counts_what_it_read(simulator: Simulator) -> None:
    simulator.run(3, "passes")
    said = command("rebuild", "--since", "1d", "--quiet", "--json")
    assert said.code == 0
    assert (said.json["sessions listed"], said.json["new events"]) == (3, 9)


def test_the_rebuild_command_wants_a_date_it_can_read() -> None:
    assert command("rebuild", "--since", "yesterday").code == 2
    assert command("rebuild").code == 2


def _verified(simulator: Simulator) -> str:
    with _earlier(simulator):
        session_id = simulator.create(email="someone@example.com")
        simulator.passed(session_id)
    return session_id


@contextmanager
def _earlier(simulator: Simulator, seconds: float = 3600.0) -> Iterator[None]:
    """Puts the acts of the block a while back: not in the second in which Stripe is asked about them."""
    simulator.clock(offset=-seconds)
    yield
    simulator.clock(offset=0.0)


def _known_but_untold(simulator: Simulator) -> str:
    """A session of which only the first event came."""
    session_id = _verified(simulator)
    receive([shapes.parsed(simulator.events(session_id)[0]["body"])])
    work()
    return session_id


def _move(session_id: str, **values: object) -> None:
    with transaction() as session:
        session.connection().execute(
            update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id).values(**values)
        )


def test_reconcile_and_purge_are_on_the_clock() -> None:
    program = (
        "from worker.app import celery_app as app\n"
        "from worker.clock import timetable\n"
        "print({name: (seconds, name in app.tasks) for name, seconds in timetable().items()})"
    )
    environment = {**os.environ, "RECONCILE_SECONDS": "77"}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (
        shown.stdout.strip()
        == "{'sweep': (1.0, True), 'reconcile': (77, True), 'remind': (60.0, True), 'purge': (3600.0, True)}"
    )
