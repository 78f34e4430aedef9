"""Sessions this service never heard of before: static links, the Dashboard, and events that never come."""

import pytest

from handlers.record.events import Status
from tests.integration.stories import Stories, perform_everything
from tests.property.outside import Application, PostBox
from tests.support import facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "post_box")


def test_a_static_links_reference_is_kept_and_not_trusted(stripe: Stories) -> None:
    session_id = stripe.simulator.create_from_link("somebody_else", email="jenny@example.com")
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    record = facts.record(session_id)
    assert (record.client_reference_id, record.client_reference_trusted) == ("somebody_else", False)
    assert record.user_id is None


@pytest.mark.parametrize("thin", [False, True])
def test_no_event_of_a_static_link_ever_makes_its_reference_trusted(stripe: Stories, thin: bool) -> None:
    session_id = stripe.simulator.create_from_link("somebody_else")
    for code in ("document_expired", "abandoned"):
        stripe.later().simulator.fail(session_id, code)
        stripe.deliver(session_id, thin=thin)
        assert facts.record(session_id).client_reference_trusted is False
    stripe.later().simulator.redact(session_id)
    stripe.deliver(session_id, thin=thin)
    assert facts.record(session_id).client_reference_trusted is False


def test_our_own_sessions_reference_is_trusted(stripe: Stories) -> None:
    session_id = stripe.simulator.create(client_reference_id="user_1", metadata={"user_id": "42"})
    stripe.deliver(session_id)
    record = facts.record(session_id)
    assert (record.client_reference_id, record.client_reference_trusted, record.user_id) == ("user_1", True, "42")


def test_a_person_who_came_by_a_static_link_gets_mails_at_the_address_stripe_knows(
    stripe: Stories, post_box: PostBox
) -> None:
    session_id = stripe.simulator.create_from_link("somebody_else", email="jenny@example.com")
    stripe.later().simulator.fail(session_id, "document_expired")
    stripe.deliver(session_id)
    perform_everything()
    assert [key[:2] for key in post_box.sent] == [(session_id, "email_retry_prompt")]


@pytest.mark.parametrize("first", ["processing", "requires_input", "verified", "canceled"])
def test_a_session_whose_created_event_never_comes_has_a_record(first: str, application: Application) -> None:
    code, report = ("abandoned" if first == "requires_input" else None), ("vr_1" if first == "verified" else None)
    facts.applied(event(first, code=code, report=report))
    perform_everything()
    assert facts.record().status == first
    assert application.taken["vs_1"] == [1]


def test_a_created_event_that_comes_last_changes_nothing(application: Application) -> None:
    facts.applied(event("verified", NOON + 10, report="vr_1"), event("created", NOON))
    perform_everything()
    assert (facts.record().status, facts.record().change_number) == (Status.VERIFIED, 1)
    assert application.taken["vs_1"] == [1]


def test_a_session_superseded_by_a_newer_one_of_the_same_person_keeps_a_record_of_its_own() -> None:
    facts.applied(
        event("requires_input", NOON, session_id="vs_old", code="abandoned", user="42"),
        event("verified", NOON + 10, session_id="vs_new", report="vr_1", user="42"),
    )
    assert {facts.record(one).status for one in ("vs_old", "vs_new")} == {Status.REQUIRES_INPUT, Status.VERIFIED}
    assert facts.record("vs_old").user_id == facts.record("vs_new").user_id == "42"
