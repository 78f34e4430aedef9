"""Links of ours in the wrong hands: of scanners, of forgers, and of those who would lead a person elsewhere."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from tests.browser.addresses import Addresses
from tests.browser.application import DAY, OLD_LINK_KEY, Application, Opened, token
from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator
from tests.support.service import Service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.browser

# The rows that are kept of a person, each by an id.
KEPT = (
    "SELECT * FROM verification WHERE session_id = ?",
    "SELECT * FROM verification_record WHERE session_id = ?",
    "SELECT * FROM verification_submission WHERE session_id = ?",
    "SELECT * FROM inbox_event WHERE session_id = ?",
    "SELECT * FROM outbox_action WHERE session_id = ?",
)


@contextmanager
def nothing_happens(opened: Opened, service: Service, simulator: Simulator, addresses: Addresses) -> Iterator[None]:
    """Asserts that nothing changes at Stripe, in the tables, and for the person."""

    def everything() -> list[Any]:
        at_stripe = [simulator.session(opened.session_id), [one["id"] for one in simulator.events(opened.session_id)]]
        return [*at_stripe, service.mails(opened.email), *(service.rows(query, opened.session_id) for query in KEPT)]

    service.wait_until(lambda: simulator.settled()["settled"] and service.is_quiet())
    simulator.fault(count=None, holding=opened.session_id, name=opened.session_id)  # counts requests about the session
    before, asked = everything(), len(addresses.asked)
    yield
    (fault,) = (fault for fault in simulator.faults() if fault["name"] == opened.session_id)
    simulator.take_back(opened.session_id)
    assert fault["hits"] == 0
    assert everything() == before
    assert addresses.asked[asked:] == []


def test_who_only_looks_changes_nothing(
    application: Application, service: Service, simulator: Simulator, addresses: Addresses, visits: Visits
) -> None:
    """Tries HEAD, GET, prefetch, and a scanner that runs scripts and looks about before it leaves."""
    opened = application.open()
    link = opened.link
    with nothing_happens(opened, service, simulator, addresses), httpx.Client(timeout=PATIENCE) as scanner:
        for method, headers in (
            ("HEAD", {}),
            ("GET", {}),
            ("GET", {"Purpose": "prefetch", "Sec-Purpose": "prefetch;prerender"}),
            ("GET", {"User-Agent": "Mozilla/5.0 (compatible; SafeLinks)"}),
        ):
            for url in (link, f"{link}/status", f"{link}?lang=de"):
                for _ in range(3):
                    assert scanner.request(method, url, headers=headers).status_code in (200, 303)
        visitor = visits()
        visitor.page.goto(link)
        expect(visitor.button("Verify my identity")).to_be_visible()
        visitor.page.wait_for_load_state("networkidle")
        visitor.page.mouse.wheel(0, 2000)
        visitor.page.keyboard.press("Tab")
        visitor.page.goto("about:blank")
        prefetching = visits()
        prefetching.page.goto(f"{application.base}/healthz")
        prefetching.page.evaluate(
            """href => new Promise((resolve, reject) => {
                const hint = document.createElement("link");
                Object.assign(hint, {rel: "prefetch", href, onload: resolve, onerror: reject});
                document.head.append(hint);
            })""",
            link,
        )
    assert application.ask("GET", f"/verifications/{opened.id}")["status"] == "requires_input"


def test_after_all_of_them_the_person_still_gets_in(application: Application, visitor: Visitor) -> None:
    opened = application.open()
    link = opened.link
    with httpx.Client(timeout=PATIENCE) as scanner:
        for _ in range(5):
            scanner.get(link)
    visitor.page.goto(link)
    visitor.button("Verify my identity").click()
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


def changed_at(place: int, text: str) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


@pytest.mark.parametrize(
    "forge",
    [
        lambda subject: token(subject, key="of-somebody-else-0123456789-01234"),
        lambda subject: token(subject, salt="of-another-purpose"),
        lambda subject: token(subject)[:-1],
        lambda subject: token(subject)[:-10],
        lambda subject: token(subject).rpartition(".")[0],
        lambda subject: subject,
        lambda subject: changed_at(5, token(subject)),
        lambda subject: changed_at(-5, token(subject)),
        lambda subject: changed_at(len(subject) + 3, token(subject)),
        lambda subject: token(subject) + "%00",
        lambda _: token("idv_0000000000"),
        lambda _: "..%2f..%2fverifications",
        lambda _: "é" * 10,
        lambda _: "a" * 5000,
    ],
)
def test_a_link_that_is_none_of_ours_leads_nowhere(
    application: Application, visitor: Visitor, forge: Callable[[str], str]
) -> None:
    opened = application.open()
    forged = f"{application.base}/verify/{forge(opened.id)}"
    answer = visitor.page.goto(forged)
    assert answer is not None
    assert answer.status == 404
    with httpx.Client(timeout=PATIENCE) as client:
        for method, url in (("POST", forged), ("GET", f"{forged}/status"), ("POST", f"{forged}/link")):
            assert client.request(method, url).status_code == 404


def test_an_expired_link_offers_a_new_one_once_an_hour(
    application: Application, visitor: Visitor, service: Service
) -> None:
    opened = application.open()
    answer = visitor.page.goto(f"{application.base}/verify/{token(opened.id, age=8 * DAY)}")
    assert answer is not None
    assert answer.status == 410
    expect(visitor.page.locator("h1")).to_have_text("This link has expired")
    visitor.button("Send me a new link").click()
    expect(visitor.page.locator("h1")).to_have_text("Please check your email")
    assert visitor.hindrances() == []
    visitor.take_picture("link-sent")
    service.wait_until(lambda: len(service.mails(opened.email)) == 1)
    visitor.page.go_back()
    visitor.button("Send me a new link").click()
    expect(visitor.page.locator("h1")).to_have_text("Please check your email")
    service.wait_until(service.is_quiet)
    (mail,) = service.mails(opened.email)
    (link,) = re.findall(r"http\S+/verify/\S+", mail.text)
    visitor.page.goto(link)
    expect(visitor.button("Verify my identity")).to_be_visible()


def test_the_page_says_the_same_of_who_has_no_address(application: Application, visitor: Visitor) -> None:
    opened = application.open(provided_details={"phone": "+4930123456"})
    visitor.page.goto(f"{application.base}/verify/{token(opened.id, age=8 * DAY)}")
    visitor.button("Send me a new link").click()
    expect(visitor.page.locator("h1")).to_have_text("Please check your email")


def test_an_expired_link_lets_nobody_in(
    application: Application, service: Service, simulator: Simulator, addresses: Addresses
) -> None:
    opened = application.open()
    link = f"{application.base}/verify/{token(opened.id, age=8 * DAY)}"
    with nothing_happens(opened, service, simulator, addresses), httpx.Client(timeout=PATIENCE) as client:
        for headers in ({}, {"Accept": "application/json"}):
            assert client.post(link, headers=headers).status_code == 410


def test_a_link_of_an_older_key_still_lets_in(application: Application, visitor: Visitor) -> None:
    visitor.page.goto(f"{application.base}/verify/{token(application.open().id, key=OLD_LINK_KEY)}")
    expect(visitor.button("Verify my identity")).to_be_visible()


def test_a_link_from_a_few_minutes_ahead_is_as_good_as_one_of_now(application: Application, visitor: Visitor) -> None:
    visitor.page.goto(f"{application.base}/verify/{token(application.open().id, age=-300)}")
    expect(visitor.button("Verify my identity")).to_be_visible()


def test_a_session_that_was_made_elsewhere_has_a_page(
    application: Application, visitor: Visitor, simulator: Simulator, service: Service
) -> None:
    session_id = simulator.create(email="elsewhere@example.com")
    service.wait_until(lambda: service.record(session_id))
    visitor.page.goto(f"{application.base}/verify/{token(session_id)}")
    visitor.button("Verify my identity").click()
    visitor.pick("pass")
    expect(visitor.page.locator("h1")).to_have_text("Your identity is verified")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://app.example.com.evil.example/",
        "https://app.example.com@evil.example/",
        "//evil.example/",
        "\\\\evil.example",
        "/\\evil.example",
        "https:\\\\app.example.com",
        "https:/app.example.com",
        "http://app.example.com/",
        "javascript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,x",
        "https://app.example.com\n.evil.example/",
        "HTTPS://APP.EXAMPLE.COM:444/",
    ],
)
def test_an_application_cannot_be_made_to_send_people_elsewhere(application: Application, url: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        application.open(return_url=url)


def test_no_query_sends_anybody_elsewhere(application: Application, visitor: Visitor) -> None:
    opened = application.open(return_url="https://app.example.com/done")
    link, evil = opened.link, "//evil.example"
    query = "&".join(
        f"{name}={evil}" for name in ("next", "return_url", "url", "redirect", "continue", "lang", "after")
    )
    for path in ("", "/status"):
        visitor.page.goto(f"{link}{path}?{query}")
        assert "evil.example" not in "".join(
            visitor.page.eval_on_selector_all(
                "a, form, link, script", "all => all.map(one => one.href || one.action || one.src)"
            )
        )
    with httpx.Client(timeout=PATIENCE) as client:
        for path in (f"{link}?{query}", f"{application.base}/return/{evil}", f"{application.base}//evil.example/%2f.."):
            answer = client.request("POST" if "/verify/" in path else "GET", path)
            assert "evil" not in answer.headers.get("location", "")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_no_other_page_can_post_for_a_person(
    application: Application, service: Service, simulator: Simulator, addresses: Addresses, headers: dict[str, str]
) -> None:
    opened = application.open()
    with nothing_happens(opened, service, simulator, addresses), httpx.Client(timeout=PATIENCE) as client:
        assert client.post(opened.link, headers=headers).status_code == 403


def test_another_sites_page_neither_frames_ours_nor_posts_for_a_person_who_is_told_how_to_go_on(
    application: Application, visits: Visits
) -> None:
    visitor, link, evil = visits(complaint="frame-ancestors"), application.open().link, "https://evil.example/"
    visitor.context.grant_permissions(["local-network-access"])
    page = f'<iframe src="{link}"></iframe><form method="post" action="{link}"><button>Win a prize</button></form>'
    visitor.page.route(evil, lambda route: route.fulfill(body=page, content_type="text/html"))
    visitor.page.goto(evil)
    expect(visitor.page.frame_locator("iframe").locator("#verify")).to_have_count(0)
    assert visitor.complaints  # the browser has refused the frame
    visitor.button("Win a prize").click()
    expect(visitor.page.locator("h1")).to_have_text("Please open your link again")
    assert visitor.hindrances() == []
    visitor.page.get_by_role("link", name="Load the page again").click()
    expect(visitor.page.locator("h1")).to_have_text("Verify your identity")
