"""The whole from outside: a team's backend, a person with a browser and a mailbox, and the rows that are left."""

import json
import sqlite3
import subprocess
import urllib.request
from contextlib import closing

import pytest
from playwright.sync_api import expect
from standardwebhooks import Webhook

from tests.browser.addresses import Addresses
from tests.browser.application import TOKEN, Application, Opened
from tests.browser.conftest import CALLBACK_SECRET, Visits
from tests.browser.test_coming_back import link_in_mail
from tests.browser.test_dialog import go_in
from tests.simulator.catcher import Catcher
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.browser

MARK = "c4nary"


def test_a_person_fails_comes_back_by_mail_passes_and_is_forgotten(
    application: Application,
    told: Catcher,
    simulator: Simulator,
    service: Service,
    addresses: Addresses,
    visits: Visits,
) -> None:
    asked = len(addresses.asked)
    asked_for = {
        "client_reference_id": f"user-{MARK}",
        "type": "document",
        "provided_details": {"email": f"{MARK}@example.com"},
        "return_url": f"https://app.example.com/{MARK}",
    }
    answer = json.loads(curl(f"{application.base}/verifications", json.dumps(asked_for)))
    opened, first_link = Opened(application, answer, f"{MARK}@example.com"), str(answer["entry"]["url"])

    at_once = visits()
    go_in(at_once, first_link)
    at_once.pick("fail", "document_expired")
    expect(at_once.problem).to_contain_text("expired")

    mailed_link = link_in_mail(service, opened, number=1)
    two_days_later = visits()
    two_days_later.page.goto(mailed_link)
    two_days_later.button("Verify my identity").click()
    two_days_later.pick("pass")
    expect(two_days_later.page.locator("h1")).to_have_text("Your identity is verified")
    go_on = two_days_later.page.get_by_role("link", name="Continue")
    expect(go_on).to_have_attribute("href", f"https://app.example.com/{MARK}")

    service.wait_until(lambda: len(service.mails(opened.email)) == 2)
    prompt, news = service.mails(opened.email)
    assert (prompt.subject, news.subject) == ("Please verify your identity again", "Your identity is verified")

    service.wait_until(lambda: ("verified", None) in changes(told, opened.id)[-1:])
    assert ("requires_input", "document_expired") in changes(told, opened.id)
    shown = application.ask("GET", f"/verifications/{opened.id}")
    assert (shown["status"], shown["submissions"], shown["client_reference_id"]) == ("verified", 2, f"user-{MARK}")

    application.ask("POST", f"/verifications/{opened.id}/redact")
    service.wait_until(lambda: simulator.session(opened.session_id)["redaction"])
    service.wait_until(lambda: simulator.settled()["settled"] and service.is_quiet())
    two_days_later.page.goto(mailed_link)
    expect(two_days_later.page.locator("h1")).to_have_text("This verification has been deleted")

    tokens = [link.rpartition("/")[2] for link in (first_link, mailed_link)]
    secrets = (*tokens, "_secret_", "/start/")
    assert [mark for mark in (MARK, *secrets) if mark in everything_stored(service)] == []
    assert [mark for mark in (MARK, *secrets) if mark in service.text()] == []
    assert [mark for mark in (MARK, opened.id, *secrets) if mark in metrics(service)] == []
    # The browser tells Stripe neither the page that it comes from, nor the person.
    heads = [f"{one.path} {one.headers}" for one in addresses.asked[asked:]]
    assert [head for head in heads if any(mark in head for mark in (MARK, opened.id, *tokens))] == []
    assert [one.headers for one in addresses.asked[asked:] if "127.0.0.1" in one.headers.get("Referer", "")] == []


def curl(url: str, body: str) -> str:
    """The answer to a POST of the team's backend."""
    headers = ("-H", f"Authorization: Bearer {TOKEN}", "-H", "Content-Type: application/json")
    command = ["curl", "--silent", "--fail", *headers, "-d", body, url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def changes(told: Catcher, verification_id: str) -> list[tuple[str, str | None]]:
    """The changes of one verification that the application was told, in their order; each call is signed."""
    about = [call for call in list(told.caught) if verification_id in call.body.decode()]
    mine = [Webhook(CALLBACK_SECRET).verify(call.body, call.headers)["data"] for call in about]
    mine.sort(key=lambda change: change["change_number"])
    return [(change["status"], change["error_code"]) for change in mine]


def everything_stored(service: Service) -> str:
    """Every row of every table."""
    with closing(sqlite3.connect(service.folder / "var" / "identity.db", timeout=30)) as database:
        return "\n".join(database.iterdump())


def metrics(service: Service) -> str:
    with urllib.request.urlopen(f"{service.base}/metrics", timeout=60) as answer:
        return str(answer.read().decode())
