"""Coming back from Stripe: one look, however often and to whichever server, and then the status."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import col
from starlette.testclient import TestClient

from config.database import now, transaction, true_now
from config.settings import settings
from handlers.inbox import process
from handlers.sessions import links, looking
from handlers.sessions.links import return_url_of
from handlers.tables.models import Verification
from tests.integration.openings import APP, LEAST, at_stripe
from tests.integration.stories import Stories, by_name
from tests.integration.visits import HERE, OURS, SCRIPT, choose, enter, path_to
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url", "stripe")


def _opened(pages: TestClient, **changes: Any) -> dict[str, Any]:
    return dict(pages.post("/verifications", json={**LEAST, **changes}, headers=APP).json())


def _returning(opened: dict[str, Any]) -> str:
    return return_url_of(opened["id"]).removeprefix(HERE)


def _locale(opened: dict[str, Any]) -> str | None:
    with transaction() as session:
        return session.get_one(Verification, opened["id"]).locale


def _asked(stripe: Stories) -> int:
    return int(stripe.simulator.faults()[0]["hits"])


def _ten_seconds_later() -> None:
    with transaction() as session:
        session.connection().execute(update(Verification).values(looked_at=now(-looking._ONCE_IN)))


def test_a_look_by_a_clock_that_was_ahead_keeps_nobody_from_the_next(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    stripe.simulator.fault(count=None)
    with transaction() as session:
        session.connection().execute(update(Verification).values(looked_at=now(timedelta(hours=1))))
    pages.get(_returning(opened), follow_redirects=False)
    pages.get(_returning(opened), follow_redirects=False)
    assert _asked(stripe) == 1


def test_stripe_sends_everybody_back_to_us_and_the_applications_address_is_the_button(pages: TestClient) -> None:
    opened = _opened(pages, return_url="https://app.example/done?a=1&b=2")
    back = pages.get(choose(enter(pages, opened["id"]), "pass").removeprefix(HERE))
    assert (back.status_code, back.headers["referrer-policy"]) == (303, "no-referrer")
    status = pages.get(back.headers["location"])
    assert status.status_code == 200
    assert 'href="https://app.example/done?a=1&amp;b=2"' in status.text


def test_what_stripe_is_asked_to_send_back_to_is_ours_and_the_same_each_time(pages: TestClient) -> None:
    opened = _opened(pages, return_url="shop:done")
    assert return_url_of(opened["id"]) == return_url_of(opened["id"])
    again = _opened(pages, return_url="shop:done")
    assert again["session_id"] == opened["session_id"]
    assert choose(enter(pages, opened["id"]), "pass") == return_url_of(opened["id"])


def test_one_look_applies_what_stripe_says_before_its_event_comes(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    stripe.simulator.passed(opened["session_id"])
    stripe.simulator.fault(count=None)
    for number in range(3):
        location = pages.get(_returning(opened)).headers["location"]
        assert ("after" in location) is (number > 0), "who was not asked for has learned nothing"
        assert "Your identity is verified" in pages.get(location).text
    assert _asked(stripe) == 1
    assert by_name(opened["session_id"]) == {"email_verified": ["pending"]}
    stripe.deliver(opened["session_id"])
    assert by_name(opened["session_id"]) == {"email_verified": ["pending"]}, "owed once"
    _ten_seconds_later()
    before = _asked(stripe)
    pages.get(_returning(opened))
    assert _asked(stripe) == before + 1


def test_a_language_that_was_picked_before_going_in_is_the_persons_on_the_way_back_and_later(pages: TestClient) -> None:
    opened = _opened(pages, locale="en")
    page = pages.get(path_to(opened["id"]), params={"lang": "de"}).text
    action = page.partition('<form id="verify" method="post" action="')[2].partition('"')[0]
    back = choose(pages.post(action, headers=OURS).headers["location"], "pass").removeprefix(HERE)
    returned = pages.get(pages.get(back).headers["location"], headers={"Accept-Language": "en"})
    assert "Ihre Identität ist bestätigt" in returned.text
    assert _locale(opened) == "de"


def test_a_new_link_is_sent_in_the_language_that_was_picked_to_ask_for_it(
    pages: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, moment = _opened(pages, locale="en"), true_now()
    path = path_to(opened["id"])
    monkeypatch.setattr(links, "true_now", lambda: moment + timedelta(days=8))
    pages.post(path, params={"lang": "de"}, headers=OURS)
    assert _locale(opened) == "en", "an expired link lets nobody in"
    pages.post(f"{path}/link?lang=de", headers=OURS)
    assert _locale(opened) == "de"


def test_only_a_language_that_was_picked_to_go_in_with_is_kept_and_of_a_wiped_verification_none(
    pages: TestClient,
) -> None:
    opened = _opened(pages)
    for path, headers in (
        (path_to(opened["id"], "?lang=de"), {"Accept-Language": "de"}),  # the browser says it each time
        (path_to(opened["id"], "?lang=tlh"), {}),
        (path_to(opened["id"], "?lang=en"), {}),
        (path_to(opened["id"], "?lang=de"), {"Sec-Fetch-Site": "cross-site"}),
    ):
        pages.get(path)
        pages.post(path, headers=OURS | headers)
        assert _locale(opened) is None, (path, headers)
    with transaction() as session:
        session.connection().execute(update(Verification).values(client_reference_id=None))
    pages.post(path_to(opened["id"], "?lang=de"), headers=OURS)
    assert _locale(opened) is None
    with transaction() as session:
        session.connection().execute(update(Verification).values(client_reference_id="user-1"))
    assert pages.post(path_to(opened["id"], "?lang=de"), headers=OURS | SCRIPT).status_code == 200
    assert _locale(opened) == "de"


def test_two_servers_to_which_somebody_returns_at_once_ask_once(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    stripe.simulator.fault(count=None, delay=0.2)
    start = threading.Barrier(4)

    def come_back() -> None:
        start.wait()
        looking.look(opened["id"])

    servers = [threading.Thread(target=come_back) for _ in range(4)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert _asked(stripe) == 1


def test_head_asks_nobody_and_leaves_the_look_to_who_comes(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    stripe.simulator.passed(opened["session_id"])
    stripe.simulator.fault(count=None)
    assert pages.head(_returning(opened)).status_code == 303
    assert _asked(stripe) == 0
    pages.get(_returning(opened))
    assert _asked(stripe) == 1


def test_where_stripe_does_not_answer_the_event_is_waited_for_and_an_old_failure_is_not_shown(
    pages: TestClient, stripe: Stories
) -> None:
    opened = _opened(pages)
    stripe.simulator.fail(opened["session_id"], "document_expired")
    stripe.deliver(opened["session_id"])
    stripe.simulator.fault(500, count=None)
    location = pages.get(_returning(opened)).headers["location"]
    waiting = pages.get(location)
    assert waiting.status_code == 200
    assert "status.js" in waiting.text
    assert "There is a problem" not in waiting.text
    stripe.simulator.clear_faults()
    stripe.simulator.fail(opened["session_id"], "document_expired")
    stripe.deliver(opened["session_id"])
    assert pages.get(location).status_code == 303, "the same failure again is another one"


def _has_submitted_again(stripe: Stories, opened: dict[str, Any]) -> None:
    """Submits again after a failure that is known; no event of the second time has come."""
    stripe.simulator.fail(opened["session_id"], "document_expired")
    stripe.deliver(opened["session_id"])
    stripe.simulator.submit(opened["session_id"])


def _is_told_to_wait(pages: TestClient, opened: dict[str, Any]) -> bool:
    waiting = pages.get(pages.get(_returning(opened)).headers["location"])
    return waiting.status_code == 200 and "status.js" in waiting.text and "There is a problem" not in waiting.text


def test_whoever_learns_nothing_from_their_look_waits_and_sees_no_old_failure(
    pages: TestClient, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_before, at_once, in_trouble = (_opened(pages, client_reference_id=f"user-{number}") for number in range(3))
    for opened in (failed_before, at_once, in_trouble):
        _has_submitted_again(stripe, opened)
    stripe.simulator.fault(500, count=None)
    assert _is_told_to_wait(pages, failed_before)
    stripe.simulator.clear_faults()
    assert _is_told_to_wait(pages, failed_before), "their look failed a moment ago"
    stripe.simulator.fault(hang=True, count=None, name="held", path="verification_sessions")
    first = threading.Thread(target=lambda: pages.get(_returning(at_once)))
    first.start()
    wait_until(lambda: stripe.simulator.faults()[0]["callers"])
    assert _is_told_to_wait(pages, at_once), "another device asks just now"
    stripe.simulator.take_back("held")
    first.join()
    monkeypatch.setattr(process, "apply", lambda _: (_ for _ in ()).throw(OperationalError("", {}, Exception())))
    assert _is_told_to_wait(pages, in_trouble), "Stripe has answered, and the database is in trouble"


def test_whoever_comes_back_without_having_submitted_is_shown_what_was_wrong(
    pages: TestClient, stripe: Stories
) -> None:
    opened = _opened(pages)
    stripe.simulator.fail(opened["session_id"], "document_expired")
    stripe.deliver(opened["session_id"])
    assert "after" not in pages.get(_returning(opened)).headers["location"]


@pytest.mark.parametrize("way", ["return", "button", "nothing"])
def test_a_redaction_of_which_no_event_has_told_opens_nothing_again(
    pages: TestClient, stripe: Stories, way: str
) -> None:
    """The known record names no verification any more, and a new session would be billed."""
    opened = _opened(pages)
    stripe.simulator.passed(opened["session_id"])
    stripe.simulator.act(opened["session_id"], "redact")
    if way == "return":
        assert _is_told_to_wait(pages, opened)
    if way == "button":
        assert pages.post(path_to(opened["id"])).status_code == 410
    again = pages.post("/verifications", json=LEAST, headers=APP)
    assert (again.status_code, again.json()["id"], len(at_stripe(stripe))) == (200, opened["id"], 1)


def test_an_id_alone_lets_nobody_in(pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    opened = _opened(pages)
    stripe.simulator.fault(count=None)
    path = _returning(opened)
    for forged in (
        f"/return/{opened['id']}",
        path[:-1],
        path.replace("idv_", "idv_0"),
        f"/return/{path_to(opened['id'])[8:]}",
    ):
        answer = pages.get(forged)
        assert (answer.status_code, "/verify/" in answer.text) == (200, False)
    environment.setenv("LINK_KEYS", f"{'m' * 32},{'n' * 32}")
    settings.cache_clear()
    assert pages.get(path).status_code == 303, "of the older key"
    assert _asked(stripe) == 1


def test_who_returns_by_a_key_that_was_taken_out_is_not_told_that_something_is_wrong(
    pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _opened(pages)
    environment.setenv("LINK_KEYS", "m" * 32)
    settings.cache_clear()
    back = choose(enter(pages, opened["id"]), "pass").removeprefix(HERE)
    stripe.simulator.fault(count=None)
    for answer in (pages.get(back), pages.head(back)):
        assert answer.status_code == 200
    assert "<h1>You are back from Stripe</h1>" in pages.get(back).text
    assert _asked(stripe) == 0
    stripe.deliver(opened["session_id"])
    assert "Your identity is verified" in pages.get(path_to(opened["id"])).text, "the event tells what they did"


def test_without_links_the_application_is_returned_to_as_ever(api: TestClient) -> None:
    opened = api.post(
        "/verifications", json={**LEAST, "return_url": "https://app.example/done", "integration": "redirect"}
    )
    assert choose(opened.json()["entry"]["url"], "pass") == "https://app.example/done"


def test_who_returns_from_what_has_no_session_yet_asks_nobody(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    with transaction() as session:
        session.connection().execute(update(Verification).values(session_id=None))
    stripe.simulator.fault(count=None)
    assert pages.get(_returning(opened)).status_code == 303
    assert _asked(stripe) == 0
    with transaction() as session:
        assert session.execute(select(col(Verification.looked_at))).scalar_one() is not None
