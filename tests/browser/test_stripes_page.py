"""Stripe's own page, where a session's url or a static link leads: an outcome is picked, and record and mail follow."""

import pytest
import stripe
from playwright.sync_api import expect

from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.browser


@pytest.fixture
def client(simulator: Simulator) -> stripe.StripeClient:
    return stripe.StripeClient(simulator.api_key, base_addresses={"api": simulator.base})


def test_a_person_fails_and_succeeds(client: stripe.StripeClient, service: Service, visitor: Visitor) -> None:
    """As an application would: creates a session, sends the person to its url, and after a failure to a fresh one."""
    sessions = client.v1.identity.verification_sessions
    session = sessions.create({"type": "document", "provided_details": {"email": "eve@example.com"}})
    open_page(visitor, session.url, session.id)
    visitor.pick("fail", "document_expired", at=visitor.page)
    expect(visitor.page.locator("#session")).to_have_text(session.id)
    expect(visitor.page.locator("#status")).to_have_text("requires_input")
    wait_for(service, session.id, "requires_input", "document_expired", mails=1)
    assert "expired" in service.mails("eve@example.com")[0].text
    open_page(visitor, sessions.retrieve(session.id).url, session.id)
    visitor.pick("pass", at=visitor.page)
    expect(visitor.page.locator("#status")).to_have_text("verified")
    wait_for(service, session.id, "verified", None, mails=2)
    assert service.mails("eve@example.com")[1].subject == "Your identity is verified"


def test_a_person_who_declines_is_offered_another_way_and_returned(
    client: stripe.StripeClient, service: Service, visitor: Visitor
) -> None:
    session = client.v1.identity.verification_sessions.create(
        {
            "type": "document",
            "provided_details": {"email": "kim@example.com"},
            "return_url": f"{service.base}/healthz",
        }
    )
    open_page(visitor, session.url, session.id)
    visitor.pick("decline", at=visitor.page)
    expect(visitor.page.locator("body")).to_contain_text("ok")
    wait_for(service, session.id, "requires_input", "consent_declined", mails=1)
    assert mails_of(service, session.id) == ["email_alternative done"]


def test_a_static_link_makes_a_record_whose_reference_nobody_vouches_for(
    simulator: Simulator, service: Service, visitor: Visitor
) -> None:
    visitor.page.goto(f"{simulator.flow('vf_1')}?client_reference_id=typed-by-anyone&prefilled_email=lea@example.com")
    session_id = visitor.page.locator("#session").inner_text()
    visitor.pick("pass", at=visitor.page)
    wait_for(service, session_id, "verified", None, mails=1)
    record = service.record(session_id)
    assert record is not None
    assert (record["client_reference_id"], record["client_reference_trusted"]) == ("typed-by-anyone", 0)
    assert len(service.mails("lea@example.com")) == 1


def test_a_url_that_was_used_says_so(client: stripe.StripeClient, visits: Visits) -> None:
    session = client.v1.identity.verification_sessions.create({"type": "document"})
    one, other = visits(), visits()
    for visitor in (one, other):
        open_page(visitor, session.url, session.id)
    one.pick("close", at=one.page)
    other.pick("pass", at=other.page)
    expect(other.page.locator("h1")).to_have_text("This link no longer works")


def open_page(visitor: Visitor, url: str | None, session_id: str) -> None:
    assert url is not None
    visitor.page.goto(url)
    expect(visitor.page.locator("h1")).to_have_text("Verify your identity")
    expect(visitor.page.locator("#session")).to_have_text(session_id)


def wait_for(service: Service, session_id: str, status: str, code: str | None, mails: int) -> None:
    def holds() -> bool:
        record = service.record(session_id)
        done = [mail for mail in mails_of(service, session_id) if mail.endswith(" done")]
        return record is not None and (record["status"], record["last_error_code"], len(done)) == (status, code, mails)

    service.wait_until(holds)


def mails_of(service: Service, session_id: str) -> list[str]:
    return [action for action in service.actions(session_id) if action.startswith("email_")]
