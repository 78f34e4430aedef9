"""The console without a browser: who is let in, for how long, and no change by accident or for another."""

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from config.database import statement, true_now
from config.settings import settings
from handlers.metrics import counting
from handlers.metrics.history import history
from handlers.operator import console_users
from handlers.sessions import links
from receiver.app import app
from tests.integration.operators import HASH, HERE, KEYS, OURS, PASSWORD, USERS, sign_in, token_in
from tests.support import databases
from tests.support.operator import command
from worker.__main__ import parser
from worker.commands.console import make_user

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def console(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser that follows no redirect by itself."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE, follow_redirects=False) as client:
        yield client


def _is_out(client: TestClient) -> bool:
    answer = client.get("/console")
    return (answer.status_code, answer.headers.get("location")) == (303, "/console/sign-in")


def test_without_users_there_is_no_console(environment: pytest.MonkeyPatch) -> None:
    for name, value in (KEYS | {"CONSOLE_USERS": ""}).items():
        environment.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE) as client:
        assert [client.get(path).status_code for path in ("/console", "/console/sign-in", "/console/console.css")] == [
            404
        ] * 3


def test_who_signs_in_sees_the_overview_until_they_sign_out(console: TestClient) -> None:
    assert _is_out(console)
    answer = sign_in(console)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    page = console.get("/console/")
    assert page.status_code == 200
    assert "anna (mend)" in page.text
    for name in ("waiting-events", "dead-events", "waiting-actions", "dead-actions"):
        assert f'href="/console/lists/{name}"' in page.text
    assert console.get("/console/sign-in").headers["location"] == "/console"
    token = token_in(console.get("/console").text)
    for _ in range(2):
        out = console.post("/console/sign-out", data={"token": token}, headers=OURS)
        assert out.headers["location"] == "/console/sign-in"
        assert _is_out(console)


@pytest.mark.parametrize(("ahead", "is_in"), [(1, True), (300, True), (3600, False)])
def test_who_was_signed_in_by_a_server_whose_measured_clock_is_ahead_is_in_at_each(
    console: TestClient, monkeypatch: pytest.MonkeyPatch, ahead: float, is_in: bool
) -> None:
    at = true_now()
    monkeypatch.setattr(links, "true_now", lambda: at + timedelta(seconds=ahead))
    sign_in(console)
    monkeypatch.setattr(links, "true_now", lambda: at)
    assert _is_out(console) is not is_in


def test_the_cookie_is_for_this_host_and_no_script_and_no_other_site(console: TestClient) -> None:
    cookie, known = sign_in(console).headers.get_list("set-cookie")
    name, *flags = cookie.split("; ")
    assert name.startswith("__Host-console=")
    assert {flag.lower() for flag in flags} == {"httponly", "max-age=28800", "path=/", "samesite=strict", "secure"}
    for one in (cookie, known):
        assert PASSWORD not in one
        assert HASH not in one
    assert known.startswith("__Host-console-known=")
    assert {"httponly", "secure", "samesite=strict"} < {flag.lower() for flag in known.split("; ")}


def test_a_wrong_name_or_password_lets_nobody_in_and_is_told_alike(
    console: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    for name, password in (("anna", "c0rrect"), ("anna", ""), ("nobody", PASSWORD), ("", PASSWORD), ("anna\x00", "\0")):
        answer = sign_in(console, name, password)
        assert answer.status_code == 403
        assert "The name or the password is not right." in answer.text
        assert _is_out(console)
        assert not name or name not in caplog.text


def _elsewhere(number: int) -> TestClient:
    """A browser at another address, without a session."""
    return TestClient(app, HERE, follow_redirects=False, client=(f"192.0.2.{number}", 1))


def test_guessing_is_slowed_by_name_and_address_and_by_address_whoever_is_meant(console: TestClient) -> None:
    for _ in range(5):
        assert sign_in(console, "anna", "wrong").status_code == 403
    assert sign_in(console).status_code == 429
    assert sign_in(_elsewhere(1)).status_code == 303
    assert sign_in(console, "otto").status_code == 303
    console.cookies.clear()
    answers = [sign_in(console, f"user-{number}", "wrong").status_code for number in range(20)]
    assert answers[0] == 403
    assert answers[-1] == 429


@pytest.mark.usefixtures("console")
def test_whoever_guesses_from_many_addresses_gets_no_further_and_keeps_nobody_out_who_was_there() -> None:
    anna, otto = _elsewhere(1), _elsewhere(2)
    assert [sign_in(anna).status_code, sign_in(otto, "otto").status_code] == [303, 303]
    anna.cookies.delete("__Host-console")  # the browser drops it after eight hours
    assert [sign_in(_elsewhere(3 + number // 4), "anna", "wrong").status_code for number in range(29)] == [403] * 29
    assert sign_in(_elsewhere(20)).status_code == 429
    otto.cookies.delete("__Host-console")
    assert sign_in(otto).status_code == 429, "where somebody else has signed in, it is not anna's"
    assert sign_in(anna).status_code == 303
    anna.cookies.delete("__Host-console")
    answers = [sign_in(anna, "anna", "wrong").status_code for _ in range(6)]
    assert answers == [403] * 5 + [429], "nor is it a way to guess"


def test_a_name_that_nobody_has_costs_as_much_as_one_that_somebody_has(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        environment.setenv(name, value)
    settings.cache_clear()
    taken: list[dict[str, Any]] = []

    def scrypt(_password: bytes, **how: Any) -> bytes:
        taken.append({name: value for name, value in how.items() if name != "salt"})
        return hashlib.scrypt(_password, **how)

    monkeypatch.setattr(console_users, "scrypt", scrypt)
    assert console_users.judge("anna", PASSWORD)
    assert console_users.judge("nobody", PASSWORD) is None
    assert taken[0] == taken[1]
    assert 128 * taken[0]["n"] * taken[0]["r"] <= 16 * 2**20


def test_a_visit_ends_after_eight_hours(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(console)
    there = true_now()
    for hours, is_out in ((7.9, False), (8.1, True)):
        monkeypatch.setattr(links, "true_now", lambda hours=hours: there + timedelta(hours=hours))
        assert _is_out(console) is is_out


def test_who_was_removed_or_has_another_role_or_password_is_signed_out(
    console: TestClient, environment: pytest.MonkeyPatch
) -> None:
    sign_in(console)
    for name, value, is_out in (
        ("CONSOLE_USERS", f"otto:look:{HASH}", True),
        ("CONSOLE_USERS", f"anna:look:{HASH}", True),
        ("CONSOLE_USERS", f"anna:mend:{'A' * 64}", True),
        ("CONSOLE_USERS", f"{USERS},paul:look:{HASH}", False),
        ("CONSOLE_KEYS", "d" * 32, True),
        ("CONSOLE_KEYS", f"{'d' * 32},{'c' * 32}", False),
    ):
        environment.setenv(name, value)
        settings.cache_clear()
        assert _is_out(console) is is_out
        environment.setenv(name, KEYS[name])


def test_a_cookie_that_we_have_not_signed_is_none(console: TestClient) -> None:
    sign_in(console)
    (signed,) = (cookie.value for cookie in console.cookies.jar if cookie.name == "__Host-console")
    assert signed
    of_another_kind = links.ClockSigner("c" * 32).sign("a.b.anna").decode()
    for forged in (signed.replace(".anna.", ".otto."), signed[:-1], "", ".", "é", of_another_kind):
        console.cookies.clear()
        assert console.get("/console", headers=[(b"Cookie", f"__Host-console={forged}".encode())]).status_code == 303


def test_a_form_that_is_not_ours_does_nothing(console: TestClient) -> None:
    sign_in(console)
    ours = token_in(console.get("/console").text)
    for token, headers in (
        ("", OURS),
        ("é", OURS),
        (f"{ours}~", OURS),
        (ours * 2000, OURS),
        (ours, {"Sec-Fetch-Site": "cross-site"}),
        (ours, {"Sec-Fetch-Site": "same-site"}),
        (ours, {"Origin": "https://evil.example"}),
    ):
        assert console.post("/console/sign-out", data={"token": token}, headers=headers).status_code in (403, 413)
        assert console.get("/console").status_code == 200


def test_a_form_of_many_fields_is_too_long_whoever_sends_it(console: TestClient) -> None:
    many = {f"field-{number}": "" for number in range(30)}
    assert console.post("/console/sign-in", data=many, headers=OURS).status_code == 413
    sign_in(console)
    sent = {"token": token_in(console.get("/console").text), "word": "vs_1"} | many
    assert console.post("/console/find", data=sent, headers=OURS).status_code == 413


def test_who_is_signed_out_while_a_page_is_open_is_told_that_nothing_was_done(
    console: TestClient, environment: pytest.MonkeyPatch
) -> None:
    sign_in(console)
    token = token_in(console.get("/console").text)
    environment.setenv("CONSOLE_USERS", f"otto:look:{HASH}")
    settings.cache_clear()
    answer = console.post("/console/find", data={"word": "vs_1", "token": token}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in?ended")
    assert "nothing was done" in console.get("/console/sign-in?ended").text
    assert "nothing was done" not in console.get("/console/sign-in").text


def test_the_token_of_another_browser_is_none(console: TestClient) -> None:
    sign_in(console)
    token = token_in(console.get("/console").text)
    console.cookies.clear()
    assert console.post("/console/sign-in", data={"token": token}, headers=OURS).status_code == 403
    sign_in(console)
    assert console.post("/console/sign-out", data={"token": token}, headers=OURS).status_code == 403


def test_it_is_not_open_on_a_wire_that_others_read(console: TestClient) -> None:
    plain = "http://verify.example"
    for path in ("/console", "/console/sign-in"):
        answer = console.get(f"{plain}{path}")
        assert answer.status_code == 403
        assert "The console is not open here" in answer.text
        assert "<form" not in answer.text
        assert "set-cookie" not in answer.headers
    with TestClient(app, "http://127.0.0.1:8000", client=("127.0.0.1", 1)) as here:
        assert here.get("/console/sign-in").status_code == 200
        assert here.get("http://rebound.example/console/sign-in").status_code == 403


def test_nothing_of_it_is_kept_framed_or_loaded_from_elsewhere(console: TestClient) -> None:
    answers = [console.get(path) for path in ("/console", "/console/sign-in", "/console/console.css")]
    sign_in(console)
    answers += [console.get(path) for path in ("/console", "/console/sign-in")]
    answers += [console.get(path) for path in ("/console/none", "/console/persons", "/console/persons/1/2")]
    assert ["There is no such page" in found.text for found in answers[-3:]] == [True] * 3
    answers += [console.post("/console/sign-out"), console.post("/console/find/x"), console.put("/console/audit")]
    assert (answers[-1].status_code, answers[-1].headers["allow"]) == (405, "GET, HEAD")
    for found in answers:
        policy = found.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert found.headers["cache-control"] == "no-store"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" in found.headers


def test_what_nobody_meant_is_a_page_and_its_line_in_the_log_quotes_nothing(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(console)
    monkeypatch.setattr("receiver.console.routes.audited", lambda: int("c4nary"))
    with capture_logs() as said:
        answer = console.get("/console/audit")
    assert answer.status_code == 500
    assert "Something went wrong here that nobody meant" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "c4nary" not in answer.text
    [line] = [line for line in said if line["event"] == "console.failed"]
    assert line["error"] == "ValueError"
    assert "c4nary" not in str(line)
    assert "exc_info" not in line


def test_a_user_is_made_by_a_command(console: TestClient, environment: pytest.MonkeyPatch) -> None:
    made = command("console-user", "paul", "--role", "mend")
    password = re.search(r"shown this once: (\S+)", made.err)
    assert password
    environment.setenv("CONSOLE_USERS", made.out.strip())
    settings.cache_clear()
    assert sign_in(console, "paul", password[1]).status_code == 303
    assert "paul (mend)" in console.get("/console").text
    assert command("console-user", "p:aul").code == 2


@pytest.mark.parametrize(
    ("typed", "code"), [(["a good password"] * 2, 0), (["short"], 1), (["a good password", "another one"], 1)]
)
def test_a_password_may_be_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], code: int
) -> None:
    answers = iter(typed)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    assert make_user(parser().parse_args(["console-user", "paul", "--ask"])) == code
    said = capsys.readouterr()
    assert bool(re.fullmatch(r"paul:look:[\w-]{64}\n", said.out)) is (code == 0)
    assert not any(one in said.out + said.err for one in typed)


def test_the_overview_has_pictures_of_the_last_hour_day_and_month_and_a_part_that_changes(console: TestClient) -> None:
    counting.DELIVERIES.labels(outcome="accepted", reason="").inc(3)
    counting.EVENT_AGE_SECONDS.observe(0.2)
    counting.flush()
    sign_in(console)
    for span in ("hour", "day", "month", "nonsense"):
        page = console.get(f"/console?span={span}").text
        assert '<rect class="bar-0"' in page
        assert "accepted 3" in page
        assert "style=" not in page
    part = console.get("/console?span=day&live").text
    assert "<html" not in part
    assert "accepted 3" in part
    assert "fetch(" in console.get("/console/console.js").text
    console.cookies.clear()
    assert console.get("/console?live").status_code == 303


def test_figures_of_a_span_stand_in_the_slots_in_which_they_were_counted() -> None:
    counting.DELIVERIES.labels(outcome="refused", reason="x").inc(2)
    for seconds in (0.2, 0.2, 8.0):
        counting.ACTION_AGE_SECONDS.observe(seconds)
    counting.flush()
    with statement() as connection:
        connection.execute(text("UPDATE identity_tally SET value = 5 WHERE name = 'identity_deliveries_total'"))
    for span, slots in (("hour", 60), ("day", 24), ("month", 30)):
        found = history(span)
        assert len(found) == slots
        assert sum(slot.counts["deliveries"]["refused"] for slot in found[-2:]) == 5
        assert sum(slot.counts["deliveries"]["refused"] for slot in found[:-2]) == 0
        assert {slot.oldest("action ages", 0.95) for slot in found} == {None, 10.0}
        assert {slot.oldest("action ages", 0.5) for slot in found} == {None, 0.25}
