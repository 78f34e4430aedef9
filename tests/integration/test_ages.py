"""Every session is compared at each age: changes without an event are found, and sessions that nobody has heard of."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.receive import receive
from handlers.operator.queries import Filter, find_events
from handlers.tables.models import Bookmark, VerificationRecord
from handlers.upkeep import aged
from handlers.upkeep.aged import AGES
from handlers.upkeep.reconcile import reconcile
from tests.simulator.client import Simulator
from tests.support import facts, shapes
from tests.support.operator import stripe_in_use, work

pytestmark = pytest.mark.usefixtures("database_url")

HOUR = 3600.0
SINCE = timedelta(days=100)  # for so long the service has been here
REACHED = [age for age in AGES if SINCE - age >= age / 4]


@pytest.fixture
def simulator(_simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with stripe_in_use(_simulator, environment) as stripe:
        receive([shapes.parsed(stripe.events(_made(stripe, SINCE.total_seconds() - HOUR))[0]["body"])])
        work()
        _heard_of_at(SINCE)
        yield stripe


def test_an_override_whose_event_never_came_is_followed(simulator: Simulator) -> None:
    session_id = _verified(simulator, 2 * HOUR)
    simulator.override(session_id, "requires_input")
    assert [(one.session_id, one.ours, one.theirs) for one in reconcile().drifted] == [
        (session_id, "verified", "requires_input document_unverified_other")
    ]
    work()
    assert facts.record(session_id).status == "requires_input"


def test_a_redaction_whose_event_never_came_is_followed_whatever_the_status(simulator: Simulator) -> None:
    verified, canceled = _verified(simulator, 2 * HOUR), _made(simulator, 2 * HOUR)
    simulator.clock(offset=-2 * HOUR + 10)
    simulator.cancel(canceled)
    simulator.clock(offset=0.0)
    for event in simulator.events(canceled):
        receive([shapes.parsed(event["body"])])
    work()
    for session_id in (verified, canceled):
        simulator.redact(session_id)
    assert {one.session_id for one in reconcile().drifted} == {verified, canceled}
    work()
    for session_id, status in ((verified, "verified"), (canceled, "canceled")):
        assert (facts.record(session_id).redacted_at is not None, facts.record(session_id).status) == (True, status)
    _ages_are_over()
    assert reconcile().drifted == []


def test_a_session_that_was_lost_with_all_its_events_is_found(simulator: Simulator) -> None:
    session_id = _made(simulator, 2 * HOUR, email="jenny@example.com")
    simulator.clock(offset=-2 * HOUR + 10)
    simulator.passed(session_id)
    simulator.clock(offset=0.0)
    assert [(one.session_id, one.ours) for one in reconcile().drifted] == [(session_id, "unheard of")]
    work()
    assert facts.record(session_id).status == "verified"
    assert [action.name for action in facts.actions(session_id)] == ["email_verified"]


def test_what_was_there_before_us_is_nobodys_drift(simulator: Simulator) -> None:
    _made(simulator, SINCE.total_seconds() + HOUR)
    assert reconcile().drifted == []


def test_a_young_session_is_left_to_its_events(simulator: Simulator) -> None:
    _made(simulator, 600.0)
    assert reconcile().drifted == []


def test_each_age_is_looked_at_once(simulator: Simulator) -> None:
    _verified(simulator, 2 * HOUR)
    assert reconcile().compared == 1 + len(REACHED)  # the session, and the oldest one at each age
    assert reconcile().compared == 0
    assert AGES[:4] == tuple(timedelta(hours=hours) for hours in (1, 3, 9, 27))
    assert timedelta(days=6 * 365) < AGES[-1] < timedelta(days=8 * 365)


def test_the_next_version_goes_on_where_this_one_has_come_to(simulator: Simulator) -> None:
    _verified(simulator, 2 * HOUR)
    reconcile()
    with transaction() as session:
        names = set(session.scalars(select(Bookmark.name)))  # type: ignore[call-overload]  # of a column
    assert names >= {f"listed:test::{age // timedelta(hours=1)}" for age in REACHED}


def test_an_old_answer_of_a_replica_is_not_taken_over(simulator: Simulator) -> None:
    session_id = _verified(simulator, 2 * HOUR)
    simulator.override(session_id, "requires_input")
    simulator.fault(path=f"/verification_sessions/{session_id}", count=1, nonsense="as it was verified")
    first = reconcile()
    assert first.drifted == []
    assert facts.record(session_id).status == "verified"


def test_a_look_by_a_clock_far_ahead_takes_the_place_of_none_that_are_to_come(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bookmark in the future would hide the overrides until then."""
    session_id = _verified(simulator, HOUR / 2)
    with monkeypatch.context() as wrong:
        wrong.setattr(aged, "database_now", lambda: datetime.now(UTC) + timedelta(days=61))
        assert reconcile().drifted == []
    simulator.override(session_id, "requires_input")
    monkeypatch.setattr(aged, "database_now", lambda: datetime.now(UTC) + timedelta(hours=1))
    assert [one.session_id for one in reconcile().drifted] == [session_id]


def test_sessions_that_are_as_they_should_be_cost_a_request_for_all(simulator: Simulator) -> None:
    simulator.clock(offset=-2 * HOUR)
    session_ids = simulator.run(60, "passes")
    simulator.clock(offset=0.0)
    for session_id in session_ids:
        for event in simulator.events(session_id):
            receive([shapes.parsed(event["body"])])
    work()
    simulator.fault(delay=0.0, path="/v1/identity/", count=None)
    report = reconcile()
    assert (report.compared > 60, report.drifted) == (True, [])
    [fault] = simulator.faults()
    assert fault["hits"] == len(REACHED)  # one for each age


def _verified(simulator: Simulator, seconds: float) -> str:
    """A verified session whose changes lie seconds apart, so that Stripe is not asked now about a contradiction."""
    session_id = _made(simulator, seconds)
    simulator.clock(offset=-seconds + 10)
    simulator.submit(session_id)
    simulator.clock(offset=-seconds + 20)
    simulator.passed(session_id)
    simulator.clock(offset=0.0)
    for event in simulator.events(session_id):
        receive([shapes.parsed(event["body"])])
    work()
    return session_id


def _made(simulator: Simulator, seconds: float, **params: Any) -> str:
    simulator.clock(offset=-seconds)
    session_id = simulator.create(**params)
    simulator.clock(offset=0.0)
    return session_id


def _heard_of_at(ago: timedelta) -> None:
    with transaction() as session:
        session.connection().execute(
            update(VerificationRecord).values(created_at=datetime.now(UTC) - ago, compare_at=datetime.now(UTC) + ago)
        )


def _ages_are_over() -> None:
    """Puts the bookmarks back to their beginning, as if the sessions had reached their next age."""
    with transaction() as session:
        session.connection().execute(
            update(Bookmark).where(col(Bookmark.name).startswith("listed:")).values(reached=datetime.now(UTC) - SINCE)
        )
    assert find_events(Filter(), None)
