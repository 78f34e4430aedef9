"""The last mail that a person got says what the record says, and nobody is told the same twice in a row."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from config.database import transaction
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.audit import By, Way
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows, retry_rows
from handlers.outbox.mails import Mail
from handlers.outbox.perform import perform
from handlers.owed.kinds import LIMIT_CAUSE
from handlers.queue.claims import LostClaimError
from handlers.queue.failures import RefusedError, UnknownOutcomeError
from handlers.record.events import VerificationEvent
from handlers.tables.models import ActionStatus, InboxEvent, OutboxAction
from handlers.upkeep.limits import judge_limits
from handlers.upkeep.purge import purge
from tests.integration.stories import perform_everything
from tests.property.outside import PostBox
from tests.support import databases, facts
from tests.support.facts import NOON, claim_action, end_action, event
from tests.support.mails import render

pytestmark = pytest.mark.usefixtures("database_url", "post_box")

PASSED = event("verified", NOON, report="vr_1")
OVERRIDDEN = event("requires_input", NOON + 60, code="document_unverified_other", report="vr_1")
APPROVED = event("verified", NOON + 120, report="vr_1")
BY = By(who="a test", way=Way.COMMAND, reason="it is tested")


def _told(post_box: PostBox) -> list[str]:
    return [mail.template for mail in post_box.told["vs_1"]]


def _action(name: str) -> OutboxAction:
    return next(one for one in facts.actions() if one.name == name)


def _tell(*events: VerificationEvent, purged: bool = False) -> None:
    """Applies each event by itself, and performs all that it owes; with `purged`, a purge runs before the next one."""
    for one in events:
        facts.applied(one)
        perform_everything()
        if purged:
            long_ago = datetime.now(UTC) - timedelta(days=400)
            with transaction() as session:
                session.connection().execute(update(InboxEvent).values(received_at=long_ago, processed_at=long_ago))
                session.connection().execute(update(OutboxAction).values(created_at=long_ago, done_at=long_ago))
            assert purge().actions or not facts.actions()


@pytest.mark.parametrize("purged", [False, True])
def test_a_success_after_an_override_is_told_again_by_a_mail_of_its_own(post_box: PostBox, purged: bool) -> None:
    _tell(PASSED, OVERRIDDEN, APPROVED, purged=purged)
    assert _told(post_box) == ["email_verified", "email_retry_prompt", "email_verified"]
    message_ids = [render(mail)["Message-ID"] for mail in post_box.told["vs_1"]]
    assert len(set(message_ids)) == 3, "a mailbox would drop what it has already"


@pytest.mark.parametrize("purged", [False, True])
def test_an_override_that_arrives_late_is_told_to_nobody(post_box: PostBox, purged: bool) -> None:
    _tell(PASSED, APPROVED, OVERRIDDEN, purged=purged)
    assert _told(post_box) == ["email_verified"]


@pytest.mark.parametrize("purged", [False, True])
def test_a_person_who_leaves_twice_is_reminded_once(post_box: PostBox, purged: bool) -> None:
    left = [event("requires_input", NOON + second, code="abandoned") for second in (0, 120)]
    _tell(left[0], event("processing", NOON + 60), left[1], purged=purged)
    assert _told(post_box) == ["email_retry_prompt"]
    assert purged or _action("email_retry_prompt").status == ActionStatus.DONE


@pytest.mark.parametrize("purged", [False, True])
def test_a_person_who_leaves_again_after_another_mail_is_reminded_again(post_box: PostBox, purged: bool) -> None:
    codes = ("abandoned", "consent_declined", "abandoned")
    _tell(
        *(event("requires_input", NOON + place, code=code) for place, code in enumerate(codes)),
        purged=purged,
    )
    assert _told(post_box) == ["email_retry_prompt", "email_alternative", "email_retry_prompt"]


def test_what_is_due_again_has_all_its_tries_before_it(post_box: PostBox) -> None:
    _tell(PASSED, OVERRIDDEN)
    facts.applied(APPROVED)
    action = _action("email_verified")
    assert post_box
    assert (action.status, action.attempts, action.waits) == (ActionStatus.PENDING, 1, 1)


def test_a_record_that_moves_on_while_a_mail_is_sent_is_told_after_it(post_box: PostBox) -> None:
    def meanwhile(mail: Mail) -> None:
        if mail.template == "email_retry_prompt":
            for action_id in facts.applied(APPROVED):
                perform(action_id)

    facts.applied(OVERRIDDEN)
    post_box.behave = meanwhile
    perform_everything()
    waiting = _action("email_verified")
    assert (waiting.status, waiting.last_error) == (ActionStatus.PENDING, "another mail to this person is under way")
    facts.end_all_leases()
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt", "email_verified"]


def test_a_mail_that_ends_after_the_one_that_followed_it_makes_that_due_again(post_box: PostBox) -> None:
    facts.applied(OVERRIDDEN)
    slow = claim_action(_action("email_retry_prompt").id or 0)
    assert slow
    facts.end_all_leases()  # and then its worker is frozen
    _tell(APPROVED)
    assert _told(post_box) == ["email_verified"]
    owed = end_action(*slow, None)  # the mail has gone out after all
    assert owed == [_action("email_verified").id]
    perform_everything()
    assert _told(post_box) == ["email_verified", "email_verified"]


def test_what_the_last_mail_said_is_not_said_again_by_a_second_worker(post_box: PostBox) -> None:
    facts.applied(PASSED)
    slow = claim_action(_action("email_verified").id or 0)
    assert slow
    facts.end_all_leases()
    assert claim_action(slow[1].id or 0)  # another worker, which dies
    end_action(*slow, None)  # too late to be written down; but the mail has gone out
    perform_everything()
    mail = _action("email_verified")
    assert (_told(post_box), mail.status, mail.reason) == ([], ActionStatus.SKIPPED, "told already")


@pytest.mark.parametrize("dies", [False, True])
def test_what_may_have_been_told_is_not_left_the_last_word(post_box: PostBox, dies: bool) -> None:
    def given_away(mail: Mail) -> None:
        mail.last_look()
        post_box.told["vs_1"].append(mail)
        raise LostClaimError if dies else UnknownOutcomeError

    _tell(OVERRIDDEN)
    facts.applied(PASSED)
    facts.applied(APPROVED)
    post_box.behave = given_away
    perform_everything()  # its worker dies with the server's answer, or no answer comes
    post_box.behave = lambda _: None
    assert _told(post_box) == ["email_retry_prompt", "email_verified"]
    facts.end_all_leases()
    facts.applied(event("requires_input", NOON + 180, code="document_unverified_other", report="vr_1"))
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt", "email_verified", "email_retry_prompt"]
    assert _action("email_verified").reason == "superseded"


def test_what_may_have_been_told_before_another_mail_is_not_the_last_word(post_box: PostBox) -> None:
    def given_away(mail: Mail) -> None:
        mail.last_look()
        post_box.told["vs_1"].append(mail)
        raise UnknownOutcomeError

    facts.applied(OVERRIDDEN)
    post_box.behave = given_away
    perform_everything()
    post_box.behave = lambda _: None
    _tell(APPROVED)
    assert _action("email_retry_prompt").reason == "superseded"
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt", "email_verified"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("change", [retry_rows, discard_rows])
def test_what_may_have_been_told_counts_as_told_whatever_an_operator_does_to_it(
    post_box: PostBox, change: Callable[[type[OutboxAction], Filter, By], Iterator[list[int]]], named: bool
) -> None:
    def given_away(mail: Mail) -> None:
        mail.last_look()
        post_box.told["vs_1"].append(mail)
        raise UnknownOutcomeError

    _tell(OVERRIDDEN)
    facts.applied(APPROVED)
    post_box.behave = given_away
    perform_everything()
    post_box.behave = lambda _: None
    facts.applied(event("requires_input", NOON + 180, code="document_unverified_other", report="vr_1"))
    wanted = Filter(ids=[_action("email_verified").id or 0]) if named else Filter(session_id="vs_1")
    assert list(change(OutboxAction, wanted, BY)) == [[_action("email_verified").id]]
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt", "email_verified", "email_retry_prompt"]
    assert _action("email_verified").status == ActionStatus.SKIPPED


def test_what_may_have_been_told_before_another_mail_is_not_the_last_word_when_it_is_discarded(
    post_box: PostBox,
) -> None:
    def given_away(mail: Mail) -> None:
        mail.last_look()
        raise UnknownOutcomeError

    facts.applied(OVERRIDDEN)
    post_box.behave = given_away
    perform_everything()
    post_box.behave = lambda _: None
    facts.applied(APPROVED)
    perform(_action("email_verified").id or 0)
    assert list(discard_rows(OutboxAction, Filter(ids=[_action("email_retry_prompt").id or 0]), BY))
    perform_everything()
    assert _told(post_box) == ["email_verified"]
    assert "discarded" in (_action("email_retry_prompt").reason or "")


def test_what_was_refused_was_not_told(post_box: PostBox) -> None:
    def refused(mail: Mail) -> None:
        mail.last_look()
        raise RefusedError("451")

    _tell(OVERRIDDEN)
    facts.applied(APPROVED)
    post_box.behave = refused
    perform_everything()
    post_box.behave = lambda _: None
    facts.end_all_leases()
    facts.applied(event("requires_input", NOON + 180, code="document_unverified_other", report="vr_1"))
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt"]


def _limit(environment: pytest.MonkeyPatch, limit: int) -> None:
    environment.setenv("SUBMISSION_LIMIT", str(limit))
    databases.forget_process_state()


def _failures(count: int) -> list[VerificationEvent]:
    return [
        event("requires_input", NOON + number, code="document_expired", report=f"vr_{number}")
        for number in range(count)
    ]


def test_who_is_not_prompted_because_of_a_lowered_limit_is_canceled(
    post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    _limit(environment, 10)
    failures = _failures(3)
    receive(failures)
    process([one.id for one in failures])
    _limit(environment, 3)
    perform_everything()
    owed = {(one.name, one.status, one.reason) for one in facts.actions() if one.cause in (LIMIT_CAUSE, _last_cause())}
    assert ("email_retry_prompt", ActionStatus.SKIPPED, "submission limit") in owed
    assert ("alert_review", ActionStatus.DONE, None) in owed
    assert ("cancel_session", ActionStatus.SKIPPED, "no STRIPE_API_KEY") in owed
    assert _told(post_box) == []


def test_who_was_prompted_before_the_limit_fell_is_found(post_box: PostBox, environment: pytest.MonkeyPatch) -> None:
    _limit(environment, 10)
    _tell(*_failures(3))
    facts.applied(event("requires_input", session_id="vs_2", code="document_expired", report="vr_1"))
    assert judge_limits() == []
    _limit(environment, 3)
    owed = judge_limits()
    assert {facts.action(one).name for one in owed} == {"alert_review", "cancel_session"}
    assert {facts.action(one).session_id for one in owed} == {"vs_1"}
    assert judge_limits() == []
    _tell(event("verified", NOON + 60, report="vr_3"))
    assert _told(post_box)[-1] == "email_verified"


def test_who_was_prompted_because_of_a_raised_limit_is_found_when_it_falls_again(
    post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    _limit(environment, 3)
    facts.applied(*_failures(3))
    _limit(environment, 10)
    perform_everything()
    assert (_told(post_box), judge_limits()) == (["email_retry_prompt"], [])
    _limit(environment, 3)
    owed = judge_limits()
    assert {facts.action(one).name for one in owed} == {"cancel_session"}, "the reviewer has heard of it"
    assert judge_limits() == []


def test_who_is_not_canceled_because_of_a_raised_limit_is_prompted(
    post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    _limit(environment, 3)
    failures = _failures(3)
    receive(failures)
    process([one.id for one in failures])
    _limit(environment, 10)
    perform_everything()
    assert _told(post_box) == ["email_retry_prompt"]
    assert _action("cancel_session").reason == "superseded"


def _last_cause() -> str:
    record = facts.record()
    return f"{record.status}:{record.last_error_code}:{record.last_report_id}"
