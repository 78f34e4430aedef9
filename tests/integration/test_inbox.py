"""Events are received once and applied exactly once, though workers die and come too late."""

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import text

from config import inserts
from config.database import statement, transaction
from config.settings import settings
from handlers.inbox.process import claim_events, process, process_alone
from handlers.inbox.receive import Receipt, _event_row, receive
from handlers.queue.claims import Claim, due
from handlers.record.decide import Outcome
from handlers.record.events import Status
from handlers.tables.models import InboxEvent, InboxStatus
from tests.support import databases, facts
from tests.support.facts import NOON, event
from tests.support.servers import FakeStripe

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("database_url")


def test_nothing_is_received_and_processed_as_nothing() -> None:
    assert receive([]) == Receipt(frozenset(), frozenset())
    assert process([]) == []


def test_an_event_nobody_received_is_not_processed() -> None:
    assert process(["evt_unknown"]) == []


def test_a_received_event_is_kept_as_it_was_said() -> None:
    said = event("requires_input", code="abandoned", report="vr_1", reference="ref", user="u", redaction="processing")
    receive([said])
    row = facts.event_row(said.id)
    assert (row.type, row.session_id, row.created_at) == (said.type, "vs_1", said.created_at)
    assert (row.session_status, row.error_code, row.report_id) == ("requires_input", "abandoned", "vr_1")
    assert (row.client_reference_id, row.user_id, row.redaction) == ("ref", "u", "processing")
    assert (row.status, row.attempts, row.outcome) == (InboxStatus.RECEIVED, 0, None)
    assert abs(row.received_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_row_that_cannot_be_read_is_buried_and_harms_no_other() -> None:
    """Its claim is committed before it is read: without an end it would be claimed for ever."""
    receive([event("created", event_id="evt_bad"), event("created", event_id="evt_good", session_id="vs_2")])
    moment = "infinity" if databases.SERVER_URL else "yesterday"
    with statement() as connection:
        connection.execute(text(f"UPDATE inbox_event SET created_at = '{moment}' WHERE id = 'evt_bad'"))  # noqa: S608
    process(["evt_bad", "evt_good"])
    facts.end_all_leases()  # on PostgreSQL both are claimed by now
    process(["evt_bad", "evt_good"])
    with statement() as connection:
        rows = connection.execute(text("SELECT id, status, last_error FROM inbox_event ORDER BY id"))
        assert [tuple(row) for row in rows][1] == ("evt_good", "processed", None)
        (bad,) = connection.execute(text("SELECT status, last_error FROM inbox_event WHERE id = 'evt_bad'"))
    assert bad.status == "dead"
    assert bad.last_error


def test_an_event_whose_code_is_too_long_for_a_key_is_buried() -> None:
    """Only parsing bounds it: a longer code from elsewhere is the event's fault, not an outage of the database's."""
    said = event("requires_input", code="document_expired", report="vr_1")
    assert said.state
    said = replace(said, state=replace(said.state, error_code=secrets.token_hex(2450)))
    receive([said])
    for _ in range(settings().event_attempts):
        process([said.id])
        facts.end_all_leases()
    expected = InboxStatus.DEAD if databases.SERVER_URL else InboxStatus.PROCESSED
    assert facts.event_row(said.id).status == expected


def test_an_event_is_accepted_once() -> None:
    said = event("verified")
    assert receive([said]).accepted == {said.id}
    again = receive([said])
    assert again == Receipt(frozenset(), unprocessed=frozenset({said.id}), duplicates=1)
    process([said.id])
    assert receive([said]) == Receipt(frozenset(), frozenset(), duplicates=1)


def test_one_batch_may_hold_an_event_twice() -> None:
    said = event("verified")
    receipt = receive([said, event("processing"), said])
    assert receipt.accepted == {said.id, event("processing").id}


def test_a_batch_is_stored_whole_or_not_at_all(database_url: str) -> None:
    databases.refuse(database_url, "inbox_event", "id", "evt_bad")
    with pytest.raises(Exception, match="refuse"):
        receive([event("verified"), event("verified", session_id="vs_2", event_id="evt_bad")])
    assert receive([event("verified")]).accepted


def test_a_duplicate_is_applied_once() -> None:
    said = event("verified", report="vr_1")
    assert len(facts.applied(said)) == 1
    assert facts.applied(said) == []
    facts.end_all_leases()
    assert facts.applied(said) == []
    assert (facts.record().change_number, facts.event_row(said.id).attempts) == (1, 1)


def test_a_stale_event_leaves_the_record_alone() -> None:
    late = event("requires_input", NOON - 60, code="abandoned", report="vr_1")
    facts.applied(event("verified", report="vr_2"), late)
    assert facts.record().status == Status.VERIFIED
    assert facts.event_row(late.id).outcome == Outcome.STALE
    assert facts.reports() == {"vr_1", "vr_2"}
    assert facts.record().submissions == 2


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_any_order_of_arrival_comes_to_the_same_record(first: int) -> None:
    story = [
        event("created", NOON),
        event("processing", NOON + 10),
        event("requires_input", NOON + 20, code="document_expired", report="vr_1"),
        event("verified", NOON + 40, report="vr_2"),
    ]
    facts.applied(*story[first:], *story[:first])
    held = facts.record()
    assert (held.status, held.last_report_id, held.last_error_code, held.submissions) == ("verified", "vr_2", None, 2)
    assert {(one.name, one.cause) for one in facts.actions()} == {
        ("email_retry_prompt", "requires_input:document_expired:vr_1"),
        ("email_verified", "verified::vr_2"),
    }


def test_a_batch_may_hold_a_whole_story_in_any_order() -> None:
    story = [event("verified", NOON + 40, report="vr_2"), event("created"), event("processing", NOON + 10)]
    receive(story)
    process([one.id for one in story])
    assert facts.record().status == Status.VERIFIED
    assert [one.name for one in facts.actions()] == ["email_verified"]


def test_a_batch_is_applied_in_stripes_order_so_that_nothing_of_it_is_stale() -> None:
    later = event("verified", NOON + 40, event_id="evt_1", report="vr_1")
    earlier = event("requires_input", event_id="evt_2", code="abandoned")
    receive([later, earlier])
    process([later.id, earlier.id])
    assert {facts.event_row(one.id).outcome for one in (later, earlier)} == {Outcome.APPLIED}
    assert facts.record().status == Status.VERIFIED


def test_deliveries_and_failures_without_a_report_are_no_submissions() -> None:
    facts.applied(event("created"), event("processing", NOON + 1), event("requires_input", NOON + 2, code="abandoned"))
    assert facts.record().submissions == 0


def test_a_claimed_event_is_nobody_elses_until_its_lease_is_over() -> None:
    said = event("verified", report="vr_1")
    receive([said])
    assert len(claim_events([said.id], first_try=True)) == 1  # and here its worker dies
    assert process([said.id]) == []
    assert due(InboxEvent, 10) == ([], [])
    facts.end_all_leases()
    assert due(InboxEvent, 10) == ([], [said.id])
    assert len(process([said.id])) == 1
    assert (facts.event_row(said.id).attempts, facts.event_row(said.id).status) == (2, InboxStatus.PROCESSED)


def test_whoever_comes_after_its_lease_writes_nothing() -> None:
    said = event("verified", report="vr_1")
    receive([said])
    (slow,) = claim_events([said.id], first_try=True)
    facts.end_all_leases()
    (fast,) = claim_events([said.id], first_try=False)
    assert process_alone(slow) == []
    assert facts.count_records() == 0
    assert facts.event_row(said.id).status == InboxStatus.RECEIVED
    assert len(process_alone(fast)) == 1


def test_whoever_comes_after_the_end_writes_nothing() -> None:
    said = event("verified", report="vr_1")
    receive([said])
    (slow,) = claim_events([said.id], first_try=True)
    facts.end_all_leases()
    process([said.id])
    before = facts.record()
    assert process_alone(slow) == []
    assert facts.record() == before
    assert facts.event_row(said.id).attempts == 2


def test_a_poisoned_event_waits_alone_and_its_batch_goes_on(database_url: str) -> None:
    databases.refuse(database_url, "verification_record", "session_id", "vs_bad")
    good = [event("verified", session_id=f"vs_{n}", report=f"vr_{n}") for n in range(3)]
    bad = event("verified", session_id="vs_bad", user="c4nary")
    receive([*good, bad])
    assert len(process([bad.id, *(one.id for one in good)])) == 3
    row = facts.event_row(bad.id)
    assert (row.status, row.last_error, row.waits) == (InboxStatus.RECEIVED, "IntegrityError", 0)


def test_an_event_that_fails_each_time_is_buried_after_its_attempts(
    database_url: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("EVENT_ATTEMPTS", "3")
    databases.forget_process_state()
    databases.refuse(database_url, "verification_record", "session_id", "vs_bad")
    bad = event("verified", session_id="vs_bad")
    receive([bad])
    for attempt in (1, 2, 3):
        assert facts.event_row(bad.id).status == InboxStatus.RECEIVED
        process([bad.id])
        assert facts.event_row(bad.id).attempts == attempt
        facts.end_all_leases()
    row = facts.event_row(bad.id)
    assert (row.status, row.last_error) == (InboxStatus.DEAD, "IntegrityError")
    assert process([bad.id]) == []
    assert due(InboxEvent, 10) == ([], [])


def test_an_event_that_kills_its_worker_each_time_is_buried(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EVENT_ATTEMPTS", "2")
    databases.forget_process_state()
    said = event("verified")
    receive([said])
    claim_events([said.id], first_try=True)
    facts.end_all_leases()
    claim_events([said.id], first_try=False)
    facts.end_all_leases()
    assert process([said.id]) == []
    row = facts.event_row(said.id)
    assert (row.status, row.last_error) == (InboxStatus.DEAD, "every attempt ended with its process")


def test_an_event_tried_before_is_claimed_alone() -> None:
    said = [event("verified", session_id=f"vs_{n}", report="vr") for n in range(3)]
    receive(said)
    claim_events([one.id for one in said], first_try=True)
    facts.end_all_leases()
    assert claim_events([one.id for one in said], first_try=True) == []
    assert len(process([one.id for one in said])) == 3


@pytest.mark.parametrize("status", [401, 403, 409, 500, 503])
def test_an_event_that_waits_for_stripe_is_never_buried(
    status: int, stripe_server: FakeStripe, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("EVENT_ATTEMPTS", "1")
    databases.forget_process_state()
    stripe_server.fail_with = status
    said = facts.thin("verified")
    receive([said])
    for _ in range(3):
        assert process([said.id]) == []
        facts.end_all_leases()
    row = facts.event_row(said.id)
    assert (row.status, row.attempts, row.waits) == (InboxStatus.RECEIVED, 3, 3)
    assert row.last_error == f"Stripe answered {status}"
    stripe_server.fail_with = None
    stripe_server.sessions["vs_1"] = {"status": "verified", "last_verification_report": "vr_1"}
    assert len(process([said.id])) == 1
    assert facts.record().status == Status.VERIFIED


def test_a_thin_notification_of_a_session_that_stripe_does_not_know_is_ignored(stripe_server: FakeStripe) -> None:
    assert stripe_server.sessions == {}
    said = facts.thin("verified")
    assert facts.applied(said) == []
    assert facts.event_row(said.id).outcome == Outcome.IGNORED
    assert facts.record().status is None


def test_without_a_key_a_thin_notification_is_ignored() -> None:
    said = facts.thin("verified")
    assert facts.applied(said) == []
    assert facts.event_row(said.id).outcome == Outcome.IGNORED


def test_a_tie_is_settled_by_asking_stripe(stripe_server: FakeStripe) -> None:
    stripe_server.sessions["vs_1"] = {"status": "processing"}
    facts.applied(event("requires_input", code="abandoned"), event("processing"))
    assert facts.record().status == Status.PROCESSING
    assert stripe_server.asked == ["vs_1"]


def test_a_redaction_empties_the_rows_of_every_event_of_its_session() -> None:
    early = event("verified", report="vr_1", reference="ref_c4nary", user="user_c4nary")
    late = event("requires_input", NOON + 120, code="abandoned", reference="ref_c4nary", user="user_c4nary")
    facts.applied(early, event("redacted", NOON + 60), late)
    for said in (early, late):
        row = facts.event_row(said.id)
        assert (row.client_reference_id, row.user_id, row.error_reason) == (None, None, None)
    assert [one.status for one in facts.actions()] == ["skipped", "skipped"]


def test_concurrent_workers_apply_an_event_once() -> None:
    said = [event("verified", session_id=f"vs_{n}", report="vr") for n in range(20)]
    receive(said)
    owed = _at_once([lambda: process([one.id for one in said])] * 6)
    assert sorted(action_id for some in owed for action_id in some) == sorted(
        one.id or 0 for n in range(20) for one in facts.actions(f"vs_{n}")
    )
    assert {facts.record(f"vs_{n}").change_number for n in range(20)} == {1}
    assert {facts.event_row(one.id).attempts for one in said} == {1}


def test_concurrent_events_of_one_session_end_as_if_they_had_come_in_order() -> None:
    story = [
        event("created"),
        event("processing", NOON + 10),
        event("requires_input", NOON + 20, code="document_expired", report="vr_1"),
        event("processing", NOON + 30),
        event("verified", NOON + 40, report="vr_2"),
    ]
    receive(story)
    _at_once([partial(process, [one.id]) for one in story])
    facts.end_all_leases()
    process([one.id for one in story])
    held = facts.record()
    assert (held.status, held.submissions, held.last_report_id) == ("verified", 2, "vr_2")
    assert {facts.event_row(one.id).status for one in story} == {InboxStatus.PROCESSED}


def test_concurrent_receivers_of_the_same_events_accept_each_once() -> None:
    said = [event("verified", session_id=f"vs_{n}") for n in range(50)]
    receipts = _at_once([lambda: receive(said), lambda: receive(said[::-1])] * 3)
    accepted = [event_id for receipt in receipts for event_id in receipt.accepted]
    assert sorted(accepted) == sorted(one.id for one in said)


def test_the_sweep_finds_the_oldest_first_and_no_more_than_it_may() -> None:
    said = [event("verified", session_id=f"vs_{n}") for n in range(5)]
    for one in said:
        receive([one])
    not_tried, tried = due(InboxEvent, 3)
    assert not_tried == [one.id for one in said[:3]]
    assert tried == []
    assert due(InboxEvent, 10, timedelta(hours=1)) == ([], [])


def test_a_claim_counts_only_tries_that_were_the_works_own_fault() -> None:
    assert Claim(InboxEvent, "evt_1", "", 0.0, attempts=5, waits=3, since=datetime.now(UTC)).tries == 2


def test_a_transaction_that_raises_leaves_nothing() -> None:
    def write_and_fail() -> None:
        with transaction() as session:
            inserts.insert_new(session.connection(), InboxEvent, [_event_row(event("verified"), owes_nothing=False)])
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert receive([event("verified")]).accepted


def _at_once(calls: list[Callable[[], T]]) -> list[T]:
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], T]) -> T:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))
