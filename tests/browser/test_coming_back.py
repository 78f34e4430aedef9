"""Coming back: from Stripe, by a button of the browser's, by a mail, with an old link, and in another tab."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.application import Application, Opened
from tests.browser.conftest import Visits
from tests.browser.test_dialog import AT_STRIPE, ON_STATUS, SCRIPTS, go_in
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.browser


def link_in_mail(service: Service, opened: Opened, *, number: int) -> str:
    """The link in the person's mail of this number."""
    service.wait_until(lambda: len(service.mails(opened.email)) >= number)
    (link,) = set(re.findall(r"http\S+/verify/[\w.-]+", service.mails(opened.email)[number - 1].text))
    return str(link)


@pytest.mark.parametrize("java_script_enabled", [True, False])
def test_whoever_comes_back_from_stripe_is_told_what_stripe_says_at_once(
    application: Application, visits: Visits, java_script_enabled: bool
) -> None:
    """Results are often ready by then, even if their events are not there yet."""
    opened = application.open(return_url="https://app.example.com/done")
    visitor = visits(java_script_enabled=java_script_enabled)
    visitor.page.route(SCRIPTS, lambda route: route.abort())
    go_in(visitor, opened.link)
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.pick("pass", at=visitor.page)
    expect(visitor.page).to_have_url(ON_STATUS)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    go_on = visitor.page.get_by_role("link", name="Continue")
    expect(go_on).to_have_attribute("href", "https://app.example.com/done")


def test_a_result_that_takes_its_time_is_shown_when_it_is_there(
    application: Application, visitor: Visitor, simulator: Simulator
) -> None:
    opened = application.open()
    go_in(visitor, opened.link)
    visitor.pick("submit")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is being checked")
    expect(visitor.page.get_by_role("status")).to_have_text("There is no result yet.")
    expect(visitor.problem).to_have_count(0)
    simulator.passed(opened.session_id)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_the_back_button_leads_into_nothing_a_second_time(application: Application, visitor: Visitor) -> None:
    opened = application.open()
    go_in(visitor, opened.link)
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    visitor.page.go_back()
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    expect(visitor.button("Verify my identity")).to_have_count(0)
    visitor.page.reload()
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    visitor.page.go_forward()
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_a_page_out_of_the_browsers_memory_shows_what_is_so_by_now(application: Application, visits: Visits) -> None:
    """The back button brings a page back as it was left, if the browser has kept it so."""
    opened = application.open()
    kept, other = visits(), visits()
    kept.page.goto(opened.link)
    expect(kept.button("Verify my identity")).to_be_visible()
    go_in(other, opened.link)
    other.pick("pass")
    expect(other.page.locator("h1")).to_have_text("Your identity is verified")
    kept.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect(kept.page.locator("h1")).to_have_text("Your identity is verified")


def test_back_from_stripes_page_one_may_go_in_again(application: Application, visits: Visits) -> None:
    visitor = visits()
    visitor.page.route(SCRIPTS, lambda route: route.abort())
    go_in(visitor, application.open().link)
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.page.go_back()
    visitor.button("Verify my identity").click()
    expect(visitor.page).to_have_url(AT_STRIPE)
    visitor.pick("pass", at=visitor.page)
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def test_a_page_that_was_left_open_learns_of_the_other_tab(application: Application, visits: Visits) -> None:
    opened = application.open()
    one, other = visits(), visits()
    one.page.goto(opened.link)
    go_in(other, opened.link)
    other.pick("pass")
    expect(other.page.locator("h1")).to_have_text("Your identity is verified")
    one.button("Verify my identity").click()
    expect(one.page.locator("h1")).to_have_text("Your identity is verified")
    expect(one.page.locator("iframe")).to_have_count(0)


def test_without_javascript_the_other_tab_is_told_the_same(application: Application, visits: Visits) -> None:
    opened = application.open()
    one, other = visits(java_script_enabled=False), visits()
    one.page.goto(opened.link)
    go_in(other, opened.link)
    other.pick("pass")
    expect(other.page.locator("h1")).to_have_text("Your identity is verified")
    one.button("Verify my identity").click()
    expect(one.page.locator("h1")).to_have_text("Your identity is verified")


def test_whoever_failed_tries_again_by_the_link_of_the_mail(
    application: Application, visits: Visits, service: Service
) -> None:
    opened = application.open()
    first = visits()
    go_in(first, opened.link)
    first.pick("fail", "document_expired")
    expect(first.page.locator("h1")).to_have_text("Please verify your identity again")
    later = visits()
    later.page.goto(link_in_mail(service, opened, number=1))
    expect(later.page.locator("h1")).to_have_text("Please verify your identity again")
    expect(later.problem).to_contain_text("expired")
    assert later.hindrances() == []
    later.button("Verify my identity").click()
    later.pick("pass")
    expect(later.page.locator("h1")).to_have_text("Your identity is verified")


def test_a_link_to_what_was_replaced_leads_to_what_is_current(
    application: Application, visitor: Visitor, simulator: Simulator
) -> None:
    opened = application.open(client_reference_id="replaced-in-the-browser")
    link = opened.link
    again = application.open(client_reference_id="replaced-in-the-browser", replaces=opened.session_id)
    assert (again.id, again.session_id != opened.session_id) == (opened.id, True)
    go_in(visitor, link)
    expect(visitor.dialog.locator("#session")).to_have_text(again.session_id)
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")
    assert simulator.session(again.session_id)["status"] == "verified"


def test_what_was_canceled_meanwhile_opens_no_dialog(application: Application, visitor: Visitor) -> None:
    opened = application.open()
    visitor.page.goto(opened.link)
    application.ask("POST", f"/verifications/{opened.id}/cancel?notify=false")
    visitor.button("Verify my identity").click()
    expect(visitor.page.locator("h1")).to_have_text("Your identity verification has ended")
    expect(visitor.page.locator("iframe")).to_have_count(0)
