"""The person's pages without a browser: each state, each way in, and that opening them changes nothing."""

import re
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from config import broker, database
from config.database import transaction, true_now
from config.settings import Settings, settings
from handlers.catalogue import mails
from handlers.sessions import entering, links
from handlers.tables.models import ActionStatus, Verification, VerificationRecord
from receiver.pages.headers import entering as policy_of_entering
from receiver.pages.headers import leads_to_stripe
from tests.integration.openings import APP, LEAST, at_stripe
from tests.integration.stories import Stories, by_name
from tests.integration.visits import HERE, OURS, SCRIPT, path_to, untouched
from tests.support import databases, facts

pytestmark = pytest.mark.usefixtures("database_url", "stripe")
MANY = 3
# The person's acts, the word for them, and the status of their page.
STORIES: dict[str, tuple[list[str], str, int]] = {
    "nothing": ([], "todo", 200),
    "left": (["abandon"], "failed", 200),
    "failed": (["fail"], "failed", 200),
    "submitted": (["submit"], "processing", 200),
    "passed": (["passed"], "verified", 200),
    "canceled": (["cancel"], "ended", 410),
    "failed three times": (["fail", "fail", "fail"], "limit", 410),
    "redacted": (["passed", "redact"], "redacted", 410),
}


def _opened(pages: TestClient, reference: str = "user-1", **changes: Any) -> dict[str, Any]:
    body = {**LEAST, "client_reference_id": reference, **changes}
    answer = pages.post("/verifications", json=body, headers=APP)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def _elsewhere(stripe: Stories) -> str:
    session_id = stripe.simulator.create()
    stripe.deliver(session_id)
    return session_id


def _lives(stripe: Stories, session_id: str, steps: list[str], *, is_heard_of: bool = True) -> None:
    for step in steps:
        if step == "fail":
            stripe.simulator.fail(session_id, "document_expired")
        else:
            getattr(stripe.simulator, step)(session_id)
        if is_heard_of:
            stripe.deliver(session_id)


def _word(pages: TestClient, subject: str) -> str:
    return str(pages.get(path_to(subject, "/status"), headers=SCRIPT).json()["word"])


def _title(text: str) -> str:
    found = re.search(r"<h1>(.*)</h1>", text)
    assert found
    return found[1]


def _returning(verification_id: str) -> str:
    return links.return_url_of(verification_id).removeprefix(HERE)


def test_each_state_has_its_page_and_opening_it_changes_nothing_and_asks_nobody(
    pages: TestClient, stripe: Stories, database_url: str
) -> None:
    subjects: dict[str, str] = {}
    for story, (steps, _, _) in STORIES.items():
        opened, elsewhere = _opened(pages, story), _elsewhere(stripe)
        for session_id in (opened["session_id"], elsewhere):
            _lives(stripe, session_id, steps)
        subjects |= {opened["id"]: story, elsewhere: story}
    with untouched(stripe, database_url):
        for subject, story in subjects.items():
            _, word, status = STORIES[story]
            path = path_to(subject)
            answer = pages.get(path)
            assert (answer.status_code, _word(pages, subject)) == (status, word), (story, answer.text)
            assert ('method="post"' in answer.text) is (word in ("todo", "failed"))
            assert ("stripe.com" in answer.headers["content-security-policy"]) is (word in ("todo", "failed"))
            waiting = pages.get(f"{path}/status")
            if word in ("todo", "failed"):
                assert (waiting.status_code, waiting.headers["location"]) == (303, path)
            else:
                assert (waiting.status_code, _title(waiting.text)) == (status, _title(answer.text))
            for _ in range(MANY):
                assert pages.head(path).status_code == status
                pages.head(f"{path}/status")
                pages.get(path, headers={"Sec-Purpose": "prefetch", "Sec-Fetch-Site": "none"})
            if subject.startswith("idv_"):
                assert pages.head(_returning(subject)).status_code == 303
        for name in ("pages.css", "verify.js", "status.js", "logo"):
            pages.get(f"/assets/{name}")


def test_a_link_to_a_session_that_was_replaced_leads_to_the_current_one(pages: TestClient, stripe: Stories) -> None:
    first = _opened(pages)
    second = _opened(pages, replaces=first["session_id"])
    stripe.deliver(first["session_id"])
    for subject in (first["id"], first["session_id"]):
        assert pages.get(path_to(subject)).status_code == 200
        secret = pages.post(path_to(subject), headers=SCRIPT).json()["client_secret"]
        assert secret.startswith(f"{second['session_id']}_secret_")


def test_a_link_that_leads_nowhere_is_none(pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    of_the_other_mode = _elsewhere(stripe)
    other = update(VerificationRecord).where(col(VerificationRecord.session_id) == of_the_other_mode)
    with transaction() as session:
        session.connection().execute(other.values(livemode=True))
    for subject in ("idv_of_nobody", "vs_of_nobody", of_the_other_mode):
        for answer in (
            pages.get(path_to(subject)),
            pages.post(path_to(subject)),
            pages.get(path_to(subject, "/status")),
        ):
            assert (answer.status_code, answer.headers["referrer-policy"]) == (404, "no-referrer")
    path = path_to(_opened(pages)["id"])
    for forged in (path[:-1], path[:-8], path.replace("idv_", "idv_0"), f"{path}x", "/verify/x", "/verify/..%2f"):
        for below in ("", "/status"):
            assert pages.get(forged + below).status_code == 404, forged
        assert pages.post(forged).status_code == 404
    environment.setenv("LINK_KEYS", f"{'m' * 32},{'n' * 32}")
    settings.cache_clear()
    assert pages.get(path).status_code == 200, "of the older key"
    environment.setenv("LINK_KEYS", "m" * 32)
    settings.cache_clear()
    assert pages.get(path).status_code == 404, "of a key that is gone"


def test_an_expired_link_lets_nobody_in(
    pages: TestClient, stripe: Stories, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, moment = path_to(_opened(pages)["id"]), true_now()
    monkeypatch.setattr(links, "true_now", lambda: moment + timedelta(days=8))
    with untouched(stripe, database_url):
        for answer in (pages.get(path), pages.get(f"{path}/status"), pages.post(path, headers=OURS)):
            assert answer.status_code == 410
        told = pages.post(path, headers=SCRIPT)
        assert (told.status_code, told.json()) == (410, {"error": "expired", "location": path})
    assert f'action="{path}/link?lang=en"' in pages.get(path).text


def test_whose_link_has_expired_is_spoken_to_in_their_language(
    pages: TestClient, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    english = {"Accept-Language": "en"}
    paths = [path_to(_opened(pages, locale="de")["id"]), path_to(_elsewhere(stripe)), path_to("idv_of_nobody")]
    moment = true_now()
    monkeypatch.setattr(links, "true_now", lambda: moment + timedelta(days=8))
    told = [_title(pages.get(path, headers=english).text) for path in paths]
    assert told == ["Dieser Link ist abgelaufen", "This link has expired", "This link does not work"]
    assert _title(pages.get(f"{paths[0]}?lang=en").text) == "This link has expired"
    (asks,) = re.findall(r'action="([^"]*)"', pages.get(paths[0], headers=english).text)
    assert asks == f"{paths[0]}/link?lang=de"
    for asking in (asks, f"{paths[0]}/link"):
        assert "Bitte sehen Sie in Ihrem Postfach nach" in pages.post(asking, headers=english | OURS).text


def test_where_no_mails_go_out_no_link_is_promised_by_mail(pages: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, moment = _opened(pages), true_now()
    path = path_to(opened["id"])
    monkeypatch.setattr(links, "true_now", lambda: moment + timedelta(days=8))
    monkeypatch.setattr(Settings, "mails_go_out", False)
    mails.environment.cache_clear()
    shown = pages.get(path).text
    assert ("<form" in shown, "email you" in shown, "where you began" in shown) == (False, False, True)
    assert pages.post(f"{path}/link", headers=OURS).headers["location"] == path
    assert "email_link" not in by_name(opened["session_id"])


def test_a_new_link_is_mailed_to_who_asks_and_the_page_says_the_same_in_any_case(
    pages: TestClient, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, elsewhere, forgotten = _opened(pages), _elsewhere(stripe), _opened(pages, "user-2")
    pages.post(f"/verifications/{forgotten['id']}/redact", headers=APP)
    paths = {subject: path_to(subject) for subject in (opened["id"], elsewhere, forgotten["id"])}
    moment = true_now()
    monkeypatch.setattr(links, "true_now", lambda: moment + timedelta(days=8))
    told = [pages.post(f"{path}/link", headers=OURS) for path in paths.values() for _ in range(2)]
    assert {answer.status_code for answer in told} == {200}
    assert (
        len({answer.text.replace(path, "") for path in paths.values() for answer in told if path in answer.text}) <= 1
    )
    for session_id in (opened["session_id"], elsewhere):
        assert by_name(session_id)["email_link"] == ["pending"]
    assert "email_link" not in by_name(forgotten["session_id"])
    assert pages.post(f"{paths[elsewhere]}/link", headers={"Origin": "https://evil.example"}).status_code == 403
    again = pages.get(f"{paths[elsewhere]}/link?lang=de")
    assert (again.status_code, again.headers["location"]) == (303, f"{paths[elsewhere]}?lang=de")
    assert pages.post(path_to("idv_of_nobody", "/link")).status_code == 404


def test_other_methods_do_not_exist(pages: TestClient, stripe: Stories, database_url: str) -> None:
    opened = _opened(pages)
    with untouched(stripe, database_url):
        for path in (path_to(opened["id"]), path_to(opened["id"], "/status"), _returning(opened["id"])):
            for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "LINK"):
                assert pages.request(method, path).status_code == 405
        assert pages.post(path_to(opened["id"], "/status")).status_code == 405
        assert pages.post(_returning(opened["id"])).status_code == 405


def test_the_button_leads_to_stripe_once_more_each_time(
    pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    path = path_to(_opened(pages)["id"])
    assert pages.post(path, headers=OURS).headers["location"].startswith(f"{stripe.simulator.base}/start/")
    first, second = (pages.post(path, headers=SCRIPT | OURS) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json().keys() == {"client_secret", "publishable_key", "status"}
    of_which = {answer.json()["client_secret"].partition("_secret_")[0] for answer in (first, second)}
    assert of_which == {at_stripe(stripe)[0]["id"]}
    assert len(at_stripe(stripe)) == 1
    entry = {name: second.json()[name] for name in ("client_secret", "publishable_key")}
    assert stripe.simulator.enter(**entry)
    environment.setenv("STRIPE_PUBLISHABLE_KEY", "")
    settings.cache_clear()
    assert "verify.js" not in pages.get(path).text
    assert pages.post(path, headers=SCRIPT).json()["url"].startswith(f"{stripe.simulator.base}/start/")


@pytest.mark.parametrize(("story", "word"), [("submit", "processing"), ("passed", "verified")])
def test_who_submitted_in_another_tab_is_led_to_the_status_which_knows(
    pages: TestClient, stripe: Stories, story: str, word: str
) -> None:
    """Its event has not come yet: Stripe's answer at the button counts."""
    opened = _opened(pages)
    _lives(stripe, opened["session_id"], [story], is_heard_of=False)
    path = path_to(opened["id"])
    assert pages.get(path).status_code == 200
    told = pages.post(path, headers=SCRIPT)
    assert (told.status_code, told.json()) == (409, {"error": word, "location": f"{path}/status"})
    assert pages.post(path).headers["location"] == f"{path}/status"
    assert _word(pages, opened["id"]) == word


def test_whoever_goes_in_from_a_page_of_long_ago_waits_for_the_result_of_this_time(
    pages: TestClient, stripe: Stories
) -> None:
    opened = _opened(pages)
    path = path_to(opened["id"])
    assert _title(pages.get(path).text) == "Verify your identity"
    _lives(stripe, opened["session_id"], ["fail"])
    status = pages.post(path, headers=SCRIPT).json()["status"]
    _lives(stripe, opened["session_id"], ["submit"], is_heard_of=False)
    waiting = pages.get(status)
    assert (waiting.status_code, _title(waiting.text)) == (200, "Your identity is being checked")


@pytest.mark.parametrize("is_heard_of", [True, False])
def test_nobody_is_let_in_by_a_page_of_ours_after_what_no_other_try_would_change(
    pages: TestClient, stripe: Stories, *, is_heard_of: bool
) -> None:
    """The page of such a failure has no button; an older page has. The application may still let them in."""
    opened = _opened(pages)
    for subject, session_id in ((opened["id"], opened["session_id"]), (elsewhere := _elsewhere(stripe), elsewhere)):
        stripe.simulator.fail(session_id, "selfie_manipulated")
        if is_heard_of:
            stripe.deliver(session_id)
        path = path_to(subject)
        told = pages.post(path, headers=SCRIPT)
        assert (told.status_code, told.json()) == (409, {"error": "no-retry", "location": f"{path}/status"})
        assert pages.post(path, headers=OURS).headers["location"] == f"{path}/status"
        assert pages.get(f"{path}/status").headers["location"] == path
        assert 'method="post"' not in pages.get(path).text
    entry = pages.post("/verifications", json={**LEAST, "integration": "redirect"}, headers=APP).json()["entry"]
    assert entry["url"].startswith(f"{stripe.simulator.base}/start/")


def test_nobody_is_let_in_past_an_end_of_which_no_event_has_told(pages: TestClient, stripe: Stories) -> None:
    for story in ("canceled", "failed three times", "redacted"):
        (*before, last), page, _ = STORIES[story]
        for subject in (_opened(pages, story), {"id": (id_ := _elsewhere(stripe)), "session_id": id_}):
            _lives(stripe, subject["session_id"], before)
            _lives(stripe, subject["session_id"], [last], is_heard_of=False)
            path = path_to(subject["id"])
            told = pages.post(path, headers=SCRIPT)
            assert (told.status_code, told.json()) == (410, {"error": page, "location": path})
            assert pages.post(path).status_code == 410
            if page != "redacted":  # a redaction is believed once its event tells
                assert (pages.get(path).status_code, _word(pages, subject["id"])) == (410, page)


def test_where_there_is_no_session_yet_there_is_no_button_and_the_way_back(pages: TestClient) -> None:
    """The session comes in a moment, or its opener has died and the next opening makes it."""
    opened = _opened(pages, return_url="https://app.example/done")
    path = path_to(opened["id"])
    change = update(Verification).where(col(Verification.id) == opened["id"])
    with transaction() as session:
        session.connection().execute(change.values(generation=2, session_id=None))
    shown = pages.get(path)
    assert (shown.status_code, _word(pages, opened["id"])) == (200, "opening")
    assert 'method="post"' not in shown.text
    assert 'href="https://app.example/done"' in shown.text
    told = pages.post(path, headers=SCRIPT)
    assert (told.status_code, told.json()) == (409, {"error": "opening", "location": f"{path}/status"})
    assert _title(pages.get(pages.post(path).headers["location"]).text) == _title(shown.text)
    again = _opened(pages, return_url="https://app.example/done")
    assert (again["id"], _word(pages, opened["id"])) == (opened["id"], "todo")


def test_whoever_waits_or_is_at_the_limit_finds_the_way_back(pages: TestClient, stripe: Stories) -> None:
    for story in ("nothing", "submitted", "failed three times"):
        opened = _opened(pages, story, return_url="https://app.example/done")
        _lives(stripe, opened["session_id"], STORIES[story][0])
        version = pages.get(path_to(opened["id"], "/status"), headers=SCRIPT).json()["version"]
        shown = pages.get(path_to(opened["id"], f"/status?after={version}"))
        assert 'href="https://app.example/done"' in shown.text, story


@pytest.mark.parametrize("way", ["page", "entry", "opening"])
def test_what_a_refusal_makes_owed_is_published_at_once(
    pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, way: str
) -> None:
    sent: list[int] = []
    environment.setattr(broker, "_send", lambda _, __, ___, arguments: sent.extend(arguments[0]))
    environment.setattr(broker, "_reached", lambda use: use(Mock()) or True)
    environment.setattr(broker, "_length", lambda _, __: 0)
    opened = _opened(pages)
    _lives(stripe, opened["session_id"], ["fail", "fail"])
    _lives(stripe, opened["session_id"], ["fail"], is_heard_of=False)
    before, sent[:] = {one.id for one in facts.actions(opened["session_id"])}, []
    if way == "page":
        assert pages.post(path_to(opened["id"]), headers=OURS).status_code == 410
    else:
        path, body = {"entry": (f"/{opened['id']}/entry", {}), "opening": ("", LEAST)}[way]
        assert pages.post(f"/verifications{path}", json=body, headers=APP).status_code == 409
    owed = {one.id for one in facts.actions(opened["session_id"]) if one.status == ActionStatus.PENDING} - before
    assert owed
    assert owed <= set(sent)


def test_what_is_gone_at_stripe_has_ended_and_a_script_leaves_that_to_the_browser(pages: TestClient) -> None:
    opened = _opened(pages, return_url="https://app.example/done", locale="de")
    change = update(Verification).where(col(Verification.id) == opened["id"])
    with transaction() as session:
        session.connection().execute(change.values(session_id="vs_gone"))
    with capture_logs() as said:
        for headers in ({}, SCRIPT):
            answer = pages.post(path_to(opened["id"]), headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (410, "text/html; charset=utf-8")
            assert (_title(answer.text), "https://app.example/done" in answer.text) == (
                "Ihre Identitätsprüfung ist beendet",
                True,
            )
        back = pages.get(_returning(opened["id"]))
        assert (back.status_code, _title(back.text)) == (410, _title(answer.text))
        assert pages.post(f"/verifications/{opened['id']}/entry", json={}, headers=APP).status_code == 409
    assert [line["event"] for line in said].count("session.gone") == 4


def test_another_sites_page_posts_nothing_and_ours_does(pages: TestClient, stripe: Stories, database_url: str) -> None:
    path = path_to(_opened(pages)["id"])
    foreign: list[dict[str, str]] = [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://other.verify.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none", "Origin": "https://evil.example"},
        *({"Origin": one} for one in ("https://evil.example", f"{HERE}.evil.example", "http://verify.example")),
    ]
    with untouched(stripe, database_url):
        for headers in foreign:
            for more in ({}, SCRIPT):
                answer = pages.post(path, headers=headers | more)
                assert (answer.status_code, _title(answer.text)) == (403, "Please open your link again")
                assert 'href="">Load the page again' in answer.text
    for ours in ({}, OURS, {"Origin": HERE}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-origin", "Origin": HERE}):
        assert pages.post(path, headers=ours).status_code == 303


@pytest.mark.parametrize(
    ("public_url", "sender"),
    [
        (f"{HERE}:443", {"Origin": HERE}),
        (HERE, {"Origin": f"{HERE}:443"}),
        (HERE, {"Origin": "https://second.example", "Sec-Fetch-Site": "same-origin"}),
    ],
)
def test_our_own_page_posts_whatever_our_address_is_called(
    pages: TestClient, environment: pytest.MonkeyPatch, public_url: str, sender: dict[str, str]
) -> None:
    path = path_to(_opened(pages)["id"])
    environment.setenv("PUBLIC_URL", public_url)
    settings.cache_clear()
    assert pages.post(f"http://10.0.0.1{path}", headers=sender).status_code == 303


def test_with_a_live_key_nobody_is_led_to_a_stripe_of_this_machine(
    stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    here = stripe.simulator.base
    assert leads_to_stripe(f"{here}/start/x")
    assert here in policy_of_entering()
    environment.setenv("STRIPE_API_KEY", "rk_live_1")
    settings.cache_clear()
    assert not leads_to_stripe(f"{here}/start/x")
    assert here not in policy_of_entering()


def test_a_form_without_a_field_is_small(pages: TestClient, stripe: Stories, database_url: str) -> None:
    path = path_to(_opened(pages)["id"])
    with untouched(stripe, database_url):
        for content in (b"x" * 1025, (b"x" for _ in range(2000))):
            answer = pages.post(path, content=content)
            assert (answer.status_code, _title(answer.text)) == (413, "Please load the page again")
    assert pages.post(path, content=b"x" * 1024).status_code == 303


def test_who_cannot_be_asked_now_is_asked_later(pages: TestClient, stripe: Stories, database_url: str) -> None:
    path = path_to(_opened(pages)["id"])
    stripe.simulator.fault(500, count=None)
    answer, told = pages.post(path), pages.post(path, headers=SCRIPT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (told.status_code, told.json()) == (503, {"error": "away"})
    assert pages.get(path).status_code == 200, "which needs no Stripe"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_SQLITE_BUSY_SECONDS", 0.1)
        patch.setattr(database, "_WAITS_SECONDS", 0.5)
        patch.setattr(database, "_APART_WAITS_SECONDS", 0.5)
        database._engines.clear()
        with databases.down(database_url):
            for answer in (pages.get(path), pages.get(f"{path}/status"), pages.post(path)):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example/start", "//evil.example", "javascript:alert(1)", "\\\\evil.example", None, 1),
        *("https://verify.stripe.com@evil.example/", "https://verify.stripe.com\\@evil.example/"),
        *("http://verify.stripe.com/", "https://verify.stripe.com.evil.example/", "https://verify.stripe.com:1/"),
        "https://verify.stripe.com/\r\nSet-Cookie: a=b",
    ],
)
def test_nobody_is_sent_to_another_place_than_stripes_own(url: object) -> None:
    assert not leads_to_stripe(url)
    assert leads_to_stripe("https://verify.stripe.com/start/test_x?a=b#c")


def test_what_stripe_does_not_say_as_it_should_lets_nobody_in(
    pages: TestClient, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_to(_opened(pages)["id"])
    stripe.simulator.fault(nonsense="no way in", count=None)
    refused = [pages.post(path, headers=headers) for headers in ({}, SCRIPT)]
    stripe.simulator.clear_faults()
    monkeypatch.setattr(entering, "entry", lambda *_: entering.Entry({"url": "https://evil.example/start"}))
    for answer in (*refused, pages.post(path)):
        assert (answer.status_code, "location" in answer.headers, "evil" in answer.text) == (503, False, False)
