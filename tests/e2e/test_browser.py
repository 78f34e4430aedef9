"""A person in a browser: the session's url is opened, an outcome is picked, and the record and the mail follow."""

from collections.abc import Iterator

import pytest
import stripe

from tests.e2e.browser import DRIVER, Browser
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver on PATH: apt-get install chromium-driver"),
]
SECRET = "whsec_of_the_endpoint_0000"
OUTCOME = "button[value={}]"


@pytest.fixture(scope="module")
def service(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"STRIPE_API_BASE": simulator.base, "STRIPE_API_KEY": simulator.api_key}
    with Service(tmp_path_factory.mktemp("service"), STRIPE_WEBHOOK_SECRET=SECRET, **settings) as service:
        service.wait_ready()
        simulator.endpoint(service.url, secret=SECRET)
        yield service


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def client(simulator: Simulator) -> stripe.StripeClient:
    return stripe.StripeClient(simulator.api_key, base_addresses={"api": simulator.base})


def test_a_person_fails_and_succeeds_in_the_browser(
    client: stripe.StripeClient, service: Service, browser: Browser
) -> None:
    """As the main application would: create a session, send the person to its url; after a failure to a fresh one."""
    sessions = client.v1.identity.verification_sessions
    session = sessions.create({"type": "document", "provided_details": {"email": "eve@example.com"}})
    open_page(browser, session.url, session.id)
    browser.choose("option[value=document_expired]")
    browser.follow(OUTCOME.format("fail"))
    assert (browser.text("#session"), browser.text("#status")) == (session.id, "requires_input")
    wait_for(service, session.id, "requires_input", "document_expired", mails=1)
    assert "expired" in service.mails("eve@example.com")[0].text
    open_page(browser, sessions.retrieve(session.id).url, session.id)
    browser.follow(OUTCOME.format("pass"))
    assert browser.text("#status") == "verified"
    wait_for(service, session.id, "verified", None, mails=2)
    assert service.mails("eve@example.com")[1].subject == "Your identity is verified"


def test_a_person_who_declines_is_offered_another_way_and_returned(
    client: stripe.StripeClient, service: Service, browser: Browser
) -> None:
    session = client.v1.identity.verification_sessions.create(
        {
            "type": "document",
            "provided_details": {"email": "kim@example.com"},
            "return_url": f"{service.base}/healthz",
        }
    )
    open_page(browser, session.url, session.id)
    browser.follow(OUTCOME.format("decline"))
    assert "ok" in browser.text("body")
    wait_for(service, session.id, "requires_input", "consent_declined", mails=1)
    assert service.actions(session.id) == ["email_alternative done"]


def test_a_static_link_makes_a_record_whose_reference_nobody_vouches_for(
    simulator: Simulator, service: Service, browser: Browser
) -> None:
    browser.open(f"{simulator.flow('vf_1')}?client_reference_id=typed-by-anyone&prefilled_email=lea@example.com")
    session_id = browser.text("#session")
    browser.follow(OUTCOME.format("pass"))
    wait_for(service, session_id, "verified", None, mails=1)
    record = service.record(session_id)
    assert record is not None
    assert (record["client_reference_id"], record["client_reference_trusted"]) == ("typed-by-anyone", 0)
    assert len(service.mails("lea@example.com")) == 1


def open_page(browser: Browser, url: str | None, session_id: str) -> None:
    assert url is not None
    browser.open(url)
    assert browser.text("h1") == "Verify your identity"
    assert browser.text("#session") == session_id


def wait_for(service: Service, session_id: str, status: str, code: str | None, mails: int) -> None:
    def holds() -> bool:
        record = service.record(session_id)
        done = [action for action in service.actions(session_id) if action.endswith(" done")]
        return record is not None and (record["status"], record["last_error_code"], len(done)) == (status, code, mails)

    service.wait_until(holds)
