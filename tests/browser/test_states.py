"""Each page as people have it: in the light and the dark, in three languages, narrow, enlarged, by keyboard alone.

axe finds no hindrance on any, and a picture of each is under var/pages for somebody to look at.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.application import DAY, Application, token
from tests.browser.conftest import Visits
from tests.browser.test_dialog import AT_STRIPE, SCRIPTS, go_in
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 1024}, {"width": 320, "height": 256}  # NARROW is WIDE at 400 %
TARGET = 44  # pixels, the least height of a thing that is pressed


class Stage:
    """Brings a verification into a state; each function returns the address of its page then."""

    def __init__(self, application: Application, simulator: Simulator, service: Service) -> None:
        self._application, self._simulator, self._service = application, simulator, service

    def todo(self) -> str:
        return self._after()

    def failed(self) -> str:
        return self._after("submit", "fail:document_expired")

    def abandoned(self) -> str:
        return self._after("abandon")

    def declined(self) -> str:
        return self._after("decline")

    def fraud(self) -> str:
        return self._after("submit", "fail:selfie_manipulated")

    def opening(self) -> str:
        opened = self._application.open()
        file = self._service.folder / "var" / "identity.db"
        with closing(sqlite3.connect(file, timeout=30)) as database, database:  # as its opener's death leaves it
            database.execute("UPDATE verification SET session_id = NULL WHERE id = ?", (opened.id,))
        return opened.link

    def processing(self) -> str:
        return self._after("submit") + "/status"

    def verified(self) -> str:
        return self._after("submit", "pass")

    def verified_and_back(self) -> str:
        return self._after("submit", "pass", return_url="https://app.example.com/done")

    def ended(self) -> str:
        return self._after("cancel")

    def limit(self) -> str:
        return self._after(*("submit", "fail:document_unverified_other") * 3)

    def redacted(self) -> str:
        return self._after("submit", "pass", "redact")

    def expired(self) -> str:
        return f"{self._application.base}/verify/{token(self._application.open().id, age=8 * DAY)}"

    def no_link(self) -> str:
        return f"{self._application.base}/verify/idv_0.x.y"

    def returned(self) -> str:
        return f"{self._application.base}/return/{self._application.open().id}.of-a-key-that-is-gone"

    def _after(self, *steps: str, **params: Any) -> str:
        opened = self._application.open(**params)
        for step in steps:
            action, _, code = step.partition(":")
            more = {"code": code} if code else {"finish": True} if action == "redact" else {}
            self._simulator.act(opened.session_id, action, **more)
        self._service.wait_until(lambda: self._simulator.settled()["settled"] and self._service.is_quiet())
        return opened.link


STATES: dict[str, tuple[Callable[[Stage], str], int, str]] = {
    "todo": (Stage.todo, 200, "Verify your identity"),
    "failed": (Stage.failed, 200, "Please verify your identity again"),
    "abandoned": (Stage.abandoned, 200, "Please finish verifying your identity"),
    "declined": (Stage.declined, 200, "About your identity verification"),
    "fraud": (Stage.fraud, 200, "About your identity verification"),
    "opening": (Stage.opening, 200, "Your identity verification is being prepared"),
    "processing": (Stage.processing, 200, "Your identity is being checked"),
    "verified": (Stage.verified, 200, "Your identity is verified"),
    "verified-and-back": (Stage.verified_and_back, 200, "Your identity is verified"),
    "ended": (Stage.ended, 410, "Your identity verification has ended"),
    "limit": (Stage.limit, 410, "Your identity verification has ended"),
    "redacted": (Stage.redacted, 410, "This verification has been deleted"),
    "expired": (Stage.expired, 410, "This link has expired"),
    "no-link": (Stage.no_link, 404, "This link does not work"),
    "returned": (Stage.returned, 200, "You are back from Stripe"),
}


@pytest.fixture
def stage(application: Application, simulator: Simulator, service: Service) -> Stage:
    return Stage(application, simulator, service)


@pytest.mark.parametrize("state", STATES)
def test_a_state_has_its_page_which_hinders_nobody(stage: Stage, visitor: Visitor, state: str) -> None:
    reach, status, heading = STATES[state]
    url = reach(stage)
    answer = visitor.page.goto(url)
    assert answer is not None
    assert answer.status == status
    expect(visitor.page.locator("h1")).to_have_text(heading)
    look_from_all_sides(visitor, url, state)


def look_from_all_sides(visitor: Visitor, url: str, name: str) -> None:
    """Checks the page in each language and its direction, in a light or a dark scheme, wide or narrow."""
    for language, direction, scheme, size in (
        ("en", "ltr", "light", WIDE),
        ("en", "ltr", "dark", NARROW),
        ("de", "ltr", "light", NARROW),
        ("ar", "rtl", "dark", WIDE),
        ("ar", "rtl", "light", NARROW),
    ):
        visitor.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        visitor.page.set_viewport_size({"width": size["width"], "height": size["height"]})
        visitor.page.goto(f"{url}?lang={language}")
        check_page(visitor, language, direction)
        visitor.take_picture(f"{name}-{language}-{scheme}-{size['width']}")


def check_page(visitor: Visitor, language: str, direction: str) -> None:
    """Asserts the things that each page must have."""
    page = visitor.page
    assert visitor.hindrances() == []
    html = page.locator("html")
    expect(html).to_have_attribute("lang", language)
    expect(html).to_have_attribute("dir", direction)
    assert page.title().startswith(page.locator("h1").inner_text())
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    pressed = page.locator("button:visible, a.button:visible")
    heights = pressed.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert [height for height in heights if height < TARGET] == []


def test_where_stripe_is_away_the_page_says_so_and_asks_to_wait(
    application: Application, simulator: Simulator, visitor: Visitor
) -> None:
    visitor.page.route(SCRIPTS, lambda route: route.abort())
    opened = application.open()
    visitor.page.goto(opened.link)
    simulator.fault(503, count=None, path=opened.session_id, name="away")
    try:
        with visitor.page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            visitor.button("Verify my identity").click()
        assert answered.value.status == 503
        assert int(answered.value.headers["retry-after"]) > 0
        expect(visitor.page.locator("h1")).to_have_text("Please try again in a minute")
        assert visitor.hindrances() == []
        visitor.take_picture("away")
    finally:
        simulator.take_back("away")
    visitor.page.get_by_role("link", name="Try again").click()
    visitor.button("Verify my identity").click()
    expect(visitor.page).to_have_url(AT_STRIPE)


def test_who_tries_too_often_is_asked_to_wait(application: Application, visitor: Visitor) -> None:
    visitor.page.route(SCRIPTS, lambda route: route.abort())
    opened = application.open()
    statuses = [visitor.context.request.post(opened.link, max_redirects=0).status for _ in range(30)]
    assert statuses[0] == 303
    assert statuses[-1] == 429
    visitor.page.goto(opened.link)
    visitor.button("Verify my identity").click()
    expect(visitor.page.locator("h1")).to_have_text("Please wait a minute")
    assert visitor.hindrances() == []
    visitor.take_picture("busy")


@pytest.mark.parametrize(
    ("locale", "given", "query", "heading"),
    [
        ("de-AT", {}, "", "Bestätigen Sie Ihre Identität"),
        ("en-GB", {"locale": "de-CH"}, "", "Bestätigen Sie Ihre Identität"),
        ("de-DE", {"locale": "de"}, "?lang=en", "Verify your identity"),
        ("fr-FR", {}, "", "Verify your identity"),
    ],
)
def test_a_page_is_in_the_persons_language(
    application: Application, visits: Visits, locale: str, given: dict[str, str], query: str, heading: str
) -> None:
    visitor = visits(locale=locale)
    visitor.page.goto(application.open(**given).link + query)
    expect(visitor.page.locator("h1")).to_have_text(heading)


@pytest.mark.parametrize("has_scripts", [True, False])
def test_a_language_that_was_picked_stays_to_the_end(
    application: Application, visits: Visits, has_scripts: bool
) -> None:
    visitor = visits(java_script_enabled=has_scripts)
    visitor.page.goto(application.open().link)
    visitor.page.get_by_role("link", name="Deutsch").click()
    expect(visitor.page.locator("html")).to_have_attribute("lang", "de")
    visitor.page.locator("#verify button").click()
    visitor.pick("pass", at=None if has_scripts else visitor.page)
    expect(visitor.page.locator("h1")).to_have_text("Ihre Identität ist bestätigt")


def test_the_keyboard_alone_is_enough(application: Application, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(application.open(return_url="https://app.example.com/done").link)
    press_tab_until(visitor, "Verify my identity")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    expect(visitor.dialog.locator("#session")).to_be_visible()
    visitor.dialog.locator("button[value=pass]").press("Enter")
    expect(page.locator("h1")).to_have_text("Your identity is verified")
    press_tab_until(visitor, "Continue to Example Ltd")


def test_the_focus_comes_back_from_a_dialog_that_was_closed(application: Application, visitor: Visitor) -> None:
    go_in(visitor, application.open().link)
    visitor.pick("close")
    expect(visitor.button("Verify my identity")).to_be_focused()


def press_tab_until(visitor: Visitor, words: str) -> None:
    """Moves the focus to the element with these words. Raises AssertionError if it is not reached."""
    for _ in range(20):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("document.activeElement.innerText") == words:
            return
    raise AssertionError(f"no {words} among what the keyboard reaches")


def test_at_four_hundred_percent_all_is_there_without_scrolling_sideways(
    application: Application, visits: Visits
) -> None:
    visitor = visits(viewport=NARROW, device_scale_factor=4)
    go_in(visitor, application.open().link)
    visitor.pick("decline")
    check_page(visitor, "en", "ltr")
    visitor.take_picture("declined-in-the-dialog-at-400-percent")


def test_nothing_moves_for_who_wants_no_motion(stage: Stage, visits: Visits) -> None:
    visitor = visits(reduced_motion="reduce")
    visitor.page.goto(stage.processing())
    assert visitor.page.evaluate("document.getAnimations().length") == 0
