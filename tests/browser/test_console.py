"""The console in a browser: sign-in, a person, a change; by sight, by keys, on a phone and without scripts."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.application import Application, Opened
from tests.browser.conftest import PASSWORD, Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import ROOT, Service

pytestmark = pytest.mark.browser
OPERATIONS = ROOT / "docs" / "operations.md"
Dead = Callable[..., list[int]]
LEAST = 24  # pixels of each thing that is touched (WCAG 2.2, 2.5.8)
_AGE = "document.querySelector('[data-live] h2').textContent = 'Old'"
_DEAD = """INSERT INTO outbox_action
  (session_id, name, cause, status, attempts, waits, last_error, created_at, due_at)
  SELECT ?, 'email_verified', ?, 'dead', 9, 0, ?, moment, moment
  FROM (SELECT strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-2 hours') AS moment)"""
_TOUCHED = """Array.from(document.querySelectorAll("a, button, input:not([type=hidden])"))
  .map((one) => [one.innerText || one.name, one.getBoundingClientRect().height])"""

# Tables with columns that are out of sight, and hints that their fields cut; a table of few words may be scrolled.
_CUT = """Array.from(document.querySelectorAll(".stacked, [placeholder]")).filter((one) => {
  const { type } = one;
  if (type) [one.type, one.value] = ["text", one.placeholder];  // a search field has a cross beside a value
  const isCut = one.scrollWidth > one.clientWidth;
  if (type) [one.type, one.value] = [type, ""];
  return isCut;
}).map((one) => one.ariaLabel || one.placeholder)"""


def _sign_in(visitor: Visitor, service: Service, name: str, password: str = PASSWORD) -> None:
    visitor.page.goto(f"{service.base}/console")
    visitor.page.get_by_label("Name").fill(name)
    visitor.page.get_by_label("Password").fill(password)
    visitor.page.keyboard.press("Enter")


def _find(visitor: Visitor, word: str) -> None:
    visitor.page.get_by_label("Find").fill(word)
    visitor.page.keyboard.press("Enter")


def _flood(service: Service, session_id: str) -> None:
    """Writes a hundred thousand dead actions of a session."""
    with closing(sqlite3.connect(service.folder / "var" / "identity.db", timeout=30)) as database, database:
        database.execute(
            """WITH RECURSIVE flood (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM flood WHERE n < 100000)
            INSERT INTO outbox_action (session_id, name, cause, status, attempts, waits, last_error, created_at, due_at)
            SELECT ?, 'email_verified', 'flood ' || n, 'dead', 9, 0, 'flood', moment, moment FROM flood,
            (SELECT strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-2 hours') AS moment)""",
            (session_id,),
        )


@pytest.fixture
def dead(service: Service) -> Iterator[Dead]:
    """Makes dead actions of a session, of two hours ago, and returns their ids. They are gone after the test."""
    made: list[int] = []
    path = service.folder / "var" / "identity.db"

    def make(count: int, session_id: str, error: str = "refused") -> list[int]:
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            ids = [
                database.execute(_DEAD, (session_id, f"{number}: {error}", error)).lastrowid for number in range(count)
            ]
        made.extend(one for one in ids if one)
        return [one for one in ids if one]

    yield make
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.executemany("DELETE FROM outbox_action WHERE id = ?", [(one,) for one in made])


def _hinders_nobody(visitor: Visitor, picture: str) -> None:
    visitor.take_picture(f"console-{picture}")
    assert visitor.hindrances() == [], picture
    width = visitor.page.viewport_size
    assert width
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width["width"], picture
    assert [one for one in visitor.page.evaluate(_TOUCHED) if one[1] < LEAST] == [], picture
    assert visitor.page.evaluate(_CUT) == [], picture


@pytest.mark.parametrize(
    ("name", "user", "how"),
    [
        ("light", "anna", {"viewport": {"width": 1280, "height": 800}}),
        ("dark", "ben", {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}),
        ("narrow", "clara", {"viewport": {"width": 320, "height": 640}, "has_touch": True}),
    ],
)
def test_no_page_of_the_console_hinders_anybody(
    name: str, user: str, how: Any, visits: Visits, service: Service, application: Application, simulator: Simulator
) -> None:
    verification = application.open(client_reference_id=f"console-{name}")
    simulator.fail(verification.session_id, "document_expired")
    visitor = visits(**how)
    _sign_in(visitor, service, user, "wrong")
    expect(visitor.problem).to_contain_text("not right")
    _hinders_nobody(visitor, f"sign-in-{name}")
    _sign_in(visitor, service, user)
    expect(visitor.page.get_by_role("heading", name="Overview")).to_be_visible()
    _hinders_nobody(visitor, f"overview-{name}")
    _find(visitor, f"console-{name}")
    expect(visitor.page.get_by_role("heading", name=verification.id)).to_be_visible()
    service.wait_until(lambda: "email_retry_prompt done" in service.actions(verification.session_id))
    visitor.page.reload()
    _hinders_nobody(visitor, f"person-{name}")
    visitor.page.get_by_role("link", name="email_retry_prompt").click()
    expect(visitor.page.get_by_label("Text of the mail")).to_be_visible()
    _hinders_nobody(visitor, f"mail-{name}")
    visitor.page.get_by_role("link", name="Back to the person").click()
    visitor.page.get_by_role("link", name="New link").click()
    _hinders_nobody(visitor, f"change-{name}")
    visitor.page.get_by_label("Reason").fill("told by phone")
    visitor.button("Make a new link").click()
    expect(visitor.page.get_by_label("Link")).to_have_value(re.compile("/verify/idv_"))
    _hinders_nobody(visitor, f"link-{name}")
    visitor.page.get_by_role("link", name="Lists").click()
    expect(visitor.page.get_by_role("heading", name="Dead actions")).to_be_visible()
    _hinders_nobody(visitor, f"lists-{name}")
    visitor.page.goto(f"{service.base}/console/lists/dead-events/discard")
    visitor.page.get_by_label("Reason").fill("a@example.com")
    visitor.button("End all of them for good").click()
    expect(visitor.problem).to_contain_text("Nothing was changed")
    _hinders_nobody(visitor, f"change-all-{name}")
    visitor.page.get_by_role("link", name="Audit").click()
    expect(visitor.page.get_by_role("cell", name=verification.id).first).to_be_visible()
    _hinders_nobody(visitor, f"audit-{name}")
    visitor.page.get_by_role("link", name="Checks").click()
    visitor.button("Check it all now").click()
    expect(visitor.page.get_by_role("heading", name=re.compile("The last time|Nothing was asked")).first).to_be_visible(
        timeout=30_000
    )
    _hinders_nobody(visitor, f"checks-{name}")
    _find(visitor, "nobody@example.com")
    expect(visitor.page.get_by_role("heading", name="Nothing was found")).to_be_visible()
    _hinders_nobody(visitor, f"not-found-{name}")
    visitor.page.goto(f"{service.base}/console/lists/none")
    _hinders_nobody(visitor, f"sorry-{name}")
    elsewhere = simulator.create(client_reference_id=f"console-{name}")
    simulator.wait_settled()
    service.wait_until(lambda: service.record(elsewhere) is not None)
    visitor.page.goto(f"{service.base}/console/persons/{elsewhere}")
    expect(visitor.page.get_by_text("Other sessions that may be theirs")).to_be_visible()
    _hinders_nobody(visitor, f"elsewhere-{name}")


@pytest.mark.parametrize("how", [{}, {"viewport": {"width": 320, "height": 640}}])
def test_each_question_of_every_day_is_answered_by_two_clicks(
    how: Any, visits: Visits, service: Service, application: Application, simulator: Simulator
) -> None:
    """As docs/operations.md says: a bold word is a click, an italic one is seen then."""
    verification = application.open()
    simulator.fail(verification.session_id, "selfie_manipulated")  # for a reviewer, whose address is missing
    service.wait_until(lambda: "alert_review skipped: no REVIEW_EMAIL" in service.actions(verification.session_id))
    visitor = visits(**how)
    page = visitor.page
    _sign_in(visitor, service, "anna")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    ways = re.findall(r"^\| .* \| `python -m worker .* \| (.+) \|$", OPERATIONS.read_text(), re.MULTILINE)
    assert len(ways) > 10
    for way in (way for cell in ways for way in cell.split("; ")):
        page.goto(f"{service.base}/console")
        for click, sight in re.findall(r"\*\*(.+?)\*\*|(?<!\*)\*(.+?)\*", way):
            if sight:
                expect(page.get_by_text(re.compile(f"^{sight}")).first).to_be_visible()
            elif click == "Find":
                _find(visitor, verification.session_id)
            else:
                page.locator("a, button", has_text=re.compile(f"{click}", re.IGNORECASE)).first.click()


def test_without_scripts_a_verification_is_canceled_by_keys_alone(
    visits: Visits, service: Service, application: Application
) -> None:
    verification = application.open()
    visitor = visits(java_script_enabled=False)
    _sign_in(visitor, service, "dora")
    _find(visitor, verification.session_id)
    visitor.page.get_by_role("link", name="Cancel the session").press("Enter")
    visitor.page.get_by_label("Reason").press_sequentially("told by phone")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_role("status")).to_have_text("The session is canceled.")
    visitor.button("Sign out").press("Enter")
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()
    visitor.page.go_back()
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()


def _about_to_forget(visits: Visits, service: Service, application: Application) -> tuple[Visitor, Opened]:
    """A user who is about to press the button, and the verification that would be forgotten."""
    verification = application.open()
    visitor = visits()
    _sign_in(visitor, service, "erik")
    _find(visitor, verification.session_id)
    visitor.page.get_by_role("link", name="Forget this person").click()
    visitor.page.get_by_label("Reason").fill("told by phone")
    return visitor, verification


def test_whoever_is_signed_out_meanwhile_is_told_that_nothing_was_done(
    visits: Visits, service: Service, application: Application
) -> None:
    visitor, verification = _about_to_forget(visits, service, application)
    visitor.context.clear_cookies(name="console")  # as eight hours do
    visitor.button("Forget this person").click()
    expect(visitor.page.get_by_role("status")).to_contain_text("nothing was done")
    assert visitor.hindrances() == []
    record = service.record(verification.session_id)
    assert record
    assert record["redaction_asked_at"] is None
    visitor.page.goto(f"{service.base}/console/audit")
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_form_of_another_browser_is_refused_calmly(
    visits: Visits, service: Service, application: Application
) -> None:
    visitor, verification = _about_to_forget(visits, service, application)
    visitor.page.evaluate("document.querySelector('main [name=token]').value = 'of-another-browser'")
    visitor.button("Forget this person").click()
    expect(visitor.page.get_by_role("heading", name="This form has expired")).to_be_visible()
    expect(visitor.page.get_by_text("Nothing was done.")).to_be_visible()
    assert visitor.hindrances() == []
    assert service.rows("SELECT 1 FROM identity_audit WHERE about LIKE ?", f"%{verification.id}%") == []


def test_two_who_do_the_same_at_once_do_it_once(
    visits: Visits, service: Service, application: Application, dead: Dead
) -> None:
    verification = application.open()
    [action_id] = dead(1, verification.session_id)
    both = [visits(), visits()]
    for visitor, name in zip(both, ("erik", "frida"), strict=True):
        _sign_in(visitor, service, name)
        _find(visitor, verification.session_id)
        visitor.page.get_by_role("link", name=f"Discard {action_id}").click()
        visitor.page.get_by_label("Reason").fill(f"told by {name}")
    for visitor in both:
        visitor.button("End it for good").click()
    expect(both[0].page.get_by_role("status")).to_have_text("It is ended, and kept.")
    expect(both[1].problem).to_contain_text("Nothing was changed")
    expect(both[1].problem).to_contain_text("somebody else may have done it")
    assert both[1].hindrances() == []
    both[1].page.get_by_role("link", name="Back, and change nothing").click()
    expect(both[1].page.get_by_role("cell", name="told by erik").first).to_be_visible()
    expect(both[1].page.get_by_role("cell", name="told by frida")).not_to_be_visible()


@pytest.mark.parametrize("how", [{}, {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"}])
def test_many_dead_rows_are_seen_page_by_page_and_a_filter_holds_on_each(
    how: Any, visits: Visits, service: Service, application: Application, dead: Dead
) -> None:
    session_id = application.open().session_id
    dead(20, session_id, error="another reason")
    ids = dead(60, session_id, error="the server was away")
    visitor, page = (visitor := visits(**how)), visitor.page
    _sign_in(visitor, service, "frida")
    page.get_by_role("link", name="Dead actions", exact=True).click()
    page.get_by_label("A part of the reason").fill("was away")
    page.get_by_label("Older than").select_option("an hour")
    visitor.button("Show").press("Enter")
    expect(page).to_have_url(re.compile("error=was"))
    expect(page.locator("tbody tr")).to_have_count(50)
    _hinders_nobody(visitor, f"many-{len(how)}")
    seen = page.locator("tbody tr td:nth-child(2)").all_inner_texts()
    page.get_by_role("link", name="The next ones").press("Enter")
    expect(page.locator("tbody tr")).to_have_count(10)
    seen += page.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert sorted(map(int, seen)) == ids
    expect(page.get_by_label("A part of the reason")).to_have_value("was away")
    expect(page.get_by_label("Older than")).to_have_value("1h")
    expect(page.get_by_role("link", name="The next ones")).to_have_count(0)
    page.get_by_role("link", name="Discard all that match").press("Enter")
    page.get_by_label("Reason").press_sequentially("of a test")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("60 changed.")


def test_a_hundred_thousand_dead_rows_are_paged_and_ended_by_keys_and_without_scripts(
    visits: Visits, service: Service, application: Application
) -> None:
    session_id = application.open().session_id
    _flood(service, session_id)
    visitor = visits(java_script_enabled=False)
    page = visitor.page
    _sign_in(visitor, service, "dora")
    expect(page.get_by_role("link", name="more than 1,000 dead actions")).to_be_visible()
    page.get_by_role("link", name="more than 1,000 dead actions").press("Enter")
    for _ in range(3):
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("link", name="The next ones").press("Enter")
    page.get_by_label("A part of the reason").fill("of none")
    visitor.button("Show").press("Enter")
    expect(page.get_by_text("None of the first 10,000 matches.")).to_be_visible()
    page.get_by_role("link", name="Look further on").press("Enter")
    expect(page.get_by_text("None of the next 10,000 matches.")).to_be_visible()
    page.get_by_label("A part of the reason").fill("flood")
    visitor.button("Show").press("Enter")
    page.get_by_role("link", name="Discard all that match").press("Enter")
    page.get_by_label("Reason").press_sequentially("of the flood")
    page.keyboard.press("Enter")
    while visitor.button("Go on").is_visible():
        assert "were changed, and there are more" in page.get_by_role("status").inner_text()
        visitor.take_picture("console-go-on")
        visitor.button("Go on").press("Enter")
    expect(page.get_by_role("status")).to_have_text("100,000 changed.")
    audited = service.rows("SELECT about FROM identity_audit WHERE reason = 'of the flood'")
    ids = [one for row in audited for one in row["about"].split() if one.isdigit()]
    assert len(ids) == len(set(ids)) >= 100_000


def test_the_overview_keeps_itself_up_to_date_and_takes_nothing_away_that_is_in_use(
    visits: Visits, service: Service
) -> None:
    visitor = visits()
    _sign_in(visitor, service, "anna")
    page = visitor.page
    expect(page.get_by_role("heading", name="What needs a hand")).to_be_visible()
    page.evaluate(_AGE)
    expect(page.get_by_role("heading", name="What needs a hand")).to_be_visible()
    page.get_by_text("In numbers").first.click()
    page.evaluate(_AGE)
    expect(
        page.get_by_role("heading", name="What needs a hand")
    ).to_be_visible()  # by an answer that has come meanwhile
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    expect(page.locator("details[open]")).to_have_count(1)
    page.get_by_role("link", name="The last day").press("Enter")
    expect(page.get_by_role("link", name="The last day")).to_have_attribute("aria-current", "true")


def test_a_trouble_and_its_end_show_by_themselves(
    visits: Visits, service: Service, application: Application, dead: Dead
) -> None:
    visitor = visits()
    _sign_in(visitor, service, "ben")
    findings = visitor.page.locator("[data-part=findings]")
    expect(findings).to_contain_text("What needs a hand")
    dead(1, application.open().session_id)
    expect(findings.get_by_text("dead", exact=False).first).to_be_visible(timeout=30_000)
    expect(visitor.page.get_by_role("status", include_hidden=True)).to_have_text("What needs a hand has changed.")
    visitor.take_picture("console-finding")
    assert visitor.hindrances() == []


def test_the_overview_says_when_it_is_kept_up_to_date_no_longer(visits: Visits, service: Service) -> None:
    visitor = visits()
    visitor.page.clock.install()
    _sign_in(visitor, service, "dora")
    expect(visitor.page.get_by_role("heading", name="What needs a hand")).to_be_visible()
    visitor.context.clear_cookies(name="console")
    visitor.page.clock.run_for(5_000)
    expect(visitor.page.get_by_role("status")).to_contain_text("You are signed out.")
    assert visitor.hindrances() == []
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    visitor.page.clock.run_for(60_000)
    visitor.page.evaluate("fetch('/healthz')")
    assert asked == ["/healthz"]
