"""The pages' two scripts by themselves, with a Stripe.js for each fault, and a clock that nobody has to wait for."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from handlers.catalogue.pages import Shown, stylesheet, write_page
from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[2] / "receiver" / "pages" / "static"
AT = "http://127.0.0.1:9"
STRIPE_JS = "https://js.stripe.com/basil/stripe.js"
POLICY = (
    "default-src 'none'; script-src 'self' https://js.stripe.com; frame-src https://js.stripe.com; connect-src 'self'; "
    "style-src 'self'; img-src 'self'; form-action 'self' https://verify.stripe.com; base-uri 'none'"
)
SHOWN = Shown(
    word="todo",
    version="1",
    action_url="/verify/t",
    status_url="/verify/t/status",
    stripe_js_url=STRIPE_JS,
    publishable_key="pk_test_1",
    account="acct_1",
)
# A Stripe.js that keeps its arguments, and resolves with the value that the test gives to `window.end`.
GOOD = """
window.given = [];
window.Stripe = (key, options) => ({
  verifyIdentity: (secret) => {
    given.push([key, options, secret]);
    document.body.dataset.modal = "open";
    return new Promise((resolve) => {
      window.end = (result) => { delete document.body.dataset.modal; resolve(result); };
    });
  },
});
"""


@dataclass
class Ours:
    """The answers for the page's scripts, and the counts of their requests."""

    visitor: Visitor
    script: str | None = GOOD  # None: Stripe.js is blocked
    entry: Any = field(default_factory=lambda: {"client_secret": "vs_1_secret", "publishable_key": "pk_test_1"})
    status: dict[str, Any] = field(default_factory=lambda: {"word": "todo", "version": "1"})
    asked: Counter[str] = field(default_factory=Counter)
    page: str = "todo"
    shown: Shown = SHOWN

    def __post_init__(self) -> None:
        self.visitor.context.grant_permissions(["local-network-access"])  # the test's own answers come from no network
        self.visitor.page.clock.install()
        self.visitor.page.route(f"{AT}/**", self._answer)
        self.visitor.page.route(f"{STRIPE_JS}**", self._stripe)

    def open(self, language: str = "en") -> None:
        """Opens the page."""
        self.language = language
        self.visitor.page.goto(f"{AT}/verify/t", wait_until="domcontentloaded")

    def click(self, name: str = "Verify my identity", times: int = 1) -> None:
        """Clicks on a button."""
        self.visitor.page.get_by_role("button", name=name).click(click_count=times)

    def opened(self) -> None:
        """Waits until Stripe's modal is open."""
        expect(self.visitor.page.locator("body[data-modal=open]")).to_be_visible()

    def end(self, **result: Any) -> None:
        """Ends the modal with this result."""
        self.visitor.page.evaluate("(result) => window.end(result)", result)

    def _stripe(self, route: Route) -> None:
        self.asked["stripe.js"] += 1
        if self.script is None:
            route.abort()
        else:
            route.fulfill(body=self.script, content_type="text/javascript")

    def _answer(self, route: Route) -> None:
        request = route.request
        path = request.url.removeprefix(AT)
        is_script = "application/json" in request.headers.get("accept", "")
        self.asked[f"{request.method} {path}{' json' if is_script else ''}"] += 1
        if path.startswith("/assets/"):
            name = path.rpartition("/")[2]
            body = stylesheet() if name == "pages.css" else (STATIC / name).read_text()
            route.fulfill(body=body, content_type="text/css" if name == "pages.css" else "text/javascript")
        elif is_script and request.method == "POST":
            status = 200 if "error" not in self.entry else 503
            route.fulfill(body=json.dumps(self.entry), status=status, content_type="application/json")
        elif is_script:
            tag = f'"{self.status["version"]}"'
            is_known = request.headers.get("if-none-match") == tag
            self.asked["not modified"] += is_known
            body = "" if is_known else json.dumps(self.status)
            route.fulfill(body=body, status=304 if is_known else 200, headers={"ETag": tag})
        elif request.method == "POST":
            route.fulfill(body="<!doctype html><title>Stripe</title><h1>At Stripe's</h1>", content_type="text/html")
        elif path == "/verify/t":
            html = write_page(self.page, self.language, self.shown)
            route.fulfill(body=html, content_type="text/html", headers={"Content-Security-Policy": POLICY})
        else:
            route.fulfill(body="<!doctype html><title>Status</title><h1>The status</h1>", content_type="text/html")


@pytest.fixture
def ours(visitor: Visitor) -> Ours:
    return Ours(visitor)


def _is_at(ours: Ours, heading: str) -> None:
    expect(ours.visitor.page.get_by_role("heading", level=1)).to_have_text(heading)


def _problem(ours: Ours, *said: str) -> None:
    summary = ours.visitor.page.get_by_role("region", name="There is a problem")
    expect(summary).to_be_focused()
    for words in said:
        expect(summary).to_contain_text(words)
    assert ours.visitor.hindrances() == []


def test_a_success_leads_to_the_status_page_and_two_clicks_open_one_modal(ours: Ours) -> None:
    ours.open()
    ours.click(times=2)
    ours.opened()
    ours.click()
    expect(ours.visitor.page.get_by_role("status")).to_have_text("One moment, please. A window from Stripe is opening.")
    given = ours.visitor.page.evaluate("window.given")
    assert given == [["pk_test_1", {"locale": "en", "stripeAccount": "acct_1"}, "vs_1_secret"]]
    assert ours.asked["POST /verify/t json"] == 1
    ours.end(verificationSession={"id": "vs_1"})
    _is_at(ours, "The status")
    assert ours.asked["POST /verify/t"] == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("consent_declined", "You did not agree to the online verification"),
        ("device_unsupported", "ideally a phone with a camera"),
        ("under_supported_age", "above a certain age"),
        ("phone_otp_declined", "You did not confirm your phone number."),
        ("email_verification_declined", "You did not confirm your email address."),
    ],
)
def test_each_outcome_has_its_sentence_and_may_be_followed_by_another(ours: Ours, code: str, said: str) -> None:
    ours.open()
    ours.click()
    ours.opened()
    ours.end(error={"code": code, "message": "Stripe's words"})
    _problem(ours, said)
    assert "Stripe's words" not in ours.visitor.page.inner_text("main")
    ours.click()
    ours.opened()
    expect(ours.visitor.page.locator(".problem")).to_have_count(0)
    ours.end(error={"code": "session_cancelled"})
    expect(ours.visitor.page.get_by_role("status")).to_have_text("You can go on when you like.")
    expect(ours.visitor.page.get_by_role("button", name="Verify my identity")).to_be_focused()


def test_a_code_that_nobody_knows_is_told_in_stripes_words_and_then_the_record_is_asked(ours: Ours) -> None:
    ours.open()
    ours.click()
    ours.opened()
    ours.end(error={"code": "a_new_one", "message": "<b>Your camera</b> is in use."})
    _problem(ours, "<b>Your camera</b> is in use.", "You can try again.")
    assert ours.asked["GET /verify/t/status json"] == 1
    ours.status = {"word": "processing", "version": "2"}
    ours.click()
    ours.opened()
    ours.end(error={"type": "api_error"})
    _is_at(ours, "The status")


def test_who_closed_the_dialog_after_going_on_elsewhere_is_led_to_the_status(ours: Ours) -> None:
    ours.open()
    ours.click()
    ours.opened()
    ours.status = {"word": "processing", "version": "2"}
    ours.end(error={"code": "session_cancelled"})
    _is_at(ours, "The status")


BROKEN = {
    "blocked": None,
    "throws at once": "throw new Error('no');",
    "is something else": "window.Strip = 1;",
    "throws when it is called": "window.Stripe = () => { throw new Error('no'); };",
    "throws when it opens": "window.Stripe = () => ({ verifyIdentity() { throw new Error('no'); } });",
    "rejects": "window.Stripe = () => ({ verifyIdentity: () => Promise.reject(new Error('no')) });",
    "resolves nothing": "window.Stripe = () => ({ verifyIdentity: () => Promise.resolve() });",
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_stripe_js_that_fails_leaves_the_form_to_itself(ours: Ours, script: str | None) -> None:
    ours.script = script
    ours.open()
    ours.click()
    _is_at(ours, "At Stripe's")
    assert ours.asked["POST /verify/t"] == 1
    ours.visitor.complaints[:] = [one for one in ours.visitor.complaints if not one.startswith("uncaught: no")]


def test_a_stripe_js_that_does_not_come_is_not_waited_for_for_long(ours: Ours) -> None:
    ours.visitor.page.route(f"{STRIPE_JS}**", lambda _: None)  # no answer, ever
    ours.open()
    ours.click()
    expect(ours.visitor.page.get_by_role("status")).to_contain_text("One moment, please.")
    assert ours.asked["POST /verify/t"] == 0
    ours.visitor.page.clock.run_for(5_000)
    _is_at(ours, "At Stripe's")
    assert ours.asked["POST /verify/t json"] == 0


FRAMED = """
window.Stripe = () => ({ verifyIdentity() {
  const frame = document.createElement("iframe");
  frame.src = "https://frames.example/";
  document.body.append(frame);
  return new Promise(() => {});
} });
"""


def test_a_modal_that_the_policy_blocks_falls_back_to_the_redirect(ours: Ours) -> None:
    ours.script = FRAMED
    ours.open()
    ours.click()
    _is_at(ours, "At Stripe's")
    assert ours.asked["POST /verify/t json"] == 1
    assert [one for one in ours.visitor.complaints if "https://frames.example/" not in one] == []
    ours.visitor.complaints.clear()


FRAME = """() => {
  const frame = document.createElement("iframe");
  frame.src = "https://frames.example/";
  document.body.append(frame);
}"""


def test_a_frame_that_is_blocked_at_another_time_is_one_that_nobody_misses(ours: Ours) -> None:
    ours.script = f"{GOOD}({FRAME})();"
    ours.open()
    for _ in range(2):
        ours.click()
        ours.opened()
        ours.end(error={"code": "session_cancelled"})
        expect(ours.visitor.page.get_by_role("status")).to_have_text("You can go on when you like.")
        ours.visitor.page.evaluate(FRAME)
    ours.click()
    ours.opened()
    assert ours.asked["POST /verify/t"] == 0
    assert [one for one in ours.visitor.complaints if "https://frames.example/" not in one] == []
    ours.visitor.complaints.clear()


def test_a_modal_that_never_shows_leaves_another_way_beside_it(ours: Ours) -> None:
    ours.open()
    ours.click()
    ours.opened()
    other = ours.visitor.page.get_by_role("button", name="Continue on Stripe's page")
    expect(other).to_be_hidden()
    ours.visitor.page.clock.run_for(10_000)
    other.click()
    _is_at(ours, "At Stripe's")


@pytest.mark.parametrize(
    ("entry", "heading"),
    [({"url": "/stripes-page"}, "The status"), ({"error": "processing", "location": "/s"}, "The status")],
)
def test_an_answer_without_a_secret_leads_where_it_says(ours: Ours, entry: dict[str, str], heading: str) -> None:
    ours.entry = entry
    ours.open()
    ours.click()
    _is_at(ours, heading)
    assert ours.asked["POST /verify/t"] == 0


@pytest.mark.parametrize(
    ("word", "said"),
    [("away", "We cannot go on at the moment."), ("busy", "many tries"), ("a_new_one", "not finished")],
)
def test_an_answer_that_passes_is_told_on_the_page(ours: Ours, word: str, said: str) -> None:
    ours.entry = {"error": word}
    ours.open()
    ours.click()
    _problem(ours, said)


def test_without_a_connection_the_page_says_so_and_goes_on_later(ours: Ours) -> None:
    ours.open()
    ours.visitor.page.route(f"{AT}/verify/t", lambda route: route.abort())
    ours.click()
    _problem(ours, "There was no answer.")
    ours.visitor.page.unroute(f"{AT}/verify/t")
    ours.click()
    ours.opened()


def test_without_scripts_the_form_is_all_there_is(visits: Visits) -> None:
    ours = Ours(visits(java_script_enabled=False))
    ours.open()
    ours.click()
    _is_at(ours, "At Stripe's")
    assert (ours.asked["POST /verify/t"], ours.asked["stripe.js"]) == (1, 0)


def test_in_another_language_the_script_speaks_it(ours: Ours) -> None:
    ours.open("de")
    ours.click("Meine Identität bestätigen")
    ours.opened()
    assert ours.visitor.page.evaluate("window.given")[0][1]["locale"] == "de"
    ours.end(error={"code": "phone_otp_declined"})
    expect(ours.visitor.page.get_by_role("region", name="Es gibt ein Problem")).to_be_focused()


@pytest.fixture
def waiting(ours: Ours) -> Ours:
    ours.page, ours.shown = "processing", Shown(word="processing", version="1", status_url="/verify/t/status")
    ours.status = {"word": "processing", "version": "1"}
    ours.open()
    return ours


ASKS = "GET /verify/t/status json"


def test_the_status_is_asked_for_every_two_seconds_then_less_often_for_ten_minutes(waiting: Ours) -> None:
    page, counts = waiting.visitor.page, [0]
    for second in range(2, 842, 2):
        page.clock.run_for(2_000)
        page.wait_for_timeout(20)  # for the answer, which comes in real time
        if second % 60 == 0:
            counts.append(waiting.asked[ASKS])
    per_minute = [after - before for before, after in pairwise(counts)]
    assert 12 <= per_minute[0] <= 20
    assert per_minute[0] > per_minute[2] > per_minute[4] >= 3
    assert per_minute[-1] == 0
    assert waiting.asked["not modified"] == waiting.asked[ASKS] - 1
    expect(page.get_by_role("status")).to_have_text(
        "This is taking longer than usual, which says nothing about the result."
    )
    assert waiting.visitor.hindrances() == []
    page.get_by_role("link", name="Check again").click()
    _is_at(waiting, "The status")


def test_news_are_announced_and_then_shown(waiting: Ours) -> None:
    expect(waiting.visitor.page.get_by_role("status")).to_have_text("There is no result yet.")
    waiting.status = {"word": "verified", "version": "2"}
    waiting.visitor.page.clock.run_for(2_100)
    _is_at(waiting, "The status")


def test_trouble_is_no_result(waiting: Ours) -> None:
    page = waiting.visitor.page
    page.route(f"{AT}/verify/t/status", lambda route: route.fulfill(status=503, body="{}"))
    page.clock.run_for(5_000)
    page.route(f"{AT}/verify/t/status", lambda route: route.abort())
    page.clock.run_for(5_000)
    expect(page.get_by_role("status")).to_have_text("There is no result yet.")
    page.unroute(f"{AT}/verify/t/status")
    waiting.status = {"word": "verified", "version": "2"}
    page.clock.run_for(5_000)
    _is_at(waiting, "The status")


HIDE = """(is) => {
  Object.defineProperty(document, "hidden", {configurable: true, get: () => is});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_is_hidden_asks_nothing_and_asks_at_once_when_it_is_shown(waiting: Ours) -> None:
    page = waiting.visitor.page
    page.evaluate(HIDE, True)
    page.clock.run_for(60_000)
    assert waiting.asked[ASKS] == 0
    with page.expect_response(re.compile("status")):
        page.evaluate(HIDE, False)
    assert waiting.asked[ASKS] == 1


def test_a_page_that_is_hidden_before_its_last_question_offers_to_check_again(waiting: Ours) -> None:
    page = waiting.visitor.page
    waited, last = 0.0, 0
    while waited < 600_000:
        waited, last = waited + min(15_000, 2_000 + waited / 20), last + 1
    while waiting.asked[ASKS] < last - 1:
        page.clock.run_for(2_000)
        page.wait_for_timeout(20)
    page.evaluate(HIDE, True)
    page.clock.run_for(60_000)
    page.evaluate(HIDE, False)
    page.clock.run_for(20_000)
    expect(page.get_by_role("link", name="Check again")).to_be_visible()
    assert waiting.asked[ASKS] == last


def test_where_the_script_of_the_status_page_is_blocked_there_is_a_way_on(visits: Visits) -> None:
    ours = Ours(visits())
    ours.page, ours.shown = "processing", Shown(word="processing", version="1", status_url="/verify/t/status")
    ours.visitor.page.route(f"{AT}/assets/status.js", lambda route: route.abort())
    ours.open()
    ours.visitor.page.get_by_role("link", name="Check again").click()
    _is_at(ours, "The status")


def test_without_scripts_the_status_page_loads_itself_again(visits: Visits) -> None:
    ours = Ours(visits(java_script_enabled=False))
    ours.page = "processing"
    ours.shown = Shown(status_url="/verify/t/status", refresh_url="/verify/t/status?times=1")
    ours.open()
    expect(ours.visitor.page.get_by_role("link", name="Check again")).to_be_visible()
    assert 'http-equiv="refresh" content="15; url=/verify/t/status?times=1"' in ours.visitor.page.content()
