"""Common parts of all answers of the person's pages: headers, a language, a logo, and bounds on their number."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from config.settings import settings
from handlers.catalogue import pages as catalogue
from handlers.queue.failures import NotNowError
from handlers.sessions.links import return_url_of
from receiver import threads
from receiver.app import app
from receiver.pages import assets, routes, tries
from tests.integration.openings import APP, LEAST, TOKEN
from tests.integration.stories import Stories
from tests.integration.visits import HERE, KEYS, OURS, SCRIPT, choose, path_to
from tests.support import databases, facts
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url", "stripe")
PLAIN = {
    "default-src": "'none'",
    "script-src": "'self'",
    "connect-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
STRIPES = PLAIN | {
    "script-src": "'self' https://js.stripe.com https://*.js.stripe.com",
    "connect-src": "'self' https://api.stripe.com",
    "frame-src": "https://js.stripe.com https://*.js.stripe.com https://hooks.stripe.com https://verify.stripe.com",
    "form-action": "'self' https://verify.stripe.com",
}
ALWAYS = {
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
    "cache-control": "no-store",
    "strict-transport-security": "max-age=31536000",
}
NOWHERE = ("/verify/", "/verify/a/b/c", "/verify/a/link/b", "/return", "/return/x/y", "/assets", "/assets/a/b")
NEVER = ("permissions-policy", "cross-origin-opener-policy", "cross-origin-embedder-policy", "set-cookie")


def _opened(pages: TestClient, **changes: Any) -> dict[str, Any]:
    return dict(pages.post("/verifications", json={**LEAST, **changes}, headers=APP).json())


def _policy(headers: Mapping[str, str]) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))


def test_an_error_that_nobody_meant_is_a_page_and_its_words_are_in_no_log(
    pages: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, back = path_to(_opened(pages)["id"]), urlsplit(return_url_of("idv_1")).path
    monkeypatch.setattr(routes, "seen", lambda _: int("c4nary"))
    with capture_logs() as said:
        answers = pages.get(path), pages.get(f"{path}/status"), pages.post(path), pages.post(f"{path}/link")
        told, returned = pages.post(path, headers=SCRIPT), pages.get(back)
    for answer in (*answers, returned):
        assert answer.status_code == 503
        assert "We cannot go on at the moment." in answer.text
        assert ALWAYS.items() <= answer.headers.items()
    assert (told.status_code, told.json()) == (503, {"error": "away"})
    lines = [line for line in said if line["event"] == "pages.failed"]
    assert [line["error"] for line in lines] == ["ValueError"] * 6
    assert all("test_page_answers.py" in str(line["where"]) for line in lines), "it says where"
    assert "c4nary" not in str(said)


def test_each_answer_has_its_headers_and_the_page_with_the_button_alone_has_stripes_origins(
    pages: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _opened(pages)
    path = path_to(opened["id"])
    stripe.simulator.fault(500, count=None)
    for answer in (
        pages.get(path),
        pages.head(path),
        pages.post(path),
        pages.post(path, headers=SCRIPT),
        pages.post(path, headers={"Origin": "https://evil.example"}),
        pages.get(f"{path}/status"),
        pages.get(f"{path}/status", headers=SCRIPT),
        pages.get("/verify/x"),
        pages.get("/return/x"),
        *(pages.get(below) for below in NOWHERE),
        pages.get("/assets/none"),
        pages.put(path),
        pages.get(f"{path}/link"),
        pages.put(f"{path}/link"),
        pages.delete("/return/x"),
        pages.post("/assets/pages.css"),
        pages.get(f"http://verify.example{path}/status"),
    ):
        assert ALWAYS.items() <= answer.headers.items(), answer.request.url
        assert not {*NEVER} & {*answer.headers}
        if answer.status_code != 200 or "json" in answer.headers["content-type"]:
            assert _policy(answer.headers) == PLAIN
        assert "<style" not in answer.text
        assert "onclick" not in answer.text
    for nowhere in NOWHERE:
        answer = pages.get(nowhere)
        assert (answer.status_code, "This link does not work" in answer.text) == (404, True), nowhere
        assert pages.head(nowhere).status_code == pages.post(nowhere).status_code == 404
    here = stripe.simulator.base
    policy = _policy(pages.get(path).headers)
    local = {"script-src": f"{STRIPES['script-src']} {here}", "frame-src": f"{STRIPES['frame-src']} {here}"}
    local |= {name: f"{STRIPES[name]} {here}" for name in ("connect-src", "form-action")}
    assert policy == STRIPES | local
    environment.setenv("STRIPE_API_BASE", "https://api.stripe.com")
    settings.cache_clear()
    assert _policy(pages.get(path).headers) == STRIPES
    environment.setenv("CSP_EXTRA", "https://frames.example")
    settings.cache_clear()
    more = {name: f"{STRIPES[name]} https://frames.example" for name in ("frame-src", "connect-src", "form-action")}
    assert _policy(pages.get(path).headers) == STRIPES | more
    environment.setenv("STRIPE_JS_URL", f"{here}/js/stripe.js")
    environment.setenv("CSP_EXTRA", "")
    settings.cache_clear()
    assert _policy(pages.get(path).headers)["script-src"] == f"'self' {here}"


def test_a_method_that_a_path_does_not_know_is_told_those_that_it_does(pages: TestClient) -> None:
    path = path_to(_opened(pages)["id"])
    for answer, allowed in ((pages.put(path), "GET, HEAD, POST"), (pages.put(f"{path}/link"), "GET, HEAD, POST")):
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("public_url", "place", "base"),
    [
        ("https://verify.example:8443", "https://verify.example:8443", ""),
        ("https://verify.example/", HERE, ""),
        ("https://verify.example:8443/a/identity/", "https://verify.example:8443", "/a/identity"),
    ],
)
def test_wherever_we_are_reached_each_address_of_ours_leads_there(
    pages: TestClient, environment: pytest.MonkeyPatch, public_url: str, place: str, base: str
) -> None:
    """A proxy before us takes away the path that PUBLIC_URL has of its own."""
    environment.setenv("PUBLIC_URL", public_url)
    settings.cache_clear()
    opened = _opened(pages, return_url="https://app.example/done")
    link = pages.post(f"/verifications/{opened['id']}/link", headers=APP).json()["url"]
    assert link.startswith(f"{place}{base}/verify/idv_")
    path = link.removeprefix(place + base)
    led = [unescape(one) for one in re.findall(r'(?:href|src|action|data-\w+)="(/[^"]*)"', pages.get(path).text)]
    assert led
    assert [one for one in led if not one.startswith((f"{base}/verify/", f"{base}/assets/"))] == []
    for one in led:
        if "/assets/" in one:
            assert pages.get(one.removeprefix(base)).status_code == 200
    ours = {"Origin": place, "Sec-Fetch-Site": "none"}
    entered = pages.post(path, headers=ours)
    assert entered.status_code == 303
    assert pages.post(path, headers=ours | {"Origin": f"{place}.evil.example"}).status_code == 403
    assert pages.post(path, headers=SCRIPT | ours).json()["status"].startswith(f"{base}{path}/status?after=")
    back = choose(entered.headers["location"], "pass")
    assert back.startswith(f"{place}{base}/return/")
    returned = pages.get(back.removeprefix(place + base))
    assert returned.headers["location"].startswith(f"{base}/verify/")


def test_no_header_says_where_our_addresses_are(pages: TestClient) -> None:
    path = path_to(_opened(pages)["id"])
    for name in ("Host", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Original-URL", "Forwarded"):
        headers = {name: "host=evil.example" if name == "Forwarded" else "evil.example"}
        asked = pages.post(f"/verifications/{path.split('/')[2].split('.')[0]}/link", headers=APP | headers)
        assert asked.json()["url"].startswith(f"{HERE}/verify/"), name
        for answer in (
            pages.get(path, headers=headers),
            pages.post(path, headers=headers),
            pages.get("/return/x", headers=headers),
        ):
            assert answer.status_code in (200, 303)
            assert "evil" not in f"{answer.text}{answer.headers}", name


def test_over_plain_http_nothing_is_said_of_https(pages: TestClient, environment: pytest.MonkeyPatch) -> None:
    path = path_to(_opened(pages)["id"])
    environment.setenv("PUBLIC_URL", "http://127.0.0.1:8000")
    settings.cache_clear()
    answer = pages.get(f"http://verify.example{path}")
    assert (answer.status_code, "strict-transport-security" in answer.headers) == (200, False)


def test_the_status_says_a_word_and_a_version_and_nothing_where_it_is_known(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    path = path_to(opened["id"], "/status")
    first = pages.get(path, headers=SCRIPT)
    assert first.json() == {"word": "todo", "version": first.json()["version"]}
    again = pages.get(path, headers=SCRIPT | {"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.text, again.headers["etag"]) == (304, "", first.headers["etag"])
    seen = {first.headers["etag"]}
    for _ in range(2):
        stripe.simulator.fail(opened["session_id"], "document_expired")
        stripe.deliver(opened["session_id"])
        answer = pages.get(path, headers=SCRIPT | {"If-None-Match": first.headers["etag"]})
        assert (answer.status_code, answer.json()["word"]) == (200, "failed")
        seen.add(answer.headers["etag"])
    assert len(seen) == 3, "the same failure again is news"


@pytest.mark.parametrize("has_failed", [False, True])
def test_who_has_just_been_in_is_not_led_back_by_a_late_event_of_an_earlier_try(
    pages: TestClient, has_failed: bool
) -> None:
    opened, now = _opened(pages), int(time.time())

    def fail(at: int, report: str) -> None:
        about: dict[str, Any] = {"report": report, "code": "document_expired", "event_id": f"evt_{report}"}
        facts.applied(facts.event("requires_input", at, opened["session_id"], **about))

    def version() -> str:
        return str(pages.get(f"{path}/status", headers=SCRIPT).json()["version"])

    if has_failed:
        fail(now + 1000, "vr_second")
    path = path_to(opened["id"])
    before = version()
    fail(now - 1000, "vr_first")
    assert facts.record(opened["session_id"]).submissions == 1 + has_failed
    assert version() == before
    assert pages.get(f"{path}/status", params={"after": before}).status_code == 200
    fail(now + 2000, "vr_third")
    assert version() != before


def test_who_has_just_been_in_waits_for_another_version(pages: TestClient, stripe: Stories) -> None:
    opened = _opened(pages)
    path = path_to(opened["id"])
    version = pages.get(f"{path}/status", headers=SCRIPT).json()["version"]
    assert f"{path}/status?after={version}" in pages.get(path).text
    waiting = pages.get(f"{path}/status", params={"after": version})
    assert (waiting.status_code, "status.js" in waiting.text, _policy(waiting.headers)) == (200, True, PLAIN)
    stripe.simulator.fail(opened["session_id"], "document_expired")
    stripe.deliver(opened["session_id"])
    told = pages.get(f"{path}/status", params={"after": version})
    assert (told.status_code, told.headers["location"]) == (303, path)


def test_where_no_script_runs_the_page_loads_itself_for_ten_minutes_and_not_for_ever(
    pages: TestClient, stripe: Stories
) -> None:
    opened = _opened(pages, locale="en")
    stripe.simulator.submit(opened["session_id"])
    stripe.deliver(opened["session_id"])
    url, times = path_to(opened["id"], "/status?lang=en"), -1
    while url:
        again = re.search(r'http-equiv="refresh" content="15; url=([^"]*)"', pages.get(url).text)
        url, times = unescape(again[1]) if again else "", times + 1
    assert times == 40
    odd = path_to(opened["id"], "/status?times=-1&times=9999999")
    assert "times=1" in pages.get(odd).text


def test_the_language_is_asked_for_or_the_verifications_or_the_browsers(pages: TestClient) -> None:
    german = path_to(_opened(pages, locale="de-AT")["id"])
    nobodys = path_to(_opened(pages, client_reference_id="user-2")["id"])

    def language(path: str, accepted: str = "", **query: str) -> str:
        answer = pages.get(path, params=query, headers={"Accept-Language": accepted})
        return answer.text.partition('<html lang="')[2].partition('"')[0]

    assert language(german) == "de"
    assert language(german, "en") == "de"
    assert language(german, "en", lang="en") == "en"
    assert language(german, "en", lang='"><script>') == "de"
    assert language(nobodys, "fr;q=0.9, de-CH") == "de"
    assert language(nobodys, "fr") == "en"
    assert language("/verify/x", "de") == "de"
    assert f'action="{german}?lang=de"' in pages.get(german, headers={"Accept-Language": "en"}).text
    assert f'action="{german}?lang=en"' in pages.get(german, params={"lang": "en"}).text
    for asked, kept in (("en", "en"), ("EN", "en"), ("en-GB", "en"), ("de_AT", "de")):
        assert pages.get(f"{german}/status", params={"lang": asked}).headers["location"] == f"{german}?lang={kept}"
    for junk in ("", "-", "*", "%00", "e" * 9000, "tlh", "../de"):
        assert pages.get(f"{german}/status", params={"lang": junk}).headers["location"] == german


def test_another_language_leads_to_the_same_page_and_of_a_forms_answer_to_the_forms(pages: TestClient) -> None:
    path = path_to(_opened(pages)["id"])
    version = pages.get(f"{path}/status", headers=SCRIPT).json()["version"]

    def german(page: str) -> str:
        (found,) = re.findall(r'href="([^"]*)" lang="de"', page)
        return unescape(found)

    waiting = pages.get(f"{path}/status", params={"lang": "en", "after": version})
    assert german(waiting.text) == f"?after={version}&lang=de"
    assert "Ihre Identität wird geprüft" in pages.get(f"{path}/status{german(waiting.text)}").text
    assert german(pages.get(path, params={"next": "//evil.example"}).text) == "?lang=de"
    assert german(pages.post(f"{path}/link", headers=OURS).text) == f"{path}?lang=de"


def test_who_tries_too_often_waits_whatever_the_spelling(pages: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = (path_to(_opened(pages, client_reference_id=name)["id"]) for name in ("user-1", "user-2"))
    spellings = [path[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]
    same = [one for one in spellings if pages.get(one).status_code == 200]
    assert len(same) == 4
    answers = [pages.post(same[number % 4]).status_code for number in range(11)]
    assert answers == [303] * 10 + [429]
    told = pages.post(path, headers=SCRIPT)
    assert (told.status_code, told.json(), told.headers["retry-after"]) == (429, {"error": "busy"}, "60")
    assert pages.get(path).status_code == 200, "looking is counted apart"
    assert pages.post(other).status_code == 303
    monkeypatch.setattr(tries, "OF_AN_ADDRESS", tries.ENTRIES)
    answers = [pages.get(other).status_code for _ in range(11)]
    assert answers == [200] * 10 + [429]


def test_whoever_is_refused_by_the_thousand_has_no_page_written_for_each(
    pages: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write_page = Counter[tuple[str, str]](), catalogue.write_page

    def write(name: str, language: str, shown: catalogue.Shown) -> str:
        written[name, language] += 1
        return write_page(name, language, shown)

    monkeypatch.setattr(catalogue, "write_page", write)
    path = path_to(_opened(pages)["id"])
    for number in range(20):
        language = {"Accept-Language": ("en", "de")[number % 2]}
        assert pages.get(f"/verify/{number}?after={number}", headers=language).status_code == 404
        assert pages.get(f"/return/{number}", headers=language).status_code == 200
        assert pages.post(path, headers={"Origin": f"https://{number}.example"} | language).status_code == 403
        assert pages.post(path, content=b"x" * 2000, headers=language).status_code == 413
    names = ("no_link", "returned", "foreign", "too_long")
    assert written == {(name, language): 1 for name in names for language in ("en", "de")}
    assert 'href="?after=1.2.3&amp;lang=de"' in pages.get("/verify/x?after=1.2.3").text


def test_an_address_is_the_senders_own_behind_trusted_proxies(
    pages: TestClient, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.setenv("TRUSTED_PROXIES", "1")
    settings.cache_clear()
    monkeypatch.setattr(tries, "OF_AN_ADDRESS", tries.ENTRIES)
    path = path_to(_opened(pages)["id"])

    def answers(sender: str) -> list[int]:
        return [pages.get(path, headers={"X-Forwarded-For": f"203.0.113.9, {sender}"}).status_code for _ in range(11)]

    assert answers("192.0.2.1") == answers("192.0.2.2") == [200] * 10 + [429]


def test_whoever_floods_us_from_nobody_knows_where_keeps_nobody_from_their_link(
    pages: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "_OF_THE_UNKNOWN", tries.ENTRIES)
    path, headers = path_to(_opened(pages)["id"]), {"X-Forwarded-For": "192.0.2.1"}  # a proxy that no setting names
    for flooded in ("/verify/x", "/return/x"):
        answers = {pages.get(flooded, headers=headers).status_code for _ in range(11)}
    assert answers == {429}
    for _ in range(11):
        assert pages.get(path, headers=headers).status_code == 200
    returning = urlsplit(return_url_of(path.split("/")[2].split(".")[0])).path
    assert pages.head(returning, headers=headers).status_code == 303


def test_whoever_waits_for_stripe_keeps_nobody_from_a_page(
    pages: TestClient, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        path_to(_opened(pages, client_reference_id=f"user-{number}")["id"]) for number in range(routes._THREADS + 1)
    ]
    stripe.simulator.fault(hang=True, count=None, name="held", path="verification_sessions")
    answers: list[int] = []
    waiting = [
        threading.Thread(target=lambda path=path: answers.append(pages.post(path).status_code)) for path in paths[1:]
    ]
    for one in waiting:
        one.start()
    wait_until(lambda: len(stripe.simulator.faults()[0]["callers"]) == routes._THREADS)
    monkeypatch.setattr(threads, "WAITS_SECONDS", 0.3)
    assert pages.get(paths[0]).status_code == 200
    assert pages.get(f"{paths[1]}/status", headers=SCRIPT).status_code == 200
    one_more = pages.post(paths[0], headers=SCRIPT)
    assert (one_more.status_code, one_more.json()) == (503, {"error": "away"})
    assert pages.post("/verifications", json={}, headers=APP).status_code == 422, "the application has its own threads"
    stripe.simulator.take_back("held")
    for one in waiting:
        one.join()
    assert len(answers) == routes._THREADS


def test_where_no_links_are_made_there_are_no_pages(api: TestClient) -> None:
    for path in ("/verify/x", "/return/x", "/assets/pages.css"):
        answer = api.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    names = ["receiver.pages", "receiver.api", "handlers.catalogue", "jinja2", "babel", "limits", "itsdangerous"]
    program = f"import sys, receiver.__main__; print([name for name in {names} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n", (
        "web has loaded it all the same"
    )


ODD = (
    b"[",
    b"http://[",
    b"\xff\xfe",
    b"a" * 5000,
    b"http://x:99999999/",
    b"\xed\xa0\x80",
    b'"',
    b"de;q=0.5," * 400,
    b"http://[::1",
)


def test_what_no_browser_sends_is_answered_all_the_same(pages: TestClient) -> None:
    path = path_to(_opened(pages)["id"])
    for name in (b"Host", b"Origin", b"Sec-Fetch-Site", b"Accept-Language", b"Accept", b"If-None-Match", b"Forwarded"):
        for value in ODD:
            headers = [(name, value)]
            for answer in (pages.get(f"{path}/status", headers=headers), pages.post(f"{path}x", headers=headers)):
                assert answer.status_code in (200, 303, 403, 404), (name, value)
    for odd in ("/verify/%ff%00%ed%a0%80", "/verify/%22%3E%3Cscript%3E", "/return/%ff.%00", "/verify/x%0d%0aA:b"):
        for query in ("", "?lang=%ff&after=%0d%0a", f"?after={'9' * 5000}", "?lang[]=x&&&="):
            for asking in ({}, SCRIPT):
                answer = pages.get(odd + query, headers=asking)
                status = 200 if odd.startswith("/return/") else 404
                assert (answer.status_code, "<script" in answer.text) == (status, False)


# Assets


def test_an_asset_is_asked_for_once(pages: TestClient) -> None:
    for name, kind in {"pages.css": "text/css", "verify.js": "text/javascript", "status.js": "text/javascript"}.items():
        answer = pages.get(f"/assets/{name}")
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-cache", "nosniff")
        again = pages.get(f"/assets/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("logo", "pages.css.map", "..%2froutes.py", "routes.py"):
        assert pages.get(f"/assets/{name}").status_code == 404


PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
LOGOS = {
    "/logo.png": (200, PNG),
    "/logo.svg": (200, SVG),
    "/exported.svg": (
        200,
        b"\xef\xbb\xbf<!-- Generator -->\n<!DOCTYPE svg PUBLIC 'a' 'b'>\n" + SVG.partition(b"\n")[2],
    ),
    "/photo.webp": (200, b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 8),
    "/sound.wav": (200, b"RIFF\x10\0\0\0WAVEfmt " + b"\0" * 8),
    "/feed.xml": (200, b"<?xml version='1.0'?><rss><image>&lt;svg</image></rss>"),
    "/svg-in-html": (200, b"<!doctype html><svg></svg>"),
    "/page": (200, b"<!doctype html><script>alert(1)</script>"),
    "/gone": (404, PNG),
    "/large": (200, PNG + b"\0" * 300_000),
    "/moved": (302, PNG),
}


class _Logos(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = LOGOS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "/logo.png")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def logos() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Logos) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_logo_is_fetched_once_at_the_start_and_served_by_us(logos: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in (KEYS | {"API_TOKENS": f"shop:{TOKEN}", "BRAND_LOGO_URL": f"{logos}/logo.png"}).items():
        environment.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE) as pages:
        while (answer := pages.get("/assets/logo")).status_code != 200:
            pass
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert 'src="/assets/logo"' in pages.get("/verify/x").text


def test_only_a_picture_is_a_logo(logos: str) -> None:
    assert assets.fetched(f"{logos}/logo.svg") == ("image/svg+xml", SVG)
    assert assets.fetched(f"{logos}/exported.svg")[0] == "image/svg+xml"
    assert assets.fetched(f"{logos}/photo.webp")[0] == "image/webp"
    for path in ("/page", "/sound.wav", "/feed.xml", "/svg-in-html", "/gone", "/large", "/moved"):
        with pytest.raises((ValueError, NotNowError)):
            assets.fetched(f"{logos}{path}")
    with pytest.raises(NotNowError):
        assets.fetched("http://127.0.0.1:9/logo.png")
