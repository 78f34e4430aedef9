"""A fault of one tenant, session or page holds up no other: it is reported, counted, and asked last next time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.receive import receive
from handlers.metrics import exposition
from handlers.operator.findings import findings
from handlers.operator.queries import Filter, find_events
from handlers.queue.failures import NotAllowedError
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import Bookmark, Unanswered, VerificationRecord
from handlers.upkeep import rebuild as rebuilding
from handlers.upkeep import unanswered
from handlers.upkeep.rebuild import Restored, rebuild
from handlers.upkeep.reconcile import reconcile
from handlers.upkeep.restored import recover
from tests.simulator.client import Simulator
from tests.support import databases, facts, shapes
from tests.support.operator import command, work
from worker import tasks

pytestmark = pytest.mark.usefixtures("database_url")

NOWHERE = "http://127.0.0.1:9/webhooks/stripe"
GONE, GOOD = "acct_1Gone", "acct_1Good"


def test_an_account_that_left_the_platform_keeps_nobody_elses_events_away(simulator: Simulator) -> None:
    _heard_of(simulator, GONE)
    _heard_of(simulator, GOOD)
    ours, theirs = _undelivered(simulator), _undelivered(simulator, account=GOOD)
    simulator.keys(account=GONE, reachable=False)
    report = reconcile()
    assert {event.session_id for event in find_events(Filter(), None)} >= {ours, theirs}
    assert {(one.what, one.name) for one in report.failed} == {("events", GONE)}
    assert report.stopped == []


def test_an_account_that_failed_is_asked_last_and_not_at_once_and_forgotten_when_it_answers(
    simulator: Simulator,
) -> None:
    _heard_of(simulator, GONE)
    _heard_of(simulator, GOOD)
    simulator.keys(account=GONE, reachable=False)
    assert "events" in {one.what for one in reconcile().failed}
    assert reconcile().failed == []  # it waits
    _pauses_are_over()
    assert [row.failures for row in unanswered.known("events")] == [1]
    reconcile()
    assert [(row.name, row.failures) for row in unanswered.known("events")] == [(GONE, 2)]
    simulator.keys(account=GONE, reachable=True)
    _pauses_are_over()
    session_id = _undelivered(simulator, account=GONE)
    reconcile()
    assert session_id in {event.session_id for event in find_events(Filter(), None)}
    assert unanswered.known() == []


def test_our_own_account_is_asked_each_time_however_often_it_failed(simulator: Simulator) -> None:
    simulator.fault(500, path="/v1/events", count=None)
    for _ in range(3):
        assert [(one.what, one.name) for one in reconcile().failed] == [("events", "our own account")]
    simulator.clear_faults()
    session_id = _undelivered(simulator)
    assert reconcile().failed == []
    assert session_id in {event.session_id for event in find_events(Filter(), None)}
    assert unanswered.known() == []


def test_accounts_of_the_other_mode_are_not_asked(simulator: Simulator) -> None:
    facts.applied(facts.event("created", session_id="vs_live", livemode=True, account="acct_1Live"))
    simulator.keys(account="acct_1Live", reachable=False)
    session_id = _undelivered(simulator)
    report = reconcile()
    assert (report.failed, report.stopped) == ([], [])
    assert session_id in {event.session_id for event in find_events(Filter(), None)}


def test_the_modes_have_bookmarks_of_their_own(simulator: Simulator, environment: pytest.MonkeyPatch) -> None:
    reconcile()
    environment.setenv("STRIPE_API_KEY", simulator.live_api_key)
    databases.forget_process_state()
    session_id = _undelivered(simulator, livemode=True)
    reconcile()
    assert session_id in {event.session_id for event in find_events(Filter(), None)}


def test_busy_neighbours_leave_us_our_share_and_each_other_theirs(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upkeep.allowance.REQUESTS", 40)
    monkeypatch.setattr("handlers.upkeep.allowance.SECONDS", 60.0)
    accounts = [f"acct_1Busy{n}" for n in range(3)]
    for account in accounts:
        _heard_of(simulator, account)
        simulator.endpoint(NOWHERE, account=account)
        for hours_ago in (70, 5):
            simulator.clock(offset=-3600.0 * hours_ago)
            simulator.run(40, "passes", account=account)
    ours = _undelivered(simulator)
    first = reconcile()
    found = find_events(Filter(), None)
    assert ours in {event.session_id for event in found}
    assert first.stopped == ["events of connected accounts: the rest is for the next run"]
    for _ in range(8):
        if not reconcile().stopped:
            break
    found = find_events(Filter(), None)
    assert {account: sum(event.account == account for event in found) for account in (None, *accounts)} == {
        None: 3,
        "acct_1Busy0": 2 * 40 * 3 + 1,
        "acct_1Busy1": 2 * 40 * 3 + 1,
        "acct_1Busy2": 2 * 40 * 3 + 1,
    }


def test_our_own_account_is_asked_about_again_soon_after_a_first_failure_and_later_after_several(
    simulator: Simulator,
) -> None:
    facts.all_alive()
    session_id = _undelivered(simulator)
    simulator.fault(500, path="/v1/events", count=None)
    for failures in (1, 2):
        reconcile() if failures == 1 else tasks.remind_persons()
        assert [(row.name, row.failures) for row in unanswered.known()] == [("", failures)]
        tasks.remind_persons()  # it waits
        assert [row.failures for row in unanswered.known()] == [failures]
        assert [one.what for one in findings(None)] == ["unanswered"]
        _asked_before(timedelta(seconds=50 * failures))
    simulator.clear_faults()
    tasks.remind_persons()
    assert session_id in {event.session_id for event in find_events(Filter(), None)}
    assert findings(None) == []


def test_what_a_clock_that_was_ahead_asked_about_is_asked_about_again() -> None:
    for what, name in (("events", ""), ("events", GONE)):
        unanswered.add_failure(what, name, NotAllowedError("it may not"))
    assert (unanswered.waiting("events"), unanswered.is_to_be_asked_soon()) == ([GONE], False)
    _asked_before(-timedelta(hours=1))
    assert (unanswered.waiting("events"), unanswered.is_to_be_asked_soon()) == ([], True)


@pytest.mark.parametrize("status", [500, 503])
def test_a_session_that_answers_an_error_keeps_no_other_from_being_mended(simulator: Simulator, status: int) -> None:
    session_ids = [_known_but_untold(simulator) for _ in range(6)]
    simulator.fault(status, path=session_ids[0], count=None)
    _due(*session_ids)
    report = reconcile()
    assert {one.session_id for one in report.drifted} == set(session_ids[1:])
    assert [(one.what, one.name) for one in report.failed] == [("session", session_ids[0])]
    _due(*session_ids[:1])
    assert [row.name for row in unanswered.known("session")] == session_ids[:1]
    simulator.clear_faults()
    assert {one.session_id for one in reconcile().drifted} == set(session_ids[:1])
    assert unanswered.known() == []


def test_a_session_whose_state_cannot_be_read_keeps_no_other_from_being_mended(simulator: Simulator) -> None:
    session_ids = [_known_but_untold(simulator) for _ in range(3)]
    simulator.fault(path=session_ids[0], count=None, nonsense="parts that are none")
    report = reconcile(bounded=False)
    assert {one.session_id for one in report.drifted} == set(session_ids[1:])
    assert ("session", session_ids[0]) in {(one.what, one.name) for one in report.failed}


def test_a_session_that_hangs_comes_last_the_next_time(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.stripe_api.client._TOTAL_SECONDS", 0.5)
    monkeypatch.setattr("handlers.queue.calls._SILENT_SECONDS", 0.0)
    databases.forget_process_state()
    session_ids = [_known_but_untold(simulator) for _ in range(3)]
    _due(*session_ids)
    simulator.fault(path=session_ids[0], count=None, hang=True)
    first, second = reconcile(), reconcile()
    assert {one.session_id for one in (*first.drifted, *second.drifted)} == set(session_ids[1:])
    assert len(first.stopped) == 1


def test_another_accounts_refusal_keeps_none_of_our_sessions_from_being_mended(simulator: Simulator) -> None:
    theirs = [_known_but_untold(simulator, account=GONE) for _ in range(5)]
    ours = _known_but_untold(simulator)
    simulator.keys(account=GONE, reachable=False)
    _due(*theirs, ours)
    report = reconcile()
    assert [one.session_id for one in report.drifted] == [ours]
    assert ("sessions", GONE) in {(one.what, one.name) for one in report.failed}
    assert "session" not in {one.what for one in report.failed}  # asked once, not five times
    simulator.keys(account=GONE, reachable=True)
    _pauses_are_over()
    assert {one.session_id for one in reconcile().drifted} == set(theirs)


def test_the_sessions_of_many_neighbours_leave_ours_their_turn(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upkeep.drift.REQUESTS", 1)
    theirs, ours = _known_but_untold(simulator, account=GOOD), _known_but_untold(simulator)
    _say(theirs, ours, compare_at=datetime.now(UTC) - timedelta(hours=1))
    _say(theirs, compare_at=datetime.now(UTC) - timedelta(hours=2))
    assert {one.session_id for one in reconcile().drifted} == {theirs, ours}


def test_an_answer_of_a_replica_that_lags_behind_is_not_taken_over(simulator: Simulator) -> None:
    simulator.clock(offset=-3600.0)
    session_id = simulator.create()
    simulator.submit(session_id)
    simulator.clock(offset=0.0)
    for event in simulator.events(session_id):
        receive([shapes.parsed(event["body"])])
    work()
    simulator.fault(path=session_id, count=1, nonsense="as it was created")
    _due(session_id)
    assert (reconcile().drifted, facts.record(session_id).status) == ([], "processing")
    assert simulator.faults()[0]["hits"] == 1


def test_a_second_of_the_list_that_cannot_be_read_holds_up_only_itself(simulator: Simulator) -> None:
    poisoned, others = _undelivered(simulator, 7200.0), [_undelivered(simulator, 60.0 * n) for n in (100, 150, 300)]
    simulator.fault(500, holding=poisoned, count=None)
    for _ in range(3):
        reconcile()
    found = {event.session_id for event in find_events(Filter(), None)}
    assert found == set(others)
    [second] = unanswered.known("second")
    simulator.clear_faults()
    reconcile()
    assert unanswered.known("second") == [second]  # it waits
    _pauses_are_over()
    reconcile()
    assert poisoned in {event.session_id for event in find_events(Filter(), None)}
    assert unanswered.known() == []


@pytest.mark.parametrize(
    "nonsense", ["an element that is null", "an element without an id", "an element of another kind"]
)
def test_a_broken_element_of_a_list_spoils_no_others(simulator: Simulator, nonsense: str) -> None:
    session_ids = [_undelivered(simulator), _undelivered(simulator)]
    simulator.fault(path="/v1/events", count=None, nonsense=nonsense)
    report = reconcile()
    assert {event.session_id for event in find_events(Filter(), None)} == set(session_ids)
    assert ("event", "without an id") in {(one.what, one.name) for one in report.failed}


def test_a_list_without_an_end_ends(simulator: Simulator) -> None:
    session_id = _undelivered(simulator)
    simulator.fault(path="/v1/events", count=None, nonsense="a list without an end")
    report = reconcile(bounded=False)
    assert ("events", "our own account") in {(one.what, one.name) for one in report.failed}
    simulator.clear_faults()
    reconcile()
    assert session_id in {event.session_id for event in find_events(Filter(), None)}


def test_a_session_that_fails_as_nobody_thought_of_keeps_no_other_from_being_mended(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_ids = [_known_but_untold(simulator) for _ in range(3)]

    def retrieve_state(session_id: str, account: str | None) -> Retrieved | None:
        if session_id == session_ids[0]:
            raise OverflowError("c4nary")
        return retrieve(session_id, account)

    retrieve = sessions.retrieve_state
    monkeypatch.setattr(sessions, "retrieve_state", retrieve_state)
    _due(*session_ids)
    report = reconcile()
    assert {one.session_id for one in report.drifted} == set(session_ids[1:])
    assert [(one.name, one.reason) for one in report.failed] == [(session_ids[0], "OverflowError")]


def test_rebuild_goes_on_with_the_next_account(simulator: Simulator) -> None:
    theirs = _made(simulator, account=GOOD)
    simulator.keys(account=GONE, reachable=False)
    pages = _rebuilt([GONE, GOOD])
    assert {event.session_id for event in find_events(Filter(), None)} == {theirs}
    assert sum(bool(page.failed) for page in pages) == 2


def test_rebuild_goes_on_past_what_cannot_be_read(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "_PAUSES", ())
    poisoned, others = _made(simulator), [_made(simulator, 60.0 * n) for n in (10, 20, 400)]
    simulator.fault(500, holding=poisoned, count=None)
    pages = _rebuilt([None])
    assert {event.session_id for event in find_events(Filter(), None)} == set(others)
    # All events of the poisoned session lie in one second here, which is one failure; its retrieve is the other.
    assert len([line for page in pages for line in page.failed if "Stripe answered 500" in line]) == 2


@pytest.mark.parametrize(
    "nonsense", ["an element that is null", "an element without an id", "an element of another kind"]
)
def test_rebuild_goes_on_past_a_broken_element(simulator: Simulator, nonsense: str) -> None:
    session_ids = {_made(simulator), _made(simulator)}
    simulator.fault(path="/v1/", count=None, nonsense=nonsense)
    pages = _rebuilt([None])
    assert {event.session_id for event in find_events(Filter(), None)} == session_ids
    assert any("without an id" in line for page in pages for line in page.failed)


@pytest.mark.parametrize(
    "nonsense",
    [
        "an element of the other mode",
        "an element of a time that never comes",
        "an element with no id of Stripe's",
        "an element that is another object",
    ],
)
def test_an_element_that_is_no_session_of_this_mode_is_taken_by_nobody(simulator: Simulator, nonsense: str) -> None:
    session_id = _known_but_untold(simulator)
    _say(session_id, created_at=datetime.now(UTC) - timedelta(days=1))
    simulator.fault(path="/v1/", count=None, nonsense=nonsense)
    report = reconcile(bounded=False)
    pages = _rebuilt([None])
    recovered = recover()
    assert {one.session_id for one in find_events(Filter(), None) if one.last_error != "other mode"} == {session_id}
    for failed in (report.failed, recovered.failed, [line for page in pages for line in page.failed]):
        assert [one for one in failed if "session" in str(one)]
    assert not unanswered.known("second")
    with transaction() as session:
        assert session.scalars(select(col(VerificationRecord.session_id))).all() == [session_id]


def test_what_fails_is_seen_in_status_doctor_and_metrics(simulator: Simulator) -> None:
    session_id = _known_but_untold(simulator)
    simulator.fault(500, path=session_id, count=None)
    _heard_of(simulator, GONE)
    simulator.keys(account=GONE, reachable=False)
    _due(session_id)
    reconcile()
    shown = exposition.exposition()[0].decode()
    for line in (
        "identity_unanswered_accounts 1.0",
        "identity_unanswered_sessions 1.0",
        'identity_unanswered_total{reason="not allowed",what="events"} 1.0',
    ):
        assert line in shown
    facts.all_alive()
    said = command("status", "--json")
    assert said.json["unanswered"] == {"accounts": 1, "sessions": 1, "seconds": 0}
    assert said.code == 0  # a neighbour's trouble is not ours
    doctor = command("doctor").out
    assert GONE in doctor
    assert session_id in doctor
    simulator.fault(403, path="/v1/events", count=None)
    reconcile()
    assert command("status").code == 1


def test_the_reconcile_command_says_what_failed(simulator: Simulator) -> None:
    _heard_of(simulator, GONE)
    simulator.keys(account=GONE, reachable=False)
    said = command("reconcile")
    assert said.code == 1
    assert GONE in said.out


def _heard_of(simulator: Simulator, account: str) -> None:
    _receive_as(account, simulator.events(simulator.create(account=account))[0]["body"])
    work()


def _undelivered(simulator: Simulator, seconds: float = 3600.0, **scope: Any) -> str:
    """A verified session, made so long ago, of which no event came."""
    simulator.endpoint(NOWHERE, **scope)
    return _made(simulator, seconds, **scope)


def _made(simulator: Simulator, seconds: float = 3600.0, **scope: Any) -> str:
    simulator.clock(offset=-seconds)
    session_id = simulator.create(**scope)
    simulator.passed(session_id)
    simulator.clock(offset=0.0)
    return session_id


def _known_but_untold(simulator: Simulator, **scope: Any) -> str:
    """A session of which only the first event came."""
    session_id = _made(simulator, **scope)
    _receive_as(scope.get("account"), simulator.events(session_id)[0]["body"])
    work()
    return session_id


def _receive_as(account: str | None, body: dict[str, Any]) -> None:
    receive([shapes.parsed(body | ({"account": account} if account else {}))])


def _due(*session_ids: str) -> None:
    _say(*session_ids, compare_at=datetime.now(UTC) - timedelta(seconds=1))


def _say(*session_ids: str, **values: Any) -> None:
    with transaction() as session:
        session.connection().execute(
            update(VerificationRecord).where(col(VerificationRecord.session_id).in_(session_ids)).values(**values)
        )


def _pauses_are_over() -> None:
    _asked_before(timedelta(hours=2))
    with transaction() as session:
        session.connection().execute(update(Bookmark).values(asked_at=datetime.now(UTC) - timedelta(hours=2)))


def _asked_before(ago: timedelta) -> None:
    with transaction() as session:
        session.connection().execute(update(Unanswered).values(asked_at=datetime.now(UTC) - ago))


def _rebuilt(accounts: list[str | None]) -> list[Restored]:
    return list(rebuild(datetime.now(UTC) - timedelta(days=1), accounts, owes_nothing=True))
