"""Going in: the button, Stripe's dialog at its production address, and each result and hindrance of it."""

import re
from datetime import UTC, datetime, timedelta

import httpx2 as httpx
import pytest
from playwright.sync_api import Route, expect

from tests.browser.addresses import Addresses
from tests.browser.application import Application
from tests.browser.conftest import FRAMES, Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.browser

SCRIPTS = re.compile(r"https://js\.stripe\.com/(?!js/)")  # but not the dialog's frame
AT_STRIPE = re.compile(r"https://verify\.stripe\.com/start/")
ON_STATUS = re.compile(r"/status")
# A Stripe.js whose dialog has a frame of an origin that is not always allowed.
FRAMING = f"""
    window.Stripe = () => ({{verifyIdentity: () => new Promise(() => {{
      const frame = document.createElement("iframe");
      frame.src = "{FRAMES}/modal";
      document.body.append(frame);
    }})}});
"""


def go_in(visitor: Visitor, link: str) -> None:
    """Opens the page, and presses its one button."""
    visitor.page.goto(link)
    expect(visitor.page.locator("h1")).to_have_text("Verify your identity")
    visitor.button("Verify my identity").click()


def test_whoever_succeeds_in_the_dialog_is_shown_what_the_record_says(
    application: Application, visitor: Visitor
) -> None:
    opened = application.open()
    go_in(visitor, opened.link)
    visitor.pick("pass")
    expect(visitor.page).to_have_url(ON_STATUS)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_stripes_script_comes_with_the_click_and_is_not_told_the_link(
    application: Application, visitor: Visitor, addresses: Addresses
) -> None:
    """Each frame of Stripe.js has the page's address behind its `#`, and the link is in that."""
    opened = application.open()
    asked = len(addresses.asked)
    visitor.page.goto(opened.link, wait_until="networkidle")
    assert addresses.asked[asked:] == []
    visitor.button("Verify my identity").click()
    expect(visitor.dialog.locator("#session")).to_be_visible()
    assert addresses.asked[asked].host == "js.stripe.com"
    assert [frame.url for frame in visitor.page.frames[1:] if opened.id in frame.url] == []


def test_a_success_that_only_the_browser_claims_shows_nothing(
    application: Application, visitor: Visitor, simulator: Simulator
) -> None:
    """Stripe.js answers `verificationSession` for each submission; a person who forges it gains a page that waits."""
    forged = (
        "window.Stripe = () => ({verifyIdentity: () => Promise.resolve({verificationSession: {status: 'verified'}})})"
    )
    visitor.page.route(SCRIPTS, lambda route: route.fulfill(body=forged, content_type="text/javascript"))
    opened = application.open()
    go_in(visitor, opened.link)
    expect(visitor.page).to_have_url(ON_STATUS)
    expect(visitor.page.locator("h1")).not_to_have_text("Your identity is verified")
    assert simulator.session(opened.session_id)["status"] == "requires_input"


def test_the_policy_is_that_of_production_and_a_local_stripes_origin(
    application: Application, simulator: Simulator
) -> None:
    """So the browser allows in production what it allows here: no part of the dialog has the local Stripe's address."""
    with httpx.Client(timeout=PATIENCE) as client:
        policy = client.get(application.open().link).headers["content-security-policy"]
    assert policy.replace(f" {simulator.base}", "") == (
        "default-src 'none'; script-src 'self' https://js.stripe.com https://*.js.stripe.com; "
        "frame-src https://js.stripe.com https://*.js.stripe.com https://hooks.stripe.com https://verify.stripe.com; "
        "connect-src 'self' https://api.stripe.com; style-src 'self'; img-src 'self'; "
        "form-action 'self' https://verify.stripe.com; base-uri 'none'; frame-ancestors 'none'"
    )


def test_the_stand_in_at_its_own_address_does_the_same(
    application: Application, visitor: Visitor, addresses: Addresses, local_web: str
) -> None:
    """A developer clicks through it in this way, with `make stripe` and `make run`."""
    asked = len(addresses.asked)
    go_in(visitor, application.open().link.replace(application.base, local_web))
    visitor.pick("fail", "document_expired")
    expect(visitor.problem).to_contain_text("expired")
    visitor.button("Verify my identity").click()
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    assert addresses.asked[asked:] == []


def test_a_failure_after_the_dialog_is_told_with_what_helps(application: Application, visitor: Visitor) -> None:
    go_in(visitor, application.open().link)
    visitor.pick("fail", "document_expired")
    expect(visitor.page.locator("h1")).to_have_text("Please verify your identity again")
    expect(visitor.problem).to_contain_text("expired")
    expect(visitor.problem).to_be_focused()


def test_whoever_submits_from_a_page_of_long_ago_is_shown_no_failure_of_meanwhile(
    application: Application, visitor: Visitor, service: Service, simulator: Simulator
) -> None:
    opened = application.open()
    visitor.page.goto(opened.link)
    stale = visitor.page.locator("#verify").get_attribute("data-status")
    simulator.fail(opened.session_id, "document_expired")
    service.wait_until(lambda: application.ask("GET", f"/verifications/{opened.id}")["submissions"] == 1)
    with visitor.page.expect_response(lambda answer: answer.request.method == "POST") as entered:
        visitor.button("Verify my identity").click()
    status = entered.value.json()["status"]
    with visitor.page.expect_request(ON_STATUS) as asked:
        visitor.pick("submit")
    assert asked.value.url == application.base + status
    assert status != stale


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ("decline", "another way"),
        ("refuse-camera", "camera"),
        ("under-age", "age"),
        ("decline-phone", "phone"),
        ("decline-email", "email"),
        ("a_code_of_tomorrow", "Something new has happened."),
    ],
)
def test_an_error_of_the_dialog_has_its_sentence_and_the_focus(
    application: Application, visitor: Visitor, outcome: str, says: str
) -> None:
    go_in(visitor, application.open().link)
    visitor.pick(outcome)
    expect(visitor.problem).to_contain_text(says, ignore_case=True)
    expect(visitor.problem).to_contain_text("There is a problem")
    expect(visitor.problem).to_be_focused()
    assert visitor.hindrances() == []


def test_whoever_closes_the_dialog_may_go_on_at_once(
    application: Application, visitor: Visitor, simulator: Simulator
) -> None:
    opened = application.open()
    go_in(visitor, opened.link)
    visitor.pick("close")
    expect(visitor.page.get_by_role("status")).to_have_text("You can go on when you like.")
    expect(visitor.problem).to_have_count(0)
    assert visitor.hindrances() == []
    visitor.button("Verify my identity").click()
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    assert simulator.session(opened.session_id)["status"] == "verified"


def test_a_double_click_opens_one_dialog_with_one_secret(
    application: Application, visitor: Visitor, service: Service
) -> None:
    opened = application.open()
    visitor.page.goto(opened.link)
    with visitor.page.expect_response(lambda answer: answer.request.method == "POST"):
        visitor.button("Verify my identity").dblclick()
    expect(visitor.dialog.locator("#session")).to_be_visible()
    expect(visitor.page.locator("iframe")).to_have_count(1)
    assert service.text().count("verification.entered") >= 1
    entered = [line for line in service.text().splitlines() if "verification.entered" in line and opened.id in line]
    assert len(entered) == 1


@pytest.mark.parametrize(
    "script",
    [
        "throw new Error('broken')",
        "window.Stripe = () => ({verifyIdentity: () => { throw new Error('broken'); }})",
    ],
)
def test_where_stripes_script_is_broken_the_form_leads_to_stripe(
    application: Application, visits: Visits, script: str
) -> None:
    visitor = visits(complaint="broken")
    visitor.page.route(SCRIPTS, lambda route: route.fulfill(body=script, content_type="text/javascript"))
    go_in(visitor, application.open().link)
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.pick("pass", at=visitor.page)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_where_stripes_script_is_blocked_the_form_leads_to_stripe(application: Application, visitor: Visitor) -> None:
    visitor.page.route(SCRIPTS, lambda route: route.abort("blockedbyclient"))
    go_in(visitor, application.open().link)
    expect(visitor.page).to_have_url(AT_STRIPE)


def test_where_stripes_script_never_comes_the_form_leads_to_stripe(application: Application, visitor: Visitor) -> None:
    held: list[Route] = []
    visitor.page.route(SCRIPTS, lambda route: held.append(route))
    visitor.page.goto(application.open().link, wait_until="domcontentloaded")
    visitor.button("Verify my identity").click()
    expect(visitor.page).to_have_url(AT_STRIPE)
    assert held


def test_a_script_that_comes_late_still_opens_the_dialog(application: Application, visitor: Visitor) -> None:
    held: list[Route] = []
    visitor.page.clock.install()
    visitor.page.route(SCRIPTS, lambda route: held.append(route))
    visitor.page.goto(application.open().link, wait_until="domcontentloaded")
    visitor.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))  # late is not too late, on a slow machine
    visitor.button("Verify my identity").click()
    expect(visitor.page.get_by_role("status")).not_to_be_empty()
    while not held:
        visitor.page.wait_for_timeout(20)
    for route in held:
        route.continue_()
    visitor.pick("pass")
    visitor.page.clock.resume()
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_a_dialog_that_the_policy_blocks_falls_back_to_the_redirect(application: Application, visits: Visits) -> None:
    """Stripe documents not every origin that its dialog frames: one that CSP_EXTRA lacks must stop nobody."""
    visitor = visits(complaint="frame-src")
    visitor.page.route(SCRIPTS, lambda route: route.fulfill(body=FRAMING, content_type="text/javascript"))
    go_in(visitor, application.open().link)
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.pick("pass", at=visitor.page)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    assert visitor.complaints != []


def test_a_dialog_whose_origin_csp_extra_names_stays_on_the_page(
    application: Application, visitor: Visitor, simulator: Simulator, local_web: str
) -> None:
    script, frame = f"{simulator.base}/js/stripe.js", f"{FRAMES}/modal"
    visitor.page.clock.install()
    visitor.page.route(script, lambda route: route.fulfill(body=FRAMING, content_type="text/javascript"))
    visitor.page.route(frame, lambda route: route.fulfill(body="<p>Show your document", content_type="text/html"))
    link = application.open().link.replace(application.base, local_web)
    go_in(visitor, link)
    expect(visitor.page.frame_locator(f'iframe[src="{frame}"]').locator("p")).to_have_text("Show your document")
    visitor.page.clock.run_for(30_000)  # longer than the page waits for anything
    expect(visitor.page).to_have_url(link)


def test_a_script_of_a_foreign_origin_does_not_run(application: Application, visits: Visits) -> None:
    visitor = visits(complaint="script-src")
    visitor.page.goto(application.open().link)
    visitor.page.evaluate(
        """() => new Promise(resolve => {
            const script = document.createElement("script");
            script.src = "https://elsewhere.stripe.com/foreign.js";
            script.onerror = script.onload = resolve;
            document.head.append(script);
            const inline = document.createElement("script");
            inline.textContent = "window.foreign = true";
            document.head.append(inline);
        })"""
    )
    assert visitor.page.evaluate("window.foreign") is None
    assert len(visitor.complaints) >= 2


def test_without_javascript_the_form_leads_to_stripe_and_back(application: Application, visits: Visits) -> None:
    visitor = visits(java_script_enabled=False)
    go_in(visitor, application.open().link)
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.pick("submit", at=visitor.page)
    expect(visitor.page).to_have_url(ON_STATUS)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is being checked")
