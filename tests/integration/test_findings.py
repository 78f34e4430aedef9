"""One list has all findings: every place shows it, within seconds of the trouble."""

import asyncio
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from cryptography.fernet import Fernet
from prometheus_client import Counter
from sqlalchemy import delete, insert, make_url, text, update
from sqlmodel import col
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from config import database
from config.database import database_now, now, statement, transaction
from config.settings import settings
from config.version import running_version
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import counting, heartbeats, tallies
from handlers.operator import connections, from_web, refusals
from handlers.operator.findings import FAIL, JUDGES, WARN, findings, of_the_broker
from handlers.outbox.perform import perform
from handlers.queue import failures
from handlers.sessions.links import link_to
from handlers.tables.models import Bookmark, Heartbeat, InboxEvent, OutboxAction, Tally, VerifiedOutput
from receiver import health
from receiver.app import app
from receiver.threads import Threads
from tests.support import databases, facts, postgres, shapes
from tests.support.operator import command
from tests.support.processes import Service, service
from tests.support.redises import other_redis
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until
from worker import app as worker_app
from worker import tasks
from worker.commands import show

DOCS = Path(__file__).parents[2] / "docs"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "whsec_made_up_for_tests"
LINKS = {"LINK_KEYS": "o" * 32, "STRIPE_API_KEY": "sk_test_made_up", "PUBLIC_URL": "https://verify.example.com"}

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def client(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    environment.setattr(health, "_GOOD_FOR_SECONDS", 0.0)
    environment.setattr(counting, "_FEW", 1000)  # a test's first deliveries may all be refused
    databases.forget_process_state()
    with TestClient(app, client=("127.0.0.1", 50000)) as client:
        facts.all_alive()
        yield client


def test_each_finding_has_its_alert_and_its_line_in_the_documents() -> None:
    alerts = dict(re.findall(r"- alert: (\w+)\n +expr: (.+)\n", (DOCS / "alerts.yml").read_text()))
    for what, judge in JUDGES.items():
        assert f'identity_findings{{what="{what}",level="' in alerts[judge.alert]
    page = (DOCS / "operations.md").read_text()
    named = set(re.findall(r"^\| `(\w+)`(?: \(WARN\))? \|.*\| `(\w+)` \|$", page, re.MULTILINE))
    assert named == {(what, judge.alert) for what, judge in JUDGES.items()}


@pytest.mark.usefixtures("alive")
def test_a_good_service_has_none() -> None:
    assert [one for one in findings(None) if one.level == FAIL] == []
    assert command("status").code == 0


def test_every_place_says_the_same(client: TestClient) -> None:
    assert (client.get("/health/backlog").status_code, _failing()) == (200, set())
    facts.applied(facts.event("verified"))
    with statement() as connection:
        connection.execute(text("UPDATE outbox_action SET status = 'dead'"))
    assert _failing() == {"dead"}
    answer = client.get("/health/backlog")
    assert (answer.status_code, answer.json()["findings"][0]["what"]) == (503, "dead")
    assert 'identity_findings{level="FAIL",what="dead"} 1.0' in client.get("/metrics").text
    for said in (command("status", "--json"), command("doctor", "--json")):
        assert said.code == 1
    assert "1 actions are dead" in command("status").out
    assert "1 actions are dead" in command("doctor").out


def test_a_wrong_webhook_secret_is_found(client: TestClient) -> None:
    body = shapes.as_body(facts.payload("created"))
    for _ in range(19):
        headers = {"Stripe-Signature": shapes.signature(body, "whsec_of_another_endpoint")}
        assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 400
    counting.flush()
    said = command("status", "--json")
    assert said.code == 1
    [found] = [one for one in said.json["findings"] if one["what"] == "deliveries"]
    assert found["words"] == "19 refused for their signature, none accepted in an hour"
    assert "secret" in found["to_do"]
    counts = {"what": "deliveries refused", "why": "the signature does not match", "last_hour": 19, "last_day": 19}
    assert said.json["counts"] == [counts]
    _deliver(client)
    counting.flush()
    assert _failing() == set()


def test_a_webhook_secret_that_is_wrong_since_a_moment_ago_is_found_within_ten_minutes(client: TestClient) -> None:
    _deliver(client)
    counting.flush()
    with statement() as connection:
        connection.execute(update(Tally).values(since=now(-timedelta(minutes=20))))
    body = shapes.as_body(facts.payload("created"))
    headers = {"Stripe-Signature": shapes.signature(body, "whsec_of_another_endpoint")}
    for count in range(1, 4):
        assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 400
        counting.flush()
        assert _failing() == ({"deliveries"} if count == 3 else set())
    with statement() as connection:
        connection.execute(text("DELETE FROM identity_tally WHERE seconds <> 600"))
        connection.execute(update(Tally).values(since=now(-timedelta(minutes=21))))
    [warned] = [one for one in findings(None) if one.what == "deliveries"]
    assert (warned.level, warned.words) == (
        WARN,
        "3 of 4 were refused in an hour, most for: the signature does not match",
    )


def test_a_stranger_who_signs_nothing_is_no_finding(client: TestClient) -> None:
    for _ in range(5):
        assert client.post("/webhooks/stripe", content=b"{}").status_code == 400
    counting.flush()
    assert _failing() == set()


def test_deliveries_whose_signature_a_proxy_takes_away_are_found(client: TestClient) -> None:
    for _ in range(3):
        assert client.post("/webhooks/stripe", content=b"{}", headers={"User-Agent": "Stripe/1.0"}).status_code == 400
    counting.flush()
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert found.words == "3 refused as Stripe's signature is missing, none accepted in an hour"
    assert "Stripe-Signature" in found.to_do
    _deliver(client)
    counting.flush()
    assert _failing() == set()


def test_a_new_process_that_takes_none_of_its_first_deliveries_is_found_whatever_was_taken_before(
    client: TestClient, environment: pytest.MonkeyPatch
) -> None:
    _deliver(client)
    counting.flush()
    environment.setattr(counting, "_got_on", defaultdict(float))
    deliveries = Counter("deliveries_of_a_new_process", "", ("outcome", "reason"), registry=None)
    environment.setattr(counting, "DELIVERIES", deliveries)
    environment.setitem(counting._GETS_ON, "deliveries", deliveries)
    environment.setattr(counting, "_FEW", 3)
    environment.setattr("handlers.operator.refusals._BLIP", timedelta(0))
    body = shapes.as_body(facts.payload("created"))
    headers = {"Stripe-Signature": shapes.signature(body, "whsec_of_another_endpoint")}
    for count in range(1, 4):
        assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 400
        counting._note_progress()
        heartbeats.beat("web")
        assert _failing() == ({"refusals"} if count == 3 else set())
    _deliver(client)
    counting._note_progress()
    heartbeats.beat("web")
    assert _failing() == set()


def test_a_token_that_is_gone_from_the_settings_and_still_used_is_found(environment: pytest.MonkeyPatch) -> None:
    gone, ours = "g" * 40, "o" * 40
    environment.setenv("API_TOKENS", f"shop:{gone}")
    with _asked_with(gone, "x" * 40) as answers:
        assert (answers, _tokens_told()) == ([200, 401], [])
    environment.setenv("API_TOKENS", f"shop:{ours}")
    with _asked_with(*(f"{number:x<40}" for number in range(10)), "x", ours) as answers:
        assert (answers, _tokens_told()) == ([*([401] * 11), 200], [])
    with _asked_with(gone, ours):
        [said] = _tokens_told()
        assert said.startswith("the token of shop, which is gone from API_TOKENS, is still used: since ")
        environment.setattr(refusals, "_STILL_USED_WITHIN", timedelta(0))
        assert _tokens_told() == []
    with statement() as connection:
        names = [str(row[0]) for row in connection.execute(text("SELECT name FROM identity_bookmark"))]
    assert len([name for name in names if name.startswith("API token shop ")]) == 2
    assert not any(token in name for name in names for token in (gone, ours))


def test_an_application_whose_requests_are_all_refused_is_found(environment: pytest.MonkeyPatch) -> None:
    ours = "o" * 40
    environment.setenv("API_TOKENS", f"shop:{ours}")
    environment.setenv("STRIPE_API_KEY", "sk_test_made_up")
    with _asked_with("x", "x", "x"):  # none that API_TOKENS could hold
        assert _failing() == set()
    with _asked_with("x" * 40, "x" * 40):
        assert _failing() == set()
    with _asked_with("x" * 40):
        [found] = [one for one in findings(None) if one.level == FAIL]
        assert (found.what, found.words) == ("tokens", "3 requests refused for their token, none accepted in an hour")
    with _asked_with(ours):
        assert _failing() == set()


@contextmanager
def _asked_with(*tokens: str) -> Iterator[list[int]]:
    """The statuses of requests with these tokens to a new process, which has written its figures down and lives."""
    databases.forget_process_state()
    with TestClient(app, "https://verify.example") as asking:
        with transaction() as session:  # the processes before had this one's name
            session.connection().execute(delete(Heartbeat))
        facts.all_alive()
        answers = [asking.get("/verifications", headers={"Authorization": f"Bearer {token}"}) for token in tokens]
        heartbeats.beat("web")
        counting.flush()
        yield [answer.status_code for answer in answers]


def _tokens_told() -> list[str]:
    return [one.words for one in findings(None) if one.level == FAIL and one.what == "refusals"]


@pytest.mark.usefixtures("alive")
def test_a_setting_that_is_misspelt_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REVEIW_EMAIL", "review@example.com")
    environment.setenv("CONSOLE_KEY", "of another program's, perhaps")
    told = [(one.level, one.words) for one in findings(None) if one.what == "settings"]
    assert told == [
        (FAIL, "REVEIW_EMAIL is set and read by nobody, and REVIEW_EMAIL is not set"),
        (WARN, "CONSOLE_KEY is set and read by nobody, and CONSOLE_KEYS is not set"),
    ]


@pytest.mark.usefixtures("alive")
def test_tokens_without_a_key_at_stripe_are_found(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("API_TOKENS", f"app:{'t' * 32}")
    settings.cache_clear()
    assert _failing() == {"settings"}


def test_who_has_no_redis_is_told_to_set_one(environment: pytest.MonkeyPatch) -> None:
    [(_, _, to_do)] = of_the_broker("it cannot be reached")
    assert to_do.startswith("set REDIS_URL")
    environment.setenv("REDIS_URL", "redis://127.0.0.1:9")
    settings.cache_clear()
    assert [(level, to_do) for level, _, to_do in of_the_broker("it cannot be reached")] == [(FAIL, "see REDIS_URL")]


@pytest.mark.usefixtures("alive")
def test_no_webhook_secret_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("STRIPE_WEBHOOK_SECRET")
    settings.cache_clear()
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, found.words.split(":")[0]) == ("settings", "STRIPE_WEBHOOK_SECRET is not set")


def test_a_key_of_the_other_mode_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    environment.setenv("STRIPE_API_KEY", "sk_live_made_up_for_tests")
    databases.forget_process_state()
    with TestClient(app) as client:
        _deliver(client)
        counting.flush()
        facts.all_alive()
    said = command("status", "--json")
    assert said.code == 1
    assert ["STRIPE_API_KEY" in one["words"] for one in said.json["findings"] if one["what"] == "deliveries"] == [True]


def test_a_mark_that_no_session_of_a_day_has_is_found(environment: pytest.MonkeyPatch) -> None:
    """With a mark that is misspelt nobody is mailed, and Stripe holds everything for delivered."""
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    environment.setenv("OUR_SESSIONS", "app=onbaording")
    databases.forget_process_state()
    with TestClient(app) as client:
        for count in range(1, 4):
            _deliver(client)
            counting.flush()
            found = [one for one in findings(None) if one.what == "deliveries"]
            assert [(one.level, "OUR_SESSIONS" in one.to_do) for one in found] == [(WARN, True)] * (count == 3)
    environment.delenv("OUR_SESSIONS")
    databases.forget_process_state()
    with TestClient(app) as client:
        _deliver(client)  # the same event, which is stored as another one's
        counting.flush()
    assert [one for one in findings(None) if one.what == "deliveries"] == []


@pytest.mark.parametrize("kind", ["web", "worker", "clock"])
@pytest.mark.usefixtures("alive")
def test_a_missing_kind_of_process_is_found_unless_it_said_that_it_ends(kind: str) -> None:
    _move(kind, last_at=now(-timedelta(seconds=9)), worked_at=now(-timedelta(seconds=9)))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, f"no {kind} runs since" in found.words) == ("processes", True)
    _move(kind, ended_at=now(-timedelta(seconds=50)))
    assert _failing() == set()
    _move(kind, ended_at=now(-timedelta(seconds=70)))
    assert _failing() == {"processes"}


@pytest.mark.parametrize("kind", ["web", "worker"])
@pytest.mark.usefixtures("alive")
def test_one_of_two_that_falls_silent_is_found_unless_it_said_that_it_ends(kind: str) -> None:
    row: dict[str, object] = {"name": f"{kind} there 2", "kind": kind, "version": running_version(), "host": "there"}
    long_ago, lately = now(-timedelta(minutes=20)), now(-timedelta(seconds=9))
    row |= {"started_at": long_ago, "worked_at": lately, "last_at": lately}
    with transaction() as session:
        session.connection().execute(insert(Heartbeat).values(**row))
    [found] = findings(None)
    assert (found.level, found.words.partition(" since ")[0]) == (FAIL, f"{kind} there 2 has given no sign of life")
    assert found.words.endswith(f"no {kind} has begun in its place")
    other = update(Heartbeat).where(col(Heartbeat.name) == f"{kind} there 2")
    living = update(Heartbeat).where(col(Heartbeat.kind) == kind, col(Heartbeat.name) != f"{kind} there 2")
    with transaction() as session:
        session.connection().execute(living.values(started_at=now(-timedelta(seconds=5))))
    [found] = findings(None)
    assert (found.level, found.words.rpartition(": ")[2]) == (WARN, f"another {kind} has begun since")
    for change in ({"ended_at": lately}, {"ended_at": None, "last_at": now(-timedelta(minutes=11))}):
        with transaction() as session:
            session.connection().execute(other.values(**change))
        assert findings(None) == []


@pytest.mark.usefixtures("alive")
def test_a_process_that_dies_after_a_restart_is_missing_at_once() -> None:
    began, ended = now(-timedelta(minutes=9)), now(-timedelta(seconds=40))
    row: dict[str, object] = {"name": "worker 0", "kind": "worker", "version": "1", "host": "here"}
    row |= {"started_at": began, "worked_at": ended, "last_at": ended, "ended_at": ended}
    with transaction() as session:
        session.connection().execute(insert(Heartbeat).values(**row))
    assert _failing() == set()
    with transaction() as session:
        died = update(Heartbeat).where(col(Heartbeat.name) == "worker here 1")
        session.connection().execute(died.values(last_at=now(-timedelta(seconds=9))))
    assert _failing() == {"processes"}


@pytest.mark.usefixtures("alive")
def test_a_clock_that_cannot_be_heard_is_not_called_missing() -> None:
    _move("clock", worked_at=now(-timedelta(minutes=5)))
    assert {one.what for one in findings("it cannot be reached")} == {"redis"}


@pytest.mark.usefixtures("alive")
def test_a_clock_is_not_called_missing_while_the_workers_are_too_busy_to_hear_it() -> None:
    _move("clock", worked_at=now(-timedelta(seconds=20)))
    _move("worker", listened_at=now(-timedelta(seconds=21)))
    assert _failing() == set()
    _move("worker", listened_at=now(-timedelta(seconds=2)))
    assert _failing() == {"processes"}


def test_a_clock_has_lived_until_it_was_heard_not_until_that_is_written_down() -> None:
    said = {"name": "clock here 1", "version": "1", "host": "here", "age_seconds": 99.0, "is_ending": False}
    heartbeats.hear(said)
    heartbeats._process.heard = {name: (one, at - 7.0) for name, (one, at) in heartbeats._process.heard.items()}
    heartbeats.listened()
    heartbeats.beat("worker")
    heartbeats.beat("web")
    _move("worker", started_at=now(-timedelta(minutes=5)))
    assert ["no clock runs since" in one.words for one in findings(None) if one.what == "processes"] == [True]


@pytest.mark.parametrize(("ended", "is_told"), [(1.0, False), (20.0, True)])
def test_a_clock_that_redis_took_no_message_of_is_not_called_missing_until_it_may_be_heard_again(
    ended: float, *, is_told: bool
) -> None:
    facts.all_alive()
    _move("clock", worked_at=now(-timedelta(minutes=1)))
    with transaction() as session:
        session.connection().execute(delete(Heartbeat).where(col(Heartbeat.kind) == "worker"))
    heartbeats.cut_off()
    heartbeats._process.cut_off -= ended
    heartbeats.listened()
    heartbeats.beat("worker")
    _move("worker", started_at=now(-timedelta(minutes=5)))
    assert _failing() == ({"processes"} if is_told else set())


def test_what_a_clock_said_before_its_end_undoes_it_not_though_it_is_heard_later() -> None:
    for age, is_ending, is_ended in ((99.0, True, True), (98.0, False, True), (0.0, False, False)):
        said = {"name": "clock here 1", "version": "1", "host": "here", "age_seconds": age, "is_ending": is_ending}
        heartbeats.hear(said)
        heartbeats.beat("worker")
        [clock] = [one for one in heartbeats.known_processes() if one.kind == "clock"]
        assert bool(clock.ended_at) == is_ended


@pytest.mark.parametrize(("of", "minutes", "is_told"), [("tasks", 3, True), ("mail", 5, False), ("mail", 7, True)])
def test_a_process_hangs_as_long_as_one_kind_of_its_threads_ends_nothing(of: str, minutes: int, is_told: bool) -> None:
    heartbeats.IN_HAND["stripe"]["1"] = time.monotonic()
    heartbeats.IN_HAND[of]["2"] = time.monotonic() - 60 * minutes
    with capture_logs() as said:
        heartbeats.beat("worker")
        heartbeats.beat("worker")
    assert [(line["event"], line["of"]) for line in said] == [("threads.hanging", of)] * is_told
    assert any("has ended nothing since" in one.words for one in findings(None)) == is_told
    heartbeats.IN_HAND[of]["3"] = time.monotonic()
    heartbeats.beat("worker")
    assert not any("hang" in one.words for one in findings(None))


def test_all_that_has_threads_says_what_it_has_in_hand(environment: pytest.MonkeyPatch) -> None:
    def note(*_: object, **__: object) -> list[int]:
        seen.append({of for of, units in heartbeats.IN_HAND.items() if units})
        return []

    seen: list[set[str]] = []
    environment.setattr("handlers.outbox.perform.perform", note)
    environment.setattr("worker.tasks.publish_actions", note)
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    worker_app.bind_task("1", tasks.perform_actions)
    tasks.performers.perform(facts.applied(facts.event("verified")))
    wait_until(lambda: seen)
    worker_app.unbind_task("1")

    async def ask() -> None:
        rooms = Threads("pages", 1, "")
        await rooms.do(note)
        rooms.end()

    asyncio.run(ask())
    wait_until(lambda: not any(heartbeats.IN_HAND.values()))
    assert (seen[0], seen[-1]) == ({"tasks", "mail"}, {"pages"})


def test_a_process_that_dies_again_and_again_is_found_though_another_lives_just_now() -> None:
    heartbeats.beat("worker")
    for number in range(3):
        assert "keeps restarting" not in str(findings(None))
        began = now(-timedelta(seconds=60 * number + 15))
        with transaction() as session:
            row: dict[str, object] = {"name": f"worker here {number}", "kind": "worker", "version": "1", "host": "here"}
            row |= {"started_at": began, "worked_at": began, "last_at": now(-timedelta(seconds=60 * number + 9))}
            session.connection().execute(insert(Heartbeat).values(**row))
    [found] = [one for one in findings(None) if "keeps restarting" in one.words]
    assert (found.level, found.words.split(":")[0]) == (FAIL, "worker keeps restarting")


@pytest.mark.parametrize(("worker_lived_on", "is_told"), [(timedelta(0), False), (timedelta(seconds=9), True)])
def test_a_clock_that_ends_with_its_worker_keeps_no_restarting(worker_lived_on: timedelta, is_told: bool) -> None:
    """Ctrl-C ends both, and nobody hears the clock's last word."""
    for number in range(3):
        began, ended = (now(-timedelta(seconds=60 * number + before)) for before in (60, 30))
        row: dict[str, object] = {"version": "1", "host": "here", "started_at": began, "worked_at": ended}
        until = now(-timedelta(seconds=60 * number + 30) + worker_lived_on)
        rows = [row | {"name": f"clock {number}", "kind": "clock", "last_at": ended}]
        rows.append(row | {"name": f"worker {number}", "kind": "worker", "last_at": until, "ended_at": until})
        with transaction() as session:
            for one in rows:
                session.connection().execute(insert(Heartbeat).values(**one))
    assert ("clock keeps restarting" in str(findings(None))) == is_told


def test_a_worker_that_ends_by_itself_does_not_say_that_it_was_told_to() -> None:
    for is_told in (False, True):
        worker_app.begin_counting()
        if is_told:
            worker_app.hand_back()
        worker_app.end_counting()
        failures.stopping.clear()
        tasks.performers.allow(1)
        [worker] = heartbeats.known_processes()
        assert bool(worker.ended_at) == is_told


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_jump_of_the_databases_clock_makes_nobody_missing_nor_hanging_nor_alive(hours: int) -> None:
    """Moves every moment in the table, and in each process's memory, as if the clock had been elsewhere before."""
    for name in ("web", "worker", "clock"):
        heartbeats.beat(name)
    jump = timedelta(hours=hours)
    before = heartbeats.known_processes()
    dead = {"name": "web 0", "kind": "web", "version": "1", "host": "here"}
    with transaction() as session:
        connection = session.connection()
        long_ago = now(-timedelta(minutes=12))
        connection.execute(insert(Heartbeat).values(**dead, started_at=long_ago, worked_at=long_ago, last_at=long_ago))
        for one in before:
            earlier = {name: getattr(one, name) - jump for name in ("started_at", "worked_at", "last_at")}
            connection.execute(update(Heartbeat).where(col(Heartbeat.name) == one.name).values(**earlier))
    assert heartbeats._process.shown
    shown, then, took = heartbeats._process.shown
    heartbeats._process.shown = shown - jump, then, took
    heartbeats.beat("worker")
    assert [one.words for one in findings(None) if one.what == "processes"] == []
    _move("worker", started_at=now(-timedelta(minutes=1)))
    _move("web", last_at=now(-timedelta(seconds=9)))
    assert ["no web runs" in one.words for one in findings(None) if one.what == "processes"] == [True]


def test_where_nobody_has_beaten_just_now_it_is_looked_again(environment: pytest.MonkeyPatch) -> None:
    facts.all_alive()
    with transaction() as session:
        session.connection().execute(update(Heartbeat).values(last_at=now(-timedelta(hours=1))))
    environment.setattr(time, "sleep", lambda _: facts.all_alive())
    assert _failing() == set()


def test_a_process_whose_own_heartbeat_hangs_does_not_look_again(environment: pytest.MonkeyPatch) -> None:
    heartbeats.beat("web")
    with transaction() as session:
        session.connection().execute(update(Heartbeat).values(last_at=now(-timedelta(minutes=1))))
    heartbeats._process.wrote -= 60.0
    environment.setattr(time, "sleep", lambda _: pytest.fail("it looks again"))
    assert _failing() == {"processes"}


@pytest.mark.usefixtures("alive")
def test_a_process_whose_threads_all_hang_is_found() -> None:
    _move("worker", worked_at=now(timedelta(minutes=56)))  # of a last word in an hour
    assert [one.words for one in findings(None) if "all threads of a kind hang" in one.words]


@pytest.mark.usefixtures("alive")
def test_an_old_version_beside_a_new_one_is_told_at_once_and_fails_after_a_while() -> None:
    _move("web", version="2")
    _move("web", started_at=now(-timedelta(seconds=5)))
    told = [(one.level, one.words) for one in findings(None) if one.what == "processes"]
    assert told == [
        (WARN, f"clock here 1 is of {running_version()}, and 2 runs beside it"),
        (WARN, f"worker here 1 is of {running_version()}, and 2 runs beside it"),
    ]
    _move("worker", started_at=now(-timedelta(minutes=21)))
    _move("clock", started_at=now(-timedelta(minutes=21)))
    _move("web", started_at=now(-timedelta(minutes=11)))
    assert [one.level for one in findings(None) if one.what == "processes"] == [FAIL, FAIL]


@pytest.mark.parametrize(
    ("ours", "others", "between", "named"),
    [
        ({"STRIPE_API_KEY": "sk_live_0123456789"}, {"STRIPE_API_KEY": "rk_test_0123456789"}, "worker", "mode"),
        ({"LINK_KEYS": "o" * 32}, {"LINK_KEYS": "p" * 32}, "web", "LINK_KEYS is"),
        ({"LINK_KEYS": "o" * 32}, {}, "worker", "LINK_KEYS is"),
        ({"API_TOKENS": f"shop:{'o' * 32}"}, {"API_TOKENS": f"shop:{'p' * 32}"}, "web", "API_TOKENS is"),
        ({"MAIL_FROM": "a@example.com"}, {}, "worker", None),
        ({"MAIL_FROM": "a@example.com"}, {"MAIL_FROM": "b@example.com"}, "web", "MAIL_FROM is"),
        ({"STRIPE_API_KEY": "sk_test_0123456789"}, {"STRIPE_API_KEY": "rk_test_0123456789"}, "worker", None),
        ({"LOG_LEVEL": "debug", "PORT": "1"}, {"LOG_LEVEL": "info", "PORT": "2"}, "web", None),
        (
            {"CONSOLE_USERS": f"anna:look:{'o' * 64}", "CONSOLE_KEYS": "o" * 32},
            {"CONSOLE_USERS": f"anna:look:{'o' * 64}", "CONSOLE_KEYS": "p" * 32},
            "web",
            "CONSOLE_KEYS is",
        ),
        ({"LINK_KEYS": "o" * 32, "RETRY_URL": "https://a.example.com"}, {}, "web", "LINK_KEYS, RETRY_URL are"),
    ],
)
@pytest.mark.usefixtures("alive")
def test_a_setting_that_is_not_the_same_in_two_processes_is_found(
    environment: pytest.MonkeyPatch, ours: dict[str, str], others: dict[str, str], between: str, named: str | None
) -> None:
    for kind, host, given in (("web", "here", ours), (between, "there", others)):
        with environment.context() as patch:
            patch.setattr("socket.gethostname", lambda host=host: host)
            for name, value in given.items():
                patch.setenv(name, value)
            databases.forget_process_state()
            heartbeats.beat(kind)
    told = [one.words for one in findings(None) if one.what == "processes" and one.level == FAIL]
    assert [named in one and "web here" in one and f"{between} there" in one for one in told if named] == (
        [True] if named else []
    )
    with statement() as connection:
        rows = [str(row[0]) for row in connection.execute(text("SELECT outside FROM identity_heartbeat"))]
    assert not any(value in row for row in rows for value in (*ours.values(), *others.values()) if len(value) > 1)


@pytest.mark.usefixtures("alive")
def test_missing_migrations_and_a_missing_schema_are_found() -> None:
    with statement() as connection:
        connection.execute(text("UPDATE identity_schema_version SET version_num = '0001'"))
    assert _failing() == {"database"}
    with statement() as connection:
        connection.execute(text("DROP TABLE identity_schema_version"))
        connection.execute(text("DROP TABLE inbox_event"))
    said = command("status")
    assert (said.code, "python -m worker migrate" in said.out) == (1, True)
    assert "python -m worker migrate" in command("doctor").out


@pytest.mark.parametrize("table", ["outbox_action", "identity_paused", "verification_record"])
@pytest.mark.usefixtures("alive")
def test_a_table_that_is_gone_is_named_since_no_migration_brings_it_back(table: str) -> None:
    with statement() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO gone"))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, found.words) == ("database", f"{table} is missing, which migrations have made")


@pytest.mark.parametrize("column", ["outbox_action.reason", "verification_record.redaction_asked_at"])
@pytest.mark.usefixtures("alive")
def test_a_column_that_is_gone_is_named(column: str) -> None:
    table, _, name = column.partition(".")
    with statement() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME COLUMN {name} TO gone"))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, found.words) == ("database", f"{column} is missing, which migrations have made")


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite makes a table anew for that")
@pytest.mark.parametrize("table", ["outbox_action", "identity_heartbeat"])
@pytest.mark.usefixtures("alive")
def test_a_column_of_somebody_elses_that_wants_a_value_in_each_row_is_named(table: str) -> None:
    with statement() as connection:
        connection.execute(
            text(f"ALTER TABLE {table} ADD COLUMN theirs text, ADD COLUMN other text NOT NULL DEFAULT ''")
        )
    _move("web", last_at=now(-timedelta(minutes=1)))
    assert _failing() == {"processes"}
    with statement() as connection:
        connection.execute(text(f"UPDATE {table} SET theirs = ''"))  # noqa: S608  # two names of tables
        connection.execute(text(f"ALTER TABLE {table} ALTER theirs SET NOT NULL"))
    found = {one.what: one.words for one in findings(None) if one.level == FAIL}
    assert found["database"].startswith(f"{table}.theirs, which is none of ours, wants a value in each row")
    assert ("processes" in found) == (table != "identity_heartbeat")


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite drops no key of a table")
@pytest.mark.parametrize(
    ("table", "key", "columns"),
    [("inbox_event", "inbox_event_pkey", "id"), ("outbox_action", "outbox_action_key", "cause, name, session_id")],
)
@pytest.mark.usefixtures("alive")
def test_a_key_that_is_gone_is_named(table: str, key: str, columns: str) -> None:
    with statement() as connection:
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {key}"))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert found.words.startswith(f"{table} ({columns}) is not unique any more")


@pytest.mark.usefixtures("alive")
def test_an_index_that_is_gone_is_named_with_the_statement_that_makes_it() -> None:
    with statement() as connection:
        connection.execute(text("DROP INDEX outbox_action_due"))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, found.words.startswith("the index outbox_action_due is gone")) == ("database", True)
    with statement() as connection:
        connection.execute(text(found.to_do.partition("then: ")[2]))
    assert _failing() == set()


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite marks no index as not valid")
@pytest.mark.usefixtures("alive")
def test_an_index_that_was_not_made_to_its_end_is_named() -> None:
    with statement() as connection:
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'inbox_event_due'::regclass")
        )
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert found.words.startswith("the index inbox_event_due is gone, or not valid")


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no rules, and nobody writes triggers for it")
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            "CREATE TRIGGER swallows BEFORE INSERT ON inbox_event FOR EACH ROW EXECUTE FUNCTION nothing()",
            "the trigger swallows of inbox_event",
        ),
        (
            "CREATE RULE swallows AS ON INSERT TO outbox_action DO INSTEAD NOTHING",
            "the rule swallows of outbox_action",
        ),
    ],
)
@pytest.mark.usefixtures("alive")
def test_what_drops_rows_without_a_word_is_named_with_its_end(made: str, words: str) -> None:
    with statement() as connection:
        connection.execute(
            text("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        )
        connection.execute(
            text("CREATE TRIGGER after AFTER INSERT ON inbox_event FOR EACH ROW EXECUTE FUNCTION nothing()")
        )
    assert _failing() == set()
    with statement() as connection:
        connection.execute(text(made))
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, found.words.partition(" is none of ours")[0]) == ("database", words)
    with statement() as connection:
        connection.execute(text(found.to_do.removeprefix("end it: ")))
    assert _failing() == set()


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no transaction numbers")
@pytest.mark.usefixtures("alive")
def test_a_server_that_nears_its_last_transaction_number_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(connections, "_OLD", 1)
    [found] = [one for one in findings(None) if one.level == FAIL]
    assert (found.what, "was not vacuumed for" in found.words) == ("database", True)
    environment.setattr(connections, "_NO_MORE", 1)
    _move("web", last_at=now(-timedelta(minutes=1)))
    told = [one for one in findings(None) if one.level == FAIL]
    assert ({one.what for one in told}, any("wraparound" in one.words for one in told)) == ({"database"}, True)


@pytest.mark.processes
@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no standby")
def test_commits_that_wait_for_a_standby_that_is_gone_make_nobody_missing(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with postgres.cluster(postgres.FAST) as url, service(tmp_path, url) as running:
        environment.setenv("DATABASE_URL", url)
        databases.forget_process_state()
        assert running.run("migrate").returncode == 0
        running.start("web", "worker", "clock")
        wait_until(lambda: not findings(None), running.logs)
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
            owner.execute("SELECT pg_reload_conf()")
        wait_until(lambda: any(one.level == FAIL for one in findings(None)), running.logs)
        [found] = findings(None)
        assert (found.what, "synchronous_standby_names" in found.words) == ("database", True)
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("ALTER SYSTEM RESET synchronous_standby_names")
            owner.execute("SELECT pg_reload_conf()")
        databases.forget_process_state()


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite is read-only for who may not write its file")
@pytest.mark.usefixtures("alive")
def test_a_database_that_takes_no_writes_lets_nobody_be_called_missing(database_url: str) -> None:
    _move("web", last_at=now(-timedelta(minutes=1)))
    assert _failing() == {"processes"}
    with databases.read_only(database_url):
        databases.forget_process_state()
        assert _failing() == {"database"}


@pytest.fixture
def locks_at_once(environment: pytest.MonkeyPatch) -> None:
    """Tells of a lock without the seconds that one may last."""
    environment.setattr(connections, "_LOCKS", connections._LOCKS.replace("3 seconds", "0 seconds"))


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no locks on tables")
@pytest.mark.usefixtures("alive", "locks_at_once")
def test_who_holds_a_table_locked_is_named_and_not_waited_for(database_url: str) -> None:
    with psycopg.connect(database_url, application_name="somebody's psql") as other:
        other.execute("LOCK TABLE outbox_action IN SHARE MODE")
        [found] = [one for one in findings(None) if one.level == FAIL]
        pid = other.info.backend_pid
        assert (found.what, found.words) == (
            "database",
            f"outbox_action is locked by connection {pid} (somebody's psql)",
        )
        other.execute("LOCK TABLE outbox_action IN ACCESS EXCLUSIVE MODE")
        [found] = [one for one in findings(None) if one.level == FAIL]
        assert found.to_do == f"end it: SELECT pg_terminate_backend({pid})"


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no locks on rows")
@pytest.mark.usefixtures("alive", "locks_at_once")
def test_a_stranger_who_holds_rows_is_named_and_nobody_of_ours_who_waits_for_them(database_url: str) -> None:
    facts.applied(facts.event("verified"))
    update_rows = "UPDATE verification_record SET user_id = user_id"
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'tuple' AND granted"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database_url, application_name="identity worker") as ours,
        psycopg.connect(database_url, application_name="somebody's psql") as other,
    ):
        other.execute(update_rows)
        waiting = pool.submit(ours.execute, update_rows)
        with psycopg.connect(database_url, autocommit=True) as looking:
            wait_until(lambda: looking.execute(waits).fetchone() == (1,))
        [found] = [one for one in findings(None) if one.level == FAIL]
        other.rollback()
        waiting.result()
        pid = other.info.backend_pid
        assert found.words == f"rows of verification_record are locked by connection {pid} (somebody's psql)"


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no locks on tables")
@pytest.mark.parametrize("table", ["outbox_action", "identity_heartbeat", "identity_schema_version"])
@pytest.mark.usefixtures("alive")
def test_no_lock_keeps_the_operator_waiting(table: str, database_url: str, environment: pytest.MonkeyPatch) -> None:
    """The server would let each statement wait for ever."""
    environment.setenv("DATABASE_URL", f"{database_url}&options=-c lock_timeout=0 -c statement_timeout=0")
    databases.forget_process_state()
    with psycopg.connect(database_url, application_name="somebody's psql") as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        words = f"{table} is locked by connection {other.info.backend_pid} (somebody's psql)"
        wait_until(lambda: words in command("status", "--json").out)
        said = command("doctor", "--json")
        assert (said.code, words in said.out) == (1, True)
        assert words in [one.words for one in health.what_needs_a_hand()[0]]


@pytest.mark.skipif(bool(databases.SERVER_URL), reason="PostgreSQL has no lock on the whole database")
@pytest.mark.usefixtures("alive")
def test_a_file_that_is_locked_keeps_the_operator_waiting_no_longer_than_its_findings(
    database_url: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(database, "_SQLITE_BUSY_SECONDS", 3600)
    with closing(sqlite3.connect(str(make_url(database_url).database))) as other:
        other.execute("BEGIN IMMEDIATE")
        [found] = [one for one in findings(None) if one.level == FAIL]
        assert (found.what, "has held a lock of it" in found.words) == ("database", True)


@pytest.mark.usefixtures("alive")
def test_what_the_oldest_waits_for_is_said() -> None:
    [action_id] = facts.applied(facts.event("verified"))
    with statement() as connection:
        hour = timedelta(hours=1)
        values = {"created_at": now(-hour), "due_at": now(hour), "last_error": "the mail server said nothing"}
        connection.execute(update(OutboxAction).values(**values))
    [found] = [one for one in findings(None) if one.what == "actions"]
    assert re.match(
        rf"the oldest waiting action is \d+ s old: {action_id} waits until .*: the mail server said", found.words
    )
    with statement() as connection:
        connection.execute(update(OutboxAction).values(due_at=now(-hour)))
    [found] = [one for one in findings(None) if one.what == "actions"]
    assert found.to_do == "does a worker run, and get on?"


@pytest.mark.usefixtures("alive")
def test_a_sender_that_nobody_has_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SMTP_URL", "smtp://127.0.0.1:1")
    settings.cache_clear()
    assert _failing() == {"settings"}
    environment.setenv("MAIL_FROM", "id@example.com")
    settings.cache_clear()
    assert _failing() == set()


@pytest.mark.usefixtures("alive")
def test_what_a_missing_setting_has_skipped_is_counted(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("REVIEW_EMAIL", raising=False)
    for action_id in facts.applied(facts.event("requires_input", code="selfie_manipulated", report="vr_1")):
        perform(action_id)
    counting.flush()
    [found] = [one for one in findings(None) if one.what == "skipped" and "REVIEW_EMAIL" in one.words]
    assert (found.level, "retry --skipped" in found.to_do) == (WARN, True)
    assert found.words == "something owed was skipped within a day: no REVIEW_EMAIL"
    assert "alert_review skipped" in command("status").out
    environment.setenv("REVIEW_EMAIL", "review@example.com")
    settings.cache_clear()
    [found] = [one for one in findings(None) if one.what == "skipped" and "REVIEW_EMAIL" in one.words]
    assert "this ends a day after the last" in found.to_do


def test_a_day_in_which_nobody_had_an_address_is_found(environment: pytest.MonkeyPatch) -> None:
    def said() -> list[str]:
        counting.flush()
        return [one.words for one in findings(None) if one.what == "skipped"]

    def end(number: int) -> None:
        perform(*facts.applied(facts.event("verified", session_id=f"vs_{number}", report=f"vr_{number}")))

    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:nobody")
    databases.forget_process_state()
    for number in range(3):
        assert said() == []
        end(number)
    assert said() == ["all 3 mails within a day were skipped: no address"]
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()
    end(4)
    assert said() == []


def test_a_proxy_that_no_setting_counts_is_found_by_who_has_a_link(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    for name, value in LINKS.items():
        environment.setenv(name, value)
    facts.applied(facts.event("created"))
    databases.forget_process_state()
    with TestClient(app, client=("10.0.0.1", 50000)) as behind:
        proxied, path = {"X-Forwarded-For": "192.0.2.1"}, urlsplit(link_to("vs_1").url).path

        def found() -> list[str]:
            counting.flush()
            return [one.words for one in findings(None) if one.what == "senders"]

        behind.get("/verify/x", headers=proxied)  # anybody may say that there is a proxy
        assert behind.get(path).status_code == 200
        assert found() == []
        assert behind.get(path, headers=proxied).status_code == 200
        (said,) = found()
        assert said.startswith("a person came through other proxies than TRUSTED_PROXIES=0 says: ")
        behind.head(path, headers=proxied)
        assert "says, 2 times: " in found()[0]
        with transaction() as session:
            session.connection().execute(text("DELETE FROM identity_tally"))
        environment.setenv("TRUSTED_PROXIES", "1")
        settings.cache_clear()
        assert behind.get(path, headers=proxied).status_code == 200
        assert found() == []


@pytest.mark.usefixtures("alive")
def test_outputs_that_no_key_reads_are_found(environment: pytest.MonkeyPatch) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    environment.setenv("VERIFIED_OUTPUTS", "dob")
    environment.setenv("STRIPE_RESTRICTED_KEY", "rk_test_made_up")
    with transaction() as session:
        session.add(VerifiedOutput(session_id="vs_1", ciphertext=Fernet(old).encrypt(b"{}").decode(), fetched_at=NOON))
    for keys, failing in ((old, set()), (new, {"outputs"}), (new + b"," + old, set())):
        environment.setenv("VERIFIED_OUTPUTS_KEY", keys.decode())
        settings.cache_clear()
        assert _failing() == failing


@pytest.mark.parametrize(
    ("changed", "is_told"),
    [
        ({"LINK_KEYS": f"{'n' * 32},{'o' * 32}"}, False),
        ({"LINK_KEYS": "n" * 32}, True),
        ({"LINK_KEYS": ""}, True),
        ({"STRIPE_API_KEY": ""}, True),
        ({"PUBLIC_URL": "http://verify.example.com"}, True),
        ({"PUBLIC_URL": "https://wrong.example.com"}, True),
        ({"PUBLIC_URL": "https://verify.example.com/"}, False),
    ],
)
@pytest.mark.usefixtures("alive")
def test_links_that_open_no_page_any_more_are_found(
    environment: pytest.MonkeyPatch, changed: dict[str, str], *, is_told: bool
) -> None:
    _begin_with(environment, LINKS)
    _begin_with(environment, changed)
    assert _failing() == ({"links"} if is_told else set())


@pytest.mark.usefixtures("alive")
def test_links_whose_key_is_gone_are_told_of_until_they_have_expired_or_are_given_up(
    environment: pytest.MonkeyPatch,
) -> None:
    assert command("end-links", "--reason", "the key was known to others").code == 1
    _begin_with(environment, LINKS)
    _begin_with(environment, {"LINK_KEYS": "n" * 32})
    [words] = [one["words"] for one in command("status", "--json").json["findings"] if one["what"] == "links"]
    assert "their key is gone from LINK_KEYS, or PUBLIC_URL is another one" in words
    assert command("end-links", "--reason", "the key was known to others").out.startswith("1 keys are given up")
    assert (_failing(), command("audit", "--what", "end-links").code) == (set(), 0)
    _begin_with(environment, {"LINK_KEYS": "m" * 32, "LINK_DAYS": "3"})
    assert _failing() == {"links"}
    with statement() as connection:
        connection.execute(update(Bookmark).values(reached=now(-timedelta(days=3))))
    assert _failing() == set()


def _begin_with(environment: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    """Starts a process with these further settings."""
    for name, value in given.items():
        environment.setenv(name, value)
    settings.cache_clear()
    heartbeats._process = heartbeats._Process()
    if not settings().why_no_links:
        link_to("idv_1")
    heartbeats.beat("web")


@pytest.mark.parametrize("lost", [0, 8])
@pytest.mark.usefixtures("alive")
def test_outputs_that_no_key_reads_are_found_among_the_oldest_and_the_newest(
    environment: pytest.MonkeyPatch, lost: int
) -> None:
    here, gone = Fernet.generate_key(), Fernet.generate_key()
    environment.setenv("VERIFIED_OUTPUTS", "dob")
    environment.setenv("STRIPE_RESTRICTED_KEY", "rk_test_made_up")
    environment.setenv("VERIFIED_OUTPUTS_KEY", here.decode())
    settings.cache_clear()
    with transaction() as session:
        for number in range(9):
            kept = Fernet(gone if number == lost else here).encrypt(b"{}").decode()
            at = NOON + timedelta(days=number)
            session.add(VerifiedOutput(session_id=f"vs_{number}", ciphertext=kept, fetched_at=at))
    assert _failing() == {"outputs"}


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no connections to spare")
@pytest.mark.usefixtures("alive")
def test_who_holds_the_connections_is_said_where_none_is_left(database_url: str) -> None:
    name = make_url(database_url).database
    databases.administer(f"ALTER DATABASE {name} CONNECTION LIMIT 3")
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(psycopg.connect(database_url, application_name="the shop's own pool"))
        with statement():
            [found] = [one for one in findings(None) if one.level == FAIL]
    assert "all 3 connections are taken of the database's (its CONNECTION LIMIT)" in found.words
    assert "the shop's own pool 2" in found.words
    assert "identity command" in found.words


@pytest.mark.usefixtures("alive")
def test_status_has_said_within_ten_seconds_that_it_finds_no_connection_however_long_each_lets_it_wait() -> None:
    waits = show._OUTSIDE_SECONDS, show._WAITS_SECONDS, show._WAITS_AGAIN_SECONDS, 2 * from_web._SECONDS
    assert sum(waits) < 10.0


def test_status_asks_web_where_it_finds_no_connection_itself(environment: pytest.MonkeyPatch) -> None:
    facts.applied(facts.event("verified"))
    with statement() as connection:
        connection.execute(text("UPDATE outbox_action SET status = 'dead'"))
    environment.setenv("METRICS_TOKEN", "t" * 32)
    settings.cache_clear()
    with running_receiver() as port:
        away = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "PORT": str(port)}
        said = command("status", "--json", **away)
        assert said.code == 1
        assert "web says: 1 actions are dead" in [one["words"] for one in said.json["findings"]]
        assert "web says" not in command("status", METRICS_TOKEN="another" * 5, **away).out


@pytest.mark.parametrize(("ended", "is_told"), [(0, False), (3, True), (200, False)])
@pytest.mark.usefixtures("alive")
def test_a_worker_that_is_too_slow_is_found_before_anything_has_waited_for_long(ended: int, is_told: bool) -> None:
    receive([facts.event("created", session_id=f"vs_{number}") for number in range(100)])
    with statement() as connection:
        connection.execute(update(InboxEvent).values(received_at=now(-timedelta(seconds=15))))
        grown = {"name": "identity_events_total", "labels": 'type="created",outcome="applied"', "value": float(ended)}
        tallies.add(connection, [grown])
    assert _failing() == ({"events"} if is_told else set())
    if is_told:
        [found] = [one for one in findings(None) if one.what == "events"]
        assert re.match(r"100 events are due, and 0\.\d a second are done: the last waits for \d{3} s", found.words)


@pytest.mark.usefixtures("alive")
def test_what_a_worker_has_ignored_is_counted_by_reason() -> None:
    receive([replace(facts.event("created", event_id="evt_2"), is_ours=False)])
    process(["evt_2"])
    counting.flush()
    counted = {"what": "events ignored", "why": "not ours", "last_hour": 1, "last_day": 1}
    assert counted in command("status", "--json").json["counts"]


@pytest.mark.skipif(not databases.SERVER_URL, reason="on SQLite mails are files")
@pytest.mark.usefixtures("alive")
def test_a_mail_waits_while_nothing_says_by_which_server_it_goes(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    environment.delenv("SMTP_URL")
    databases.forget_process_state()
    [action_id] = facts.applied(facts.event("verified"))
    perform(action_id)
    assert (facts.action(action_id).status, facts.action(action_id).last_error) == ("pending", "no SMTP_URL")
    assert _failing() == {"settings"}
    environment.setenv("SMTP_URL", "file:")
    databases.forget_process_state()
    facts.end_all_leases()
    perform(action_id)
    assert facts.action(action_id).status == "done"
    assert list((settings().var_dir / "mail").glob("*.eml"))


@pytest.mark.processes
def test_real_processes_say_that_they_live_which_of_them_were_killed_and_which_were_told_to_end(
    tmp_path: Path, database_url: str
) -> None:
    def said() -> list[str]:
        return [one.words.split(" since")[0] for one in findings(None) if one.level == FAIL]

    with service(tmp_path / "service", database_url) as running:
        running.start("web", "worker", "clock")
        wait_until(
            lambda: {one.kind for one in heartbeats.known_processes()} == {"web", "worker", "clock"}, running.logs
        )
        wait_until(lambda: said() == [], running.logs)
        assert {one.version for one in heartbeats.known_processes()} == {running_version()}
        running.kill("web")
        running.kill("clock")
        wait_until(lambda: said() == ["no web runs", "no clock runs"], running.logs)
    [worker] = [one for one in heartbeats.known_processes() if one.kind == "worker"]
    assert worker.ended_at


@pytest.mark.processes
def test_a_clock_is_not_called_dead_when_redis_takes_its_messages_again(tmp_path: Path, database_url: str) -> None:
    def heard() -> datetime:
        return max(one.worked_at for one in heartbeats.known_processes() if one.kind == "clock")

    with (
        other_redis(tmp_path / "redis") as redis,
        redis.client() as client,
        service(tmp_path / "service", database_url, REDIS_URL=f"redis://127.0.0.1:{redis.port}/0") as running,
    ):
        running.start("web", "worker", "clock")
        wait_until(
            lambda: {one.kind for one in heartbeats.known_processes()} == {"web", "worker", "clock"}, running.logs
        )
        client.config_set("maxmemory", "1")
        last = database_now()
        wait_until(lambda: database_now() > heard() + 2 * heartbeats.GONE_AFTER, running.logs)
        client.config_set("maxmemory", "0")
        while heard() <= last + heartbeats.GONE_AFTER:
            assert "no clock runs" not in str(findings(None)), running.logs()
        running.kill("clock")
        wait_until(lambda: "no clock runs" in str(findings(None)), running.logs)


def _failing() -> set[str]:
    return {one.what for one in findings(None) if one.level == FAIL}


def _deliver(client: TestClient) -> None:
    body = shapes.as_body(facts.payload("verified"))
    headers = {"Stripe-Signature": shapes.signature(body, SECRET)}
    assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 200


def _move(kind: str, **values: object) -> None:
    with transaction() as session:
        session.connection().execute(update(Heartbeat).where(col(Heartbeat.kind) == kind).values(**values))


@pytest.mark.processes
def test_a_worker_on_another_database_at_the_same_redis_is_found_on_both_until_it_is_gone(
    tmp_path: Path, database_url: str, environment: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    with service(tmp_path / "service", database_url) as ours, databases.fresh_database(tmp_path / "other") as url:
        theirs = Service(tmp_path / "theirs", url, ours.redis)
        ours.start("worker", "clock")
        theirs.start("worker")
        try:
            wait_until(lambda: "refusals" in _failing(), ours.logs)
            environment.setenv("DATABASE_URL", url)
            databases.forget_process_state()
            wait_until(lambda: "refusals" in _failing(), theirs.logs)
            [told] = [one.words for one in findings(None) if one.what == "refusals"]
            assert told.startswith("the Redis of REDIS_URL has a worker on another database, too")
        finally:
            theirs.stop()
        environment.setenv("DATABASE_URL", database_url)
        databases.forget_process_state()
        wait_until(lambda: "refusals" not in _failing(), ours.logs)
