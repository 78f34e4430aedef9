"""The console in a browser: sign-in, a person, a change; by sight, by keys, on a phone and without scripts."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.application import Application
from tests.browser.conftest import PASSWORD, Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.browser
LEAST = 24  # pixels of what is touched (WCAG 2.2, 2.5.8)
_TOUCHED = """Array.from(document.querySelectorAll("a, button, input:not([type=hidden])"))
  .map((one) => [one.innerText || one.name, one.getBoundingClientRect().height])"""


def _sign_in(visitor: Visitor, service: Service, name: str, password: str = PASSWORD) -> None:
    visitor.page.goto(f"{service.base}/console")
    visitor.page.get_by_label("Name").fill(name)
    visitor.page.get_by_label("Password").fill(password)
    visitor.page.keyboard.press("Enter")


def _find(visitor: Visitor, word: str) -> None:
    visitor.page.get_by_label("Find").fill(word)
    visitor.page.keyboard.press("Enter")


def _hinders_nobody(visitor: Visitor, picture: str) -> None:
    visitor.take_picture(f"console-{picture}")
    assert visitor.hindrances() == [], picture
    width = visitor.page.viewport_size
    assert width
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width["width"], picture
    assert [one for one in visitor.page.evaluate(_TOUCHED) if one[1] < LEAST] == [], picture


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("light", {"viewport": {"width": 1280, "height": 800}}),
        ("dark", {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}),
        ("narrow", {"viewport": {"width": 320, "height": 640}, "has_touch": True}),
    ],
)
def test_no_page_of_the_console_hinders_anybody(
    name: str, how: Any, visits: Visits, service: Service, application: Application, simulator: Simulator
) -> None:
    verification = application.open(client_reference_id=f"console-{name}")
    simulator.fail(verification.session_id, "document_expired")
    visitor = visits(**how)
    _sign_in(visitor, service, name, "wrong")
    expect(visitor.problem).to_contain_text("not right")
    _hinders_nobody(visitor, f"sign-in-{name}")
    _sign_in(visitor, service, name)
    expect(visitor.page.get_by_role("heading", name="Overview")).to_be_visible()
    _hinders_nobody(visitor, f"overview-{name}")
    _find(visitor, f"console-{name}")
    expect(visitor.page.get_by_role("heading", name=verification.id)).to_be_visible()
    visitor.page.reload()
    _hinders_nobody(visitor, f"person-{name}")
    visitor.page.get_by_role("link", name="New link").click()
    _hinders_nobody(visitor, f"change-{name}")
    visitor.page.get_by_label("Reason").fill("told by phone")
    visitor.button("Make a new link").click()
    expect(visitor.page.get_by_label("Link")).to_have_value(re.compile("/verify/idv_"))
    _hinders_nobody(visitor, f"link-{name}")
    visitor.page.get_by_role("link", name="Lists").click()
    expect(visitor.page.get_by_role("heading", name="Dead actions")).to_be_visible()
    _hinders_nobody(visitor, f"lists-{name}")
    visitor.page.get_by_role("link", name="Audit").click()
    expect(visitor.page.get_by_role("cell", name=verification.id).first).to_be_visible()
    _hinders_nobody(visitor, f"audit-{name}")
    visitor.page.get_by_role("link", name="Checks").click()
    visitor.button("Check it all now").click()
    expect(visitor.page.get_by_role("heading", name=re.compile("The last time|Nothing was asked")).first).to_be_visible(
        timeout=30_000
    )
    _hinders_nobody(visitor, f"checks-{name}")


def test_without_scripts_a_verification_is_canceled_by_keys_alone(
    visits: Visits, service: Service, application: Application
) -> None:
    verification = application.open()
    visitor = visits(java_script_enabled=False)
    _sign_in(visitor, service, "keys")
    _find(visitor, verification.session_id)
    visitor.page.get_by_role("link", name="Cancel").press("Enter")
    visitor.page.get_by_label("Reason").press_sequentially("told by phone")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_role("status")).to_have_text("The session is canceled.")
    visitor.button("Sign out").press("Enter")
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()
    visitor.page.go_back()
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_overview_keeps_itself_up_to_date_and_takes_nothing_away_that_is_in_use(
    visits: Visits, service: Service
) -> None:
    visitor = visits()
    _sign_in(visitor, service, "light")
    page = visitor.page
    expect(page.get_by_role("heading", name="What needs a hand")).to_be_visible()
    page.evaluate("document.querySelector('[data-live] h2').textContent = 'Old'")
    expect(page.get_by_role("heading", name="What needs a hand")).to_be_visible(timeout=30_000)
    page.get_by_text("In numbers").first.click()
    page.evaluate("document.querySelector('[data-live] h2').textContent = 'Old'")
    page.wait_for_timeout(6000)  # longer than it takes to ask again
    expect(page.get_by_role("heading", name="Old")).to_be_visible()
    page.get_by_role("link", name="The last day").press("Enter")
    expect(page.get_by_role("link", name="The last day")).to_have_attribute("aria-current", "true")
