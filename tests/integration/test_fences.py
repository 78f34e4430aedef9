"""A worker that comes too late writes nothing: not the end of an action or event, and no time to try it again."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.process import claim_events, process_together
from handlers.inbox.receive import receive
from handlers.operator.audit import By, Way
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows, retry_rows
from handlers.outbox import perform as performing
from handlers.outbox.mails import Mail
from handlers.outbox.perform import perform
from handlers.queue import claims
from handlers.queue.claims import Claim, LostClaimError
from handlers.queue.failures import NotNowError, PermanentError, RefusedError
from handlers.record.events import VerificationEvent
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    Submission,
    VerificationRecord,
)
from tests.property.outside import PostBox
from tests.support import facts
from tests.support.facts import NOON, claim_action, end_action, event

pytestmark = pytest.mark.usefixtures("database_url", "post_box")

# The ends of a worker's attempt.
ENDS: dict[str, Callable[[Claim], object]] = {
    "done": lambda claim: end_action(claim, facts.action(claim.id), None),
    "skipped": lambda claim: end_action(claim, facts.action(claim.id), "superseded"),
    "put back": lambda claim: claims.give_up(claim, NotNowError("not now")),
    "tried again": lambda claim: claims.give_up(claim, RefusedError("refused")),
    "buried": lambda claim: claims.give_up(claim, PermanentError("never")),
}
FAILURES = [name for name in ENDS if name not in ("done", "skipped")]


def _mail_owed() -> int:
    return next(one.id or 0 for one in _owed_by(event("verified", report="vr_1")) if one.name == "email_verified")


def _owed_by(told: VerificationEvent) -> list[OutboxAction]:
    facts.applied(told)
    return facts.actions()


def _claimed(action_id: int) -> Claim:
    claimed = claim_action(action_id)
    assert claimed is not None
    return claimed[0]


def test_an_operators_retry_and_discard_leave_to_a_worker_what_it_is_at() -> None:
    action_id = _mail_owed()
    late = _claimed(action_id)
    by = By(who="a test", way=Way.COMMAND)
    assert [*retry_rows(OutboxAction, Filter(), by), *discard_rows(OutboxAction, Filter(), by)] == []
    ENDS["put back"](late)
    assert list(retry_rows(OutboxAction, Filter(), by)) == [[action_id]]
    assert action_id in facts.due_actions()


@pytest.mark.parametrize("end", ENDS)
def test_an_action_that_somebody_else_has_claimed_since_is_left_to_them(end: str) -> None:
    action_id = _mail_owed()
    late = _claimed(action_id)
    facts.end_all_leases()
    _claimed(action_id)
    before = facts.action(action_id)
    ENDS[end](late)
    assert facts.action(action_id) == before


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("ended", ENDS)
def test_an_action_that_somebody_else_has_ended_stays_as_it_is(end: str, ended: str) -> None:
    action_id = _mail_owed()
    late = _claimed(action_id)
    facts.end_all_leases()
    ENDS[ended](_claimed(action_id))
    before = facts.action(action_id)
    ENDS[end](late)
    assert facts.action(action_id) == before


@pytest.mark.parametrize("end", ENDS)
def test_an_action_that_was_dropped_while_it_was_in_work_stays_dropped(end: str) -> None:
    action_id = _mail_owed()
    claim = _claimed(action_id)
    facts.applied(event("redacted", NOON + 60))
    ENDS[end](claim)
    assert (facts.action(action_id).status, facts.action(action_id).reason) == (ActionStatus.SKIPPED, "redacted")


def test_a_mail_that_fails_while_its_person_is_forgotten_is_not_tried_again(post_box: PostBox) -> None:
    action_id = _mail_owed()

    def forget_and_refuse(_: Mail) -> None:
        facts.applied(event("redacted", NOON + 60))
        raise RefusedError("refused")

    post_box.behave = forget_and_refuse
    perform(action_id)
    facts.end_all_leases()
    assert facts.action(action_id).status == ActionStatus.SKIPPED
    assert perform(action_id) == []
    assert post_box.sent.total() == 0


@pytest.mark.parametrize("end", [None, *ENDS])
def test_the_last_look_forbids_what_somebody_else_has_claimed_or_ended_since(end: str | None) -> None:
    action_id = _mail_owed()
    claimed = claim_action(action_id)
    assert claimed
    claims.unless_lost(claimed[1])
    facts.end_all_leases()
    other = _claimed(action_id)
    if end:
        ENDS[end](other)
    before = facts.action(action_id)
    with pytest.raises(LostClaimError):
        claims.unless_lost(claimed[1])
    assert facts.action(action_id) == before


def _fail_over(action_id: int) -> OutboxAction:
    """The standby that takes over lacks this action with its record, and gives its number to the next one."""
    with transaction() as session:
        for table in (OutboxAction, VerificationRecord, Submission, InboxEvent):
            session.execute(delete(table).where(col(table.session_id) == "vs_1"))
    facts.applied(event("verified", session_id="vs_2", report="vr_1"))
    mail = next(one for one in facts.actions("vs_2") if one.name == "email_verified")
    with transaction() as session:
        session.execute(update(OutboxAction).where(col(OutboxAction.id) == mail.id).values(id=action_id))
    _claimed(action_id)
    return facts.action(action_id)


@pytest.mark.parametrize("end", ENDS)
def test_an_action_that_has_the_number_of_a_lost_one_is_left_alone(end: str) -> None:
    claimed = claim_action(_mail_owed())
    assert claimed
    late, action = claimed
    other = _fail_over(late.id)
    with pytest.raises(LostClaimError):
        claims.unless_lost(action)
    if end in FAILURES:
        ENDS[end](late)
    else:
        end_action(late, action, None if end == "done" else "superseded")
    assert facts.action(late.id) == other


@pytest.mark.parametrize("end", FAILURES)
def test_a_lost_action_is_not_known_by_the_moment_of_another_in_its_batch(end: str) -> None:
    lost, other = (_claimed(facts.applied(event("verified", session_id=name, report="vr_1"))[0]) for name in "ab")
    with transaction() as session:
        its_number = update(OutboxAction).where(col(OutboxAction.id) == lost.id)
        session.execute(its_number.values(created_at=other.since))
    before = facts.action(lost.id)
    assert claims.write_down([lost, other], last_error="late") == 1
    ENDS[end](lost)
    assert facts.action(lost.id) == before


def test_a_mail_is_not_taken_for_one_that_has_the_number_of_a_lost_one(post_box: PostBox) -> None:
    action_id, others = _mail_owed(), list[OutboxAction]()
    post_box.behave = lambda _: others.append(_fail_over(action_id))
    assert perform(action_id) == []
    assert [facts.action(action_id)] == others


def test_a_look_at_a_lost_action_is_none_at_the_one_that_has_its_number(
    environment: pytest.MonkeyPatch, post_box: PostBox
) -> None:
    action_id, look, others = _mail_owed(), performing._look, list[OutboxAction]()

    def look_later(actions: Sequence[OutboxAction]) -> Any:
        others.append(_fail_over(action_id))
        environment.setattr(performing, "_look", look)
        return look(actions)

    environment.setattr(performing, "_look", look_later)
    assert perform(action_id) == []
    assert post_box.sent.total() == 0
    assert [facts.action(action_id)] == others


def test_the_last_look_holds_the_row_for_another_lease() -> None:
    action_id = _mail_owed()
    claimed = claim_action(action_id)
    assert claimed
    facts.end_all_leases()  # though no other worker has come
    claims.unless_lost(claimed[1], timedelta(minutes=5))
    assert facts.action(action_id).due_at > datetime.now(UTC) + timedelta(minutes=4)
    assert claim_action(action_id) is None


def test_a_last_look_that_took_too_long_is_none(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(claims, "_LOOK_SECONDS", 0.0)
    claimed = claim_action(_mail_owed())
    assert claimed
    with pytest.raises(NotNowError):
        claims.unless_lost(claimed[1])


@pytest.mark.parametrize("end", FAILURES)
def test_an_event_that_somebody_else_has_claimed_since_is_left_to_them(end: str) -> None:
    told = event("verified", report="vr_1")
    receive([told])
    (late,) = claim_events([told.id], first_try=True)
    facts.end_all_leases()
    claim_events([told.id], first_try=False)
    before = facts.event_row(told.id)
    ENDS[end](late.claim)
    assert facts.event_row(told.id) == before


@pytest.mark.parametrize("end", FAILURES)
def test_an_event_that_was_processed_meanwhile_stays_so(end: str) -> None:
    told = event("verified", report="vr_1")
    receive([told])
    (late,) = claim_events([told.id], first_try=True)
    assert process_together([late])
    ENDS[end](late.claim)
    assert facts.event_row(told.id).status == InboxStatus.PROCESSED
