"""Old rows are purged if they can matter no more; a late duplicate does no harm."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from config.database import transaction
from handlers.inbox.receive import receive
from handlers.operator.queries import Filter, find_actions, find_events
from handlers.outbox.perform import perform
from handlers.tables.models import InboxEvent, OutboxAction, VerifiedOutput
from handlers.upkeep import purge
from handlers.upkeep.purge import Purged
from tests.support import databases, facts
from tests.support.facts import NOON, event
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url")


def test_with_nothing_old_nothing_goes() -> None:
    assert purge.purge() == Purged()
    facts.applied(event("verified"))
    assert purge.purge() == Purged()


def test_what_was_processed_and_done_long_ago_goes_and_the_record_stays() -> None:
    _done(event("requires_input", code="document_expired", report="vr_1"), event("verified", NOON + 9, report="vr_2"))
    _age(31)
    assert purge.purge() == Purged(events=2, actions=2)
    assert facts.record().status == "verified"
    assert facts.reports() == {"vr_1", "vr_2"}


def test_what_is_young_or_unfinished_stays() -> None:
    facts.applied(event("verified"))
    receive([event("created", session_id="vs_2")])
    _age(29)
    assert purge.purge() == Purged()
    _age(300)
    assert purge.purge().events == 1  # the processed one; its mail is still owed
    assert len(find_events(Filter(), None)) == 1
    assert len(find_actions(Filter(), None)) == 1


def test_the_dead_stay_twice_as_long() -> None:
    facts.applied(event("verified"))
    _set(InboxEvent, status="dead", processed_at=None)
    _set(OutboxAction, status="dead")
    _age(59)
    assert purge.purge() == Purged()
    _age(61)
    assert purge.purge() == Purged(events=1, actions=1)


def test_retention_days_says_how_long(environment: pytest.MonkeyPatch) -> None:
    facts.applied(event("created"))
    _age(31)
    assert command("purge", "--json", RETENTION_DAYS="40").json["events"] == 0
    assert command("purge", "--json").json["events"] == 1
    assert environment


def test_more_than_a_batch_goes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "BATCH", 10)
    for number in range(25):
        _done(event("verified", session_id=f"vs_{number}"))
    _age(31)
    young = event("verified", session_id="vs_young")
    facts.applied(young)
    assert purge.purge() == Purged(events=25, actions=25)
    assert [one.id for one in find_events(Filter(), None)] == [young.id]


def test_a_late_duplicate_of_a_purged_event_changes_and_owes_nothing() -> None:
    failed = event("requires_input", code="document_expired", report="vr_1")
    passed = event("verified", NOON + 9, report="vr_2")
    _done(failed, passed)
    _age(31)
    purge.purge()
    before = facts.record()
    assert facts.applied(failed, passed) == []
    after = facts.record()
    assert (after.status, after.submissions, after.change_number) == ("verified", 2, before.change_number)


def test_an_alert_is_not_raised_again_by_a_late_duplicate_of_a_purged_event(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REVIEW_EMAIL", "review@example.com")
    databases.forget_process_state()
    signal = event("requires_input", code="selfie_manipulated", report="vr_1")
    _done(signal)
    _done(event("verified", NOON + 9, report="vr_2"))
    _age(31)
    purge.purge()
    assert facts.applied(signal) == []


def test_verified_outputs_go_after_their_own_time() -> None:
    with transaction() as session:
        session.add(
            VerifiedOutput(session_id="vs_1", ciphertext="x", fetched_at=datetime.now(UTC) - timedelta(days=31))
        )
        session.add(VerifiedOutput(session_id="vs_2", ciphertext="x", fetched_at=datetime.now(UTC)))
    assert purge.purge() == Purged(outputs=1)


def _done(*events: object) -> None:
    for action_id in facts.applied(*events):  # type: ignore[arg-type]
        perform(action_id)


def _age(days: float) -> None:
    then = datetime.now(UTC) - timedelta(days=days)
    _set(InboxEvent, received_at=then)
    _set(OutboxAction, created_at=then)
    with transaction() as session:
        connection = session.connection()
        connection.execute(update(InboxEvent).where(InboxEvent.processed_at.is_not(None)).values(processed_at=then))  # type: ignore[union-attr]
        connection.execute(update(OutboxAction).where(OutboxAction.done_at.is_not(None)).values(done_at=then))  # type: ignore[union-attr]


def _set(table: type[InboxEvent] | type[OutboxAction], **values: object) -> None:
    with transaction() as session:
        session.connection().execute(update(table).values(**values))
