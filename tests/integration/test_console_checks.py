"""The console's checks: the doctor's words, asked by a button, one after the other, while all else goes on."""

import html
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from config.database import keep_connections
from handlers.operator.checks import checks as all_checks
from receiver.app import app
from receiver.console import checks
from tests.integration.operators import HASH, HERE, KEYS, send, sign_in
from tests.simulator.client import Simulator
from tests.support import databases
from tests.support.operator import command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url")
PATH = "/console/checks"
_GO_ON = {"clocks", "processes"}


@pytest.fixture
def console(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser with otto, who may only look, signed in; this process has as many connections as web."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    keep_connections(3, beside=1, apart=True)
    databases.forget_process_state()
    with TestClient(app, HERE, follow_redirects=False) as client:
        sign_in(client, "otto")
        yield client


def _only(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Leaves this check alone of all."""
    monkeypatch.setattr(checks, "checks", lambda ask: {what: all_checks(ask)[what]})


def _check(console: TestClient) -> tuple[int, str]:
    answer = send(console, PATH, on=PATH)
    return answer.status_code, answer.text


def _lines(page: str) -> set[tuple[str, str, str]]:
    found = re.findall(r'<li class="\w+"><strong>(\w+) ([^<]+)</strong>: (.+)</li>', page)
    return {(level, what, html.unescape(words)) for level, what, words in found}


def _steady(lines: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """The lines without the figures that go on: the clocks' differences, and the last signs of life."""
    return {(level, what, re.sub(r"\d+", "N", words)) for level, what, words in lines if what not in _GO_ON}


@contextmanager
def _silent_mail_server(environment: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{server.getsockname()[1]}")
        environment.setenv("MAIL_FROM", "id@example.com")
        yield server


@pytest.mark.usefixtures("simulator")
def test_they_say_what_the_doctor_says_and_no_secret(console: TestClient) -> None:
    assert "Nobody has asked" in console.get(PATH).text
    said = {(line["level"], line["what"], line["words"]) for line in command("doctor", "--json").json}
    code, page = _check(console)
    assert code == 200
    assert _steady(_lines(page)) == _steady(said)
    assert {"stripe", "permissions", "endpoint", "redis", "mail", "words", "dead"} <= {what for _, what, _ in said}
    assert _lines(console.get(PATH).text) == _lines(page)
    for secret in (KEYS["STRIPE_WEBHOOK_SECRET"], KEYS["CONSOLE_KEYS"], HASH, "sk_test_"):
        assert secret not in page


def test_a_failure_is_shown_with_what_to_do(
    simulator: Simulator, console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch, "stripe")
    simulator.keys(key=simulator.api_key, revoked=True)
    found = [words for level, what, words in _lines(_check(console)[1]) if (level, what) == ("FAIL", "stripe")]
    assert len(found) == 1
    assert "not revoked" in found[0]
    assert simulator.api_key not in found[0]


def test_they_are_asked_once_at_a_time_and_all_else_goes_on_meanwhile(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    _only(monkeypatch, "mail")
    with _silent_mail_server(environment) as server, ThreadPoolExecutor(1) as another:
        console: TestClient = request.getfixturevalue("console")
        first = another.submit(_check, console)
        asking, _ = server.accept()
        with asking:
            code, page = _check(console)
            assert (code, "Nothing was asked" in page, "Under way" in page) == (429, True, True)
            assert console.get("/console").status_code == 200
            assert console.get("/healthz").status_code == 200
            assert not first.done()
        code, page = first.result()
        assert code == 200
        assert "FAIL" in {level for level, what, _ in _lines(page) if what == "mail"}
        assert _check(console)[0] == 429  # at once again


def test_they_may_be_asked_again_after_a_while(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "settings")
    monkeypatch.setattr(checks, "PAUSE_SECONDS", 0.0)
    assert [_check(console)[0] for _ in range(2)] == [200, 200]


def test_nobody_waits_for_what_takes_too_long_and_the_rest_is_left_out(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    _only(monkeypatch, "mail")
    monkeypatch.setattr(checks, "_MOST_SECONDS", 0.0)
    with _silent_mail_server(environment) as server:
        console: TestClient = request.getfixturevalue("console")
        code, page = _check(console)
        assert (code, "Under way" in page) == (200, True)
        server.accept()[0].close()
    wait_until(lambda: "That took too long" in console.get(PATH).text)
    assert {what for _, what, _ in _lines(console.get(PATH).text)} == {"mail"}


def test_they_are_for_who_has_signed_in_and_sends_the_form(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch, "settings")
    assert console.post(PATH, data={"token": "x"}).status_code == 403
    assert send(console, PATH, on=PATH, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert "Nobody has asked" in console.get(PATH).text
    console.cookies.clear()
    assert [console.get(PATH).status_code, console.post(PATH).status_code] == [303, 303]
