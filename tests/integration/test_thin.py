"""Thin notifications: verified and stored like any other, and applied by asking Stripe."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import pytest
from sqlalchemy.exc import OperationalError

from handlers.inbox.process import claim_events, process
from handlers.inbox.receive import receive
from handlers.queue.claims import due
from handlers.record.decide import Outcome
from handlers.record.events import Status
from handlers.stripe_api import sessions as stripe_sessions
from handlers.stripe_api.client import Found
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus
from tests.integration.stories import Stories, by_name, perform_everything, process_everything
from tests.property.outside import PostBox
from tests.support import databases, facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "post_box")
CONNECTED = "acct_1Connected"


def _verified(stripe: Stories, **options: object) -> str:
    session_id = stripe.simulator.create(email="jenny@example.com", **options)  # type: ignore[arg-type]
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    return session_id


def test_thin_notifications_alone_lead_to_the_true_record(stripe: Stories, post_box: PostBox) -> None:
    session_id = _verified(stripe)
    stripe.deliver(session_id, thin=True)
    perform_everything()
    record = facts.record(session_id)
    assert (record.status, record.last_report_id) == (
        Status.VERIFIED,
        stripe.simulator.session(session_id)["last_verification_report"],
    )
    assert list(post_box.sent.values()) == [1]


@pytest.mark.parametrize("thin_first", [False, True])
def test_both_forms_of_one_change_owe_one_mail(stripe: Stories, post_box: PostBox, thin_first: bool) -> None:
    session_id = _verified(stripe)
    thin = [body for body in stripe.simulator.events(session_id) if body["thin"]]
    assert thin
    stripe.seen.clear()
    snapshots = stripe.news(session_id)
    stripe.seen.clear()
    notifications = stripe.news(session_id, thin=True)
    forms = [notifications, snapshots] if thin_first else [snapshots, notifications]
    facts.applied(*forms[0], *forms[1])
    perform_everything()
    assert by_name(session_id)["email_verified"] == [ActionStatus.DONE]
    assert post_box.sent.total() == 1
    assert facts.record(session_id).submissions == 1


@pytest.fixture
def asked(environment: pytest.MonkeyPatch) -> list[str]:
    """The ids of the sessions that Stripe is asked about from now on."""
    sessions: list[str] = []
    fetch = stripe_sessions.fetch

    def noting(session_id: str, *more: object) -> Found:
        sessions.append(session_id)
        return fetch(session_id, *more)  # type: ignore[arg-type]

    environment.setattr(stripe_sessions, "fetch", noting)
    return sessions


def test_what_a_snapshot_has_overtaken_is_not_asked_about(stripe: Stories, asked: list[str]) -> None:
    session_id = _verified(stripe)
    snapshots = stripe.news(session_id)
    stripe.seen.clear()
    notifications = stripe.news(session_id, thin=True)
    receive([*notifications, *snapshots])
    process([one.id for one in (*notifications, *snapshots)])
    assert asked == [session_id]  # the question is about its last one, which is as old as the snapshot
    outcomes = [facts.event_row(one.id).outcome for one in sorted(notifications, key=attrgetter("created_at"))]
    assert outcomes == [*[Outcome.STALE] * (len(notifications) - 1), Outcome.APPLIED]
    assert facts.record(session_id).status == Status.VERIFIED


def test_all_notifications_of_a_session_in_a_message_share_an_answer(stripe: Stories, asked: list[str]) -> None:
    session_ids = [_verified(stripe) for _ in range(2)]
    notifications = [one for session_id in session_ids for one in stripe.news(session_id, thin=True)]
    receive(notifications)
    process([one.id for one in notifications])
    assert sorted(asked) == sorted(session_ids)
    assert {facts.record(session_id).status for session_id in session_ids} == {Status.VERIFIED}
    assert {facts.event_row(one.id).outcome for one in notifications} == {Outcome.APPLIED}


def test_what_stripe_spoiled_shares_a_claim_again_and_what_ended_its_process_does_not(stripe: Stories) -> None:
    session_ids = [_verified(stripe) for _ in range(3)]
    notifications = [stripe.news(session_id, thin=True)[-1] for session_id in session_ids]
    receive(notifications)
    stripe.simulator.fault(500, count=None)
    process([one.id for one in notifications[:2]])
    stripe.simulator.clear_faults()
    databases.forget_process_state()
    claim_events([notifications[2].id], first_try=True)  # and here its worker dies
    facts.end_all_leases()
    not_tried, tried_before = due(InboxEvent, 10)
    assert (set(not_tried), tried_before) == ({one.id for one in notifications[:2]}, [notifications[2].id])
    assert len(claim_events(not_tried, first_try=True)) == 2


def test_a_database_that_is_away_before_stripe_is_asked_is_no_try(
    stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def away() -> Iterator[None]:
        raise OperationalError("SELECT", {}, Exception())
        yield

    told = stripe.news(_verified(stripe), thin=True)[-1]
    receive([told])
    with environment.context() as patch:
        patch.setattr("handlers.inbox.process.transaction", away)
        assert process([told.id]) == []
    row = facts.event_row(told.id)
    assert (row.attempts, row.waits, row.last_error) == (1, 1, "OperationalError")


def test_without_a_key_it_is_ignored_and_owes_nothing() -> None:
    facts.applied(event("created"))
    before = facts.record()
    told = facts.thin("verified", NOON + 10)
    assert facts.applied(told) == []
    assert facts.event_row(told.id).outcome == Outcome.IGNORED
    assert facts.record() == before


def test_without_a_key_a_redaction_is_obeyed_none_the_less() -> None:
    facts.applied(event("verified", report="vr_1", user="c4nary", reference="c4nary"))
    facts.applied(facts.thin("redacted", NOON + 10))
    assert facts.record().redacted_at is not None
    assert "c4nary" not in repr((facts.record(), facts.event_rows()))


@pytest.mark.parametrize("status", [400, 401, 403, 407, 409, 429, 500, 503])
def test_an_event_waits_while_stripe_cannot_answer_and_others_go_on(stripe: Stories, status: int) -> None:
    session_id = _verified(stripe)
    told = stripe.news(session_id, thin=True)[-1]
    other = event("verified", session_id="vs_other", report="vr_1")
    stripe.simulator.fault(status, count=None, path=session_id)
    receive([told, other])
    process([told.id, other.id])
    waiting = facts.event_row(told.id)
    assert (waiting.status, waiting.attempts, waiting.waits) == (InboxStatus.RECEIVED, 1, 1)
    assert waiting.last_error == f"Stripe answered {status}"
    assert waiting.due_at < datetime.now(UTC) + timedelta(seconds=61)
    assert facts.record("vs_other").status == Status.VERIFIED
    stripe.simulator.clear_faults()
    databases.forget_process_state()
    process_everything()
    assert facts.record(session_id).status == Status.VERIFIED


def test_an_event_waits_while_stripe_cannot_be_reached(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    told = stripe.news(_verified(stripe), thin=True)[-1]
    environment.setenv("STRIPE_API_BASE", "http://127.0.0.1:9")
    databases.forget_process_state()
    facts.applied(told)
    assert facts.event_row(told.id).last_error == "Stripe was not reached: nobody listens there"
    assert facts.event_row(told.id).waits == 1
    assert facts.count_records() == 0


def test_a_slow_answer_holds_its_own_event_and_no_other_worker(
    stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("handlers.stripe_api.client._TOTAL_SECONDS", 0.5)
    databases.forget_process_state()
    told = stripe.news(_verified(stripe), thin=True)[-1]
    other = event("verified", session_id="vs_other", report="vr_1")
    stripe.simulator.fault(hang=True, path=told.session_id)
    receive([told, other])
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(process, [told.id])
        assert process([other.id])
        assert not slow.done()
        assert slow.result() == []
    assert facts.event_row(told.id).last_error == "Stripe was not reached: no answer came in time"


def test_delays_grow_and_differ_so_that_nobody_comes_back_with_all_the_others(stripe: Stories) -> None:
    told = stripe.news(_verified(stripe), thin=True)[-1]
    stripe.simulator.fault(500, count=None)
    receive([told])
    delays = []
    for _ in range(8):
        facts.end_all_leases()
        process([told.id])
        delays.append((facts.event_row(told.id).due_at - datetime.now(UTC)).total_seconds())
    assert all(delay <= min(60, 2 * 2**attempt) for attempt, delay in enumerate(delays))
    assert len({round(delay, 3) for delay in delays}) > 4


def test_what_stripe_knows_nothing_of_changes_and_owes_nothing(stripe: Stories) -> None:
    session_id = _verified(stripe)
    facts.applied(event("created", session_id=session_id))
    before = facts.record(session_id)
    told = stripe.news(session_id, thin=True)[-1]
    stripe.simulator.fault(404, count=None)
    assert facts.applied(told) == []
    assert facts.event_row(told.id).outcome == Outcome.IGNORED
    assert facts.record(session_id) == before


def test_where_stripe_knows_nothing_a_tie_goes_by_rank(stripe: Stories) -> None:
    stripe.simulator.fault(404, count=None)
    facts.applied(event("verified", report="vr_1"), event("processing", report="vr_1"))
    assert facts.record().status == Status.VERIFIED


def test_an_answer_is_no_newer_than_the_moment_of_asking(stripe: Stories) -> None:
    """Stripe may have read the session long before it sends the answer, and dates only the answer."""
    told = stripe.news(_verified(stripe), thin=True)[-1]
    dated = int(time.time()) + 200
    stripe.simulator.clock(offset=0, frozen=dated)
    stripe.simulator.fault(delay=0.2, path=told.session_id)
    facts.applied(told)
    applied_at = facts.record(told.session_id).applied_at
    assert applied_at is not None
    assert int(applied_at.timestamp()) == dated - 1, "a fifth of a second before, in whole seconds"


def test_a_connected_accounts_session_is_asked_for_in_its_name(stripe: Stories, post_box: PostBox) -> None:
    session_id = stripe.simulator.create(email="jenny@example.com", account=CONNECTED)
    stripe.simulator.endpoint("http://127.0.0.1:9/connect", payload="both", hold=True, connect=True)
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    news = stripe.news(session_id, thin=True)
    assert {told.account for told in news} == {CONNECTED}
    facts.applied(*news)
    perform_everything()
    record = facts.record(session_id)
    assert (record.status, record.account) == (Status.VERIFIED, CONNECTED)
    assert post_box.sent.total() == 1
