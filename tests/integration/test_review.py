"""A reviewer's cases go to the reviewer, and never to the person; overrides are followed, limits end a session."""

import pytest

from config.settings import settings
from handlers.outbox import mails
from handlers.outbox.mails import Mail
from handlers.record.events import Status
from handlers.tables.models import ActionStatus
from tests.integration.stories import Stories, by_name, perform_everything
from tests.property.outside import Application, PostBox
from tests.support import databases, facts
from tests.support.mails import render

pytestmark = pytest.mark.usefixtures("database_url", "post_box")


@pytest.fixture
def sent(environment: pytest.MonkeyPatch, post_box: PostBox) -> list[Mail]:
    """Every mail as it would be sent."""
    assert post_box
    mails_sent: list[Mail] = []
    environment.setattr(mails, "send", mails_sent.append)
    return mails_sent


def _text(mail: Mail) -> str:
    message = render(mail)
    return "\n".join([*message.values(), *(str(part.get_content()) for part in message.iter_parts())])


def _failed(stripe: Stories, times: int, code: str = "document_unverified_other") -> str:
    """A session with so many failed submissions; its news are delivered."""
    session_id = stripe.simulator.create(email="jenny@example.com")
    for _ in range(times):
        stripe.later().simulator.submit(session_id)
        stripe.later().simulator.fail(session_id, code)
    stripe.deliver(session_id)
    return session_id


def test_a_fraud_signal_goes_to_the_reviewer_and_never_to_the_person(stripe: Stories, sent: list[Mail]) -> None:
    session_id = _failed(stripe, 1, "selfie_manipulated")
    perform_everything()
    (alert,) = sent
    assert (alert.template, alert.recipient.mailbox) == ("alert_review", "review@example.com")
    assert session_id in _text(alert)
    assert "selfie_manipulated" in _text(alert)
    assert by_name(session_id).keys() == {"alert_review", "notify_app"}


def test_a_later_mail_says_nothing_of_an_earlier_fraud_signal(stripe: Stories, sent: list[Mail]) -> None:
    session_id = _failed(stripe, 1, "selfie_manipulated")
    stripe.later().simulator.fail(session_id, "document_expired")
    stripe.deliver(session_id)
    perform_everything()
    to_the_person = [mail for mail in sent if mail.recipient.mailbox != "review@example.com"]
    assert [mail.template for mail in to_the_person] == ["email_retry_prompt"]
    for word in ("manipulat", "fraud", "selfie"):
        assert word not in _text(to_the_person[0]).lower()


def test_a_fraud_signal_that_arrives_late_is_still_reviewed(stripe: Stories, sent: list[Mail]) -> None:
    session_id = stripe.simulator.create(email="jenny@example.com")
    stripe.later().simulator.fail(session_id, "selfie_manipulated")
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    facts.applied(*reversed(stripe.news(session_id)))
    perform_everything()
    assert sorted(mail.template for mail in sent) == ["alert_review", "email_verified"]
    assert facts.record(session_id).status == Status.VERIFIED


def test_without_a_reviewer_nobody_is_alerted(
    stripe: Stories, sent: list[Mail], environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("REVIEW_EMAIL")
    databases.forget_process_state()
    session_id = _failed(stripe, 1, "selfie_manipulated")
    perform_everything()
    assert sent == []
    assert by_name(session_id)["alert_review"] == [ActionStatus.SKIPPED]


def test_below_the_limit_the_person_is_asked_again(stripe: Stories, post_box: PostBox) -> None:
    session_id = _failed(stripe, settings().submission_limit - 1)
    perform_everything()
    assert [key[1] for key in post_box.sent] == ["email_retry_prompt"]
    assert stripe.simulator.session(session_id)["status"] == "requires_input"


def test_at_the_limit_no_prompt_a_canceled_session_and_an_alert(stripe: Stories, post_box: PostBox) -> None:
    session_id = _failed(stripe, settings().submission_limit)
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "canceled"
    assert [key[1:] for key in post_box.sent] == [("alert_review", "submission_limit")]
    prompts = by_name(session_id)["email_retry_prompt"]
    assert set(prompts) == {ActionStatus.SKIPPED}
    stripe.deliver(session_id)
    perform_everything()
    assert facts.record(session_id).status == Status.CANCELED
    assert {key[1]: count for key, count in post_box.sent.items()} == {"alert_review": 1, "email_canceled": 1}


def test_a_prompt_that_was_owed_before_the_limit_is_not_sent_after_it(stripe: Stories, post_box: PostBox) -> None:
    session_id = _failed(stripe, settings().submission_limit - 1)
    stripe.later().simulator.fail(session_id, "document_unverified_other")
    stripe.deliver(session_id)
    perform_everything()
    assert "email_retry_prompt" not in {key[1] for key in post_box.sent}


def test_a_prompt_is_not_sent_once_a_late_report_has_reached_the_limit(
    post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SUBMISSION_LIMIT", "2")
    databases.forget_process_state()
    facts.applied(facts.event("requires_input", facts.NOON + 60, code="document_expired", report="vr_2"))
    assert by_name("vs_1")["email_retry_prompt"] == [ActionStatus.PENDING]
    facts.applied(facts.event("requires_input", facts.NOON, code="document_expired", report="vr_1"))
    perform_everything()
    assert by_name("vs_1")["email_retry_prompt"] == [ActionStatus.SKIPPED, ActionStatus.SKIPPED]
    assert {key[1:] for key in post_box.sent} == {("alert_review", "submission_limit")}


@pytest.mark.parametrize("reversed_", [False, True])
def test_the_limit_counts_reports_whatever_the_order(stripe: Stories, post_box: PostBox, reversed_: bool) -> None:
    session_id = stripe.simulator.create()
    for _ in range(settings().submission_limit):
        stripe.later().simulator.submit(session_id)
        stripe.later().simulator.fail(session_id, "document_expired")
    news = stripe.news(session_id)
    facts.applied(*(news[::-1] if reversed_ else news))
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "canceled"
    assert post_box.sent[session_id, "alert_review", "submission_limit"] == 1


def test_failures_without_a_report_never_reach_the_limit(stripe: Stories, post_box: PostBox) -> None:
    session_id = stripe.simulator.create()
    for _ in range(settings().submission_limit + 1):
        stripe.later().simulator.abandon(session_id)
        stripe.deliver(session_id)
        perform_everything()
    assert facts.record(session_id).submissions == 0
    assert stripe.simulator.session(session_id)["status"] == "requires_input"
    assert {key[1] for key in post_box.sent} == {"email_retry_prompt"}


def test_the_cancellation_is_idempotent_when_its_answer_is_lost(stripe: Stories) -> None:
    session_id = _failed(stripe, settings().submission_limit)
    stripe.simulator.fault(500, path="/cancel", after=True)
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.PENDING]
    assert stripe.simulator.session(session_id)["status"] == "canceled"
    perform_everything()
    assert by_name(session_id)["cancel_session"] == [ActionStatus.DONE]
    canceled = [event for event in stripe.simulator.events(session_id) if event["type"].endswith(".canceled")]
    assert len({event["id"] for event in canceled if not event["thin"]}) == 1


@pytest.mark.parametrize("becomes", ["processing", "verified", "canceled"])
def test_only_a_session_that_waits_for_input_is_canceled(stripe: Stories, becomes: str) -> None:
    session_id = _failed(stripe, settings().submission_limit)
    if becomes == "canceled":
        stripe.simulator.cancel(session_id)
    else:
        stripe.simulator.submit(session_id)
        if becomes == "verified":
            stripe.simulator.passed(session_id)
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == becomes
    assert by_name(session_id)["cancel_session"] == [
        ActionStatus.DONE if becomes == "canceled" else ActionStatus.SKIPPED
    ]


def test_a_session_that_passed_at_last_is_not_canceled(stripe: Stories, post_box: PostBox) -> None:
    session_id = _failed(stripe, settings().submission_limit - 1)
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    perform_everything()
    assert facts.record(session_id).submissions == settings().submission_limit
    assert stripe.simulator.session(session_id)["status"] == "verified"
    assert by_name(session_id)["cancel_session"] == [ActionStatus.SKIPPED]
    assert {key[1] for key in post_box.sent} == {"email_verified"}


def test_an_override_after_the_limit_cancels_after_all(stripe: Stories, post_box: PostBox) -> None:
    session_id = _failed(stripe, settings().submission_limit - 1)
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    perform_everything()
    stripe.later().simulator.override(session_id, "requires_input")
    stripe.deliver(session_id)
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "canceled"
    assert post_box.sent[session_id, "alert_review", "submission_limit"] == 1


def test_an_override_is_followed_both_ways_and_told(stripe: Stories, application: Application) -> None:
    session_id = stripe.simulator.create(email="jenny@example.com")
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    for to in ("requires_input", "verified", "requires_input"):
        stripe.later().simulator.override(session_id, to)
        stripe.deliver(session_id)
        perform_everything()
        assert facts.record(session_id).status == to
    told = [caught.event["data"]["status"] for caught in application.caught]
    assert told[-4:] == ["verified", "requires_input", "verified", "requires_input"]
    assert application.taken[session_id] == list(range(1, len(told) + 1))


def test_a_late_failure_does_not_take_a_verification_back(stripe: Stories, post_box: PostBox) -> None:
    session_id = stripe.simulator.create()
    stripe.later().simulator.fail(session_id, "document_expired")
    failure = stripe.news(session_id)
    stripe.later().simulator.passed(session_id)
    facts.applied(*stripe.news(session_id), *failure)
    perform_everything()
    assert facts.record(session_id).status == Status.VERIFIED
    assert {key[1] for key in post_box.sent} == {"email_verified"}


def test_the_reviewers_link_leads_to_the_mode_of_the_session(sent: list[Mail]) -> None:
    for livemode in (False, True):
        facts.applied(
            facts.event("requires_input", session_id=f"vs_{livemode}", code="selfie_manipulated", livemode=livemode)
        )
    perform_everything()
    links = {mail.key[0]: mail.about.dashboard_url for mail in sent}
    sessions = "identity/verification-sessions"
    assert links == {
        "vs_False": f"https://dashboard.stripe.com/test/{sessions}/vs_False",
        "vs_True": f"https://dashboard.stripe.com/{sessions}/vs_True",
    }


def test_without_a_key_nothing_is_canceled_and_the_alert_goes_out(post_box: PostBox) -> None:
    assert not settings().stripe_api_key
    for number in range(settings().submission_limit):
        facts.applied(
            facts.event("requires_input", facts.NOON + number, code="document_expired", report=f"vr_{number}")
        )
    perform_everything()
    assert by_name("vs_1")["cancel_session"] == [ActionStatus.SKIPPED]
    assert post_box.sent["vs_1", "alert_review", "submission_limit"] == 1
