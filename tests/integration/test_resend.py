"""A done or skipped action is done once more, on purpose; the last mail still says what the record says."""

import pytest
from sqlalchemy import update

from config.database import transaction
from handlers.operator.audit import By, Way, audited
from handlers.operator.resend import resend
from handlers.outbox.mails import Mail, message_id
from handlers.outbox.perform import perform
from handlers.queue.failures import UnknownOutcomeError
from handlers.record.events import VerificationEvent
from handlers.tables.models import ActionStatus, OutboxAction
from tests.integration.stories import perform_everything
from tests.property.outside import PostBox
from tests.support import facts
from tests.support.facts import NOON, event
from tests.support.mails import render
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "post_box")
ANNA = By(who="anna", way=Way.CONSOLE, reason="she never got it")
PASSED = event("verified", NOON, report="vr_1")
OVERRIDDEN = event("requires_input", NOON + 60, code="document_unverified_other", report="vr_1")
APPROVED = event("verified", NOON + 120, report="vr_1")


def _sent(post_box: PostBox, session_id: str = "vs_1") -> list[str]:
    return [str(render(mail)["Message-ID"]) for mail in post_box.told[session_id]]


def _mail(name: str = "email_verified", session_id: str = "vs_1") -> OutboxAction:
    return next(one for one in facts.actions(session_id) if one.name == name)


def _id(name: str = "email_verified") -> int:
    action_id = _mail(name).id
    assert action_id
    return action_id


def _told(*events: VerificationEvent) -> None:
    for one in events:
        facts.applied(one)
        perform_everything()


def test_a_mail_that_is_done_goes_out_once_more_with_another_message_id(post_box: PostBox) -> None:
    _told(PASSED)
    said = command("resend", str(_id()), "--reason", "she never got it", "--json")
    assert (said.code, said.json) == (0, {"resent": [_id()], "refused": {}})
    perform_everything()
    first, second = _sent(post_box)
    assert first != second
    row, record = _mail(), facts.record()
    assert (row.status, row.resent_at is None) == (ActionStatus.DONE, False)
    assert message_id(row, record) == second
    assert (record.told_cause, record.told_count) == (row.cause, 2)
    assert [(one.what, one.about, one.reason) for one in audited()] == [
        ("resend", f"vs_1 {row.id}", "she never got it")
    ]


def test_after_that_nobody_is_told_the_same_again_by_itself(post_box: PostBox) -> None:
    _told(PASSED)
    assert resend([_id()], ANNA) == {_id(): None}
    perform_everything()
    _told(event("processing", NOON + 30), event("verified", NOON + 40, report="vr_1"))
    assert len(_sent(post_box)) == 2
    assert perform(_id()) == []
    assert len(_sent(post_box)) == 2


def test_what_the_record_contradicts_is_refused(post_box: PostBox) -> None:
    _told(PASSED, OVERRIDDEN)
    assert resend([_id()], ANNA) == {_id(): "superseded, as its session stood otherwise by then"}
    assert command("resend", str(_id()), "--reason", "test").code == 1
    assert _mail().status == ActionStatus.DONE
    assert len(_sent(post_box)) == 2
    assert audited() == []


def test_what_the_record_contradicts_by_then_is_skipped(post_box: PostBox) -> None:
    _told(PASSED)
    resend([_id()], ANNA)
    _told(OVERRIDDEN)
    assert (_mail().reason, [mail.template for mail in post_box.told["vs_1"]]) == (
        "superseded",
        ["email_verified", "email_retry_prompt"],
    )
    _told(APPROVED)
    assert _mail().resent_at is None, "it is owed by the record again, and by nobody else"
    assert [mail.template for mail in post_box.told["vs_1"]][2:] == ["email_verified"]


def test_nobody_who_is_forgotten_is_mailed(post_box: PostBox) -> None:
    _told(PASSED, event("redacted", NOON + 60))
    assert resend([_id()], ANNA) == {_id(): "redacted, as the person is forgotten"}
    assert len(_sent(post_box)) == 1


def test_what_is_skipped_is_done(post_box: PostBox) -> None:
    facts.applied(PASSED)
    command("discard", str(_id()), "--reason", "by mistake")
    assert resend([_id()], ANNA) == {_id(): None}
    perform_everything()
    assert len(_sent(post_box)) == 1


def test_what_waits_or_is_dead_is_no_matter_of_sending_again() -> None:
    facts.applied(PASSED)
    for status in (ActionStatus.PENDING, ActionStatus.DEAD):
        with transaction() as session:
            session.connection().execute(update(OutboxAction).values(status=status))
        assert resend([_id()], ANNA) == {_id(): "it is not at its end: python -m worker retry"}
    assert resend([4711], ANNA) == {4711: "there is no such action"}


def test_several_are_taken_one_by_one() -> None:
    _told(PASSED)
    said = command("resend", str(_id()), "4711", "--reason", "test", "--json")
    assert (said.code, said.json) == (1, {"resent": [_id()], "refused": {"4711": "there is no such action"}})


def test_a_reviewer_gets_another_message_id_too(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REVIEW_EMAIL", "review@example.com")
    _told(event("requires_input", NOON, code="selfie_manipulated", report="vr_1"))
    before = message_id(_mail("alert_review"), facts.record())
    resend([_id("alert_review")], ANNA)
    assert message_id(_mail("alert_review"), facts.record()) != before


def test_a_session_says_why_there_are_two_mails(post_box: PostBox) -> None:
    _told(PASSED)
    resend([_id()], ANNA)
    perform_everything()
    [mail] = command("session", "vs_1", "--json").json[0]["mails"]
    assert (mail["message_id"], mail["attempts"]) == (_sent(post_box)[1], 2)
    assert "an operator had it sent again" in mail["why"]
    assert mail["why"].endswith("a copy from before has another id")
    assert "tried 2 times, 1 of them not counted, " in command("session", "vs_1").out


def test_a_state_that_came_back_says_why_there_are_two_mails() -> None:
    _told(PASSED, OVERRIDDEN, APPROVED)
    by_name = {mail["name"]: mail for mail in command("session", "vs_1", "--json").json[0]["mails"]}
    assert "after the person was told another one: email_retry_prompt" in by_name["email_verified"]["why"]
    assert "came back" not in by_name["email_retry_prompt"]["why"]


def test_a_mail_that_was_late_did_not_come_back(post_box: PostBox) -> None:
    """It became owed while another one was on its way, and went out once."""

    def meanwhile(mail: Mail) -> None:
        if mail.template == "email_retry_prompt":
            facts.applied(PASSED)

    facts.applied(event("requires_input", NOON - 60, code="document_expired", report="vr_0"))
    post_box.behave = meanwhile
    perform_everything()
    perform_everything()
    assert [mail.template for mail in post_box.told["vs_1"]] == ["email_retry_prompt", "email_verified"]
    [verified] = [
        mail for mail in command("session", "vs_1", "--json").json[0]["mails"] if mail["name"] == "email_verified"
    ]
    assert "came back" not in verified["why"]


@pytest.mark.parametrize(
    ("story", "name", "to", "why"),
    [
        ([PASSED], "email_verified", "the person", "sent since the person is verified (vr_1)"),
        (
            [event("requires_input", NOON, code="document_expired", report="vr_1")],
            "email_retry_prompt",
            "the person",
            "sent since the check failed: document_expired (vr_1)",
        ),
        ([event("canceled", NOON)], "email_canceled", "the person", "sent since the session was canceled"),
        (
            [event("requires_input", NOON, code="selfie_manipulated", report="vr_1")],
            "alert_review",
            "the reviewer",
            "sent since the check failed: selfie_manipulated (vr_1)",
        ),
        (
            [OVERRIDDEN, APPROVED, event("requires_input", NOON + 50, code="document_expired", report="vr_0")],
            "email_retry_prompt",
            "the person",
            "not sent: superseded, as its session stood otherwise by then; "
            "owed since the check failed: document_expired (vr_0)",
        ),
    ],
)
def test_a_session_says_in_a_sentence_why_a_mail_went_out_or_did_not(
    story: list[VerificationEvent], name: str, to: str, why: str
) -> None:
    _told(*story)
    found = [
        (mail["to"], mail["why"])
        for mail in command("session", "vs_1", "--json").json[0]["mails"]
        if mail["name"] == name
    ]
    assert (to, why) in found


def test_a_mail_whose_outcome_nobody_knows_may_have_arrived_twice(post_box: PostBox) -> None:
    def is_silent(_: Mail) -> None:
        raise UnknownOutcomeError("the SMTP server has the mail and did not say what became of it")

    facts.applied(PASSED)
    post_box.behave = is_silent
    perform(_id())
    [mail] = command("session", "vs_1", "--json").json[0]["mails"]
    assert "may have arrived more than once" in mail["why"]
    assert (mail["sent_at"], mail["message_id"]) == (None, message_id(_mail(), facts.record()))
