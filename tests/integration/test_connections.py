"""Connections to PostgreSQL: their number, their settings, and the waits while there is none."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from config import database
from config.database import (
    DATABASE_TROUBLE,
    keep_connections,
    measure_clock,
    past_sqlalchemy,
    statement,
    take_your_time,
)
from config.settings import SettingsError
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import counting, heartbeats, tallies
from handlers.queue.failures import NotNowError
from handlers.record.decide import Outcome
from receiver.webhooks.storage import _OnTheLoop
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.postgres import cluster
from tests.support.processes import Service, service
from tests.support.waiting import asking, wait_until
from worker.run.broker import start_redis

pytestmark = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no connections to spare"),
]

_SMALLEST_PLAN = "-c listen_addresses='' -c fsync=off -c max_connections=20"  # three are a superuser's
_OF_THE_ROLE = {
    "datestyle": "German",
    "timezone": "America/New_York",
    "synchronous_commit": "off",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "client_encoding": "LATIN1",
    "lock_timeout": "0",
    "idle_session_timeout": "300ms",
}
_LONG_KEY = "SELECT string_agg(md5(n::text), ''), 'x' FROM generate_series(1, 300) AS n"
_AS_IT_SHALL_BE = {
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "synchronous_commit": "on",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "client_encoding": "UTF8",
    "lock_timeout": "10s",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "30s",
    "idle_session_timeout": "0",
}


@pytest.fixture
def contrary_role(database_url: str) -> Iterator[None]:
    """Gives every session of the database settings that we cannot work with."""
    name = make_url(database_url).database
    for setting, value in _OF_THE_ROLE.items():
        databases.administer(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    databases.forget_process_state()
    yield
    for setting in _OF_THE_ROLE:
        databases.administer(f"ALTER DATABASE {name} RESET {setting}")


@pytest.mark.usefixtures("contrary_role")
def test_both_drivers_set_what_the_database_says_otherwise() -> None:
    show = "SELECT string_agg(current_setting(name), '|' ORDER BY name) FROM unnest(ARRAY[{}]) AS name"
    asked = show.format(", ".join(f"'{name}'" for name in _AS_IT_SHALL_BE))
    expected = "|".join(_AS_IT_SHALL_BE[name] for name in sorted(_AS_IT_SHALL_BE))
    with statement() as connection:
        assert sorted(str(connection.scalar(text(asked))).split("|")) == sorted(expected.split("|"))

    async def ask() -> str:
        inbox = _OnTheLoop()
        (answer,) = await inbox._ids(f"{asked} WHERE %s::text IS NOT NULL", "")
        await inbox.close()
        return answer

    assert sorted(asyncio.run(ask()).split("|")) == sorted(expected.split("|"))


@pytest.mark.usefixtures("contrary_role")
def test_events_are_applied_where_the_database_says_otherwise() -> None:
    said = event("requires_input", code="document_expired", report="vr_\\1", reference="é")
    receive([said])
    process([said.id])
    assert facts.event_row(said.id).outcome == Outcome.APPLIED
    assert facts.record().client_reference_id == "é"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_has_not_all_letters_is_refused_before_it_refuses_events(
    environment: pytest.MonkeyPatch, database_url: str, encoding: str
) -> None:
    """Such a database takes most events, and calls a name from elsewhere bad data."""
    name = make_url(database_url).database
    databases.administer(f"CREATE DATABASE {name}_latin ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        environment.setenv("DATABASE_URL", database_url.replace(f"/{name}", f"/{name}_latin"))
        databases.forget_process_state()
        with pytest.raises(SettingsError, match=f"in {encoding}, which lacks letters"):
            measure_clock()
        with pytest.raises(NotNowError, match=f"in {encoding}, which lacks letters"):
            asyncio.run(_OnTheLoop()._ids("SELECT %s", ""))
    finally:
        databases.forget_process_state()
        databases.administer(f"DROP DATABASE {name}_latin")


def test_a_search_path_of_the_urls_is_followed(environment: pytest.MonkeyPatch, database_url: str) -> None:
    with statement() as connection:
        connection.execute(text("CREATE SCHEMA elsewhere"))
        connection.execute(text("CREATE TABLE elsewhere.inbox_event (LIKE public.inbox_event INCLUDING ALL)"))
    environment.setenv("DATABASE_URL", f"{database_url}&options=-c search_path=elsewhere,public")
    databases.forget_process_state()

    async def store() -> None:
        inbox = _OnTheLoop()
        await inbox.receive([event("created")])
        await inbox.close()

    asyncio.run(store())
    receive([event("verified")])
    with statement() as connection:
        assert connection.scalar(text("SELECT count(*) FROM elsewhere.inbox_event")) == 2


@pytest.mark.parametrize("option", ["role=nobody_here", "work_mem=much", "not_a_setting=1", "log_connections=on"])
def test_what_the_server_takes_not_of_the_urls_is_trouble_and_no_data(
    environment: pytest.MonkeyPatch, database_url: str, option: str
) -> None:
    environment.setenv("DATABASE_URL", f"{database_url}&options=-c {option}")
    databases.forget_process_state()

    async def store() -> None:
        await _OnTheLoop().receive([event("created")])

    why = "the server does not take what DATABASE_URL's options ask for: " + option.partition("=")[0]
    with pytest.raises(NotNowError, match=why):
        asyncio.run(store())
    with pytest.raises(DATABASE_TROUBLE, match=why):
        receive([event("created")])


def test_idle_connections_are_given_back(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_IDLE_SECONDS", 0.1)
    keep_connections(4)
    databases.forget_process_state()
    at_once = threading.Barrier(4)

    def use() -> None:
        with statement() as connection:
            connection.execute(text("SELECT 1"))
            at_once.wait()

    for _ in range(2):
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: _connections(database_url) == 0)


def test_a_process_that_may_have_no_thread_works_on_and_gives_back_later(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_IDLE_SECONDS", 0.1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", refuse)
        database.database_now()
    database.database_now()
    wait_until(lambda: _connections(database_url) == 0)


def test_a_process_that_keeps_none_closes_each(database_url: str) -> None:
    keep_connections(0)
    databases.forget_process_state()
    for _ in range(2):
        with statement() as connection:
            connection.execute(text("SELECT 1"))
        assert _connections(database_url) == 0


def test_whoever_finds_no_connection_free_waits_for_one(environment: pytest.MonkeyPatch, database_url: str) -> None:
    with _plain_role(database_url, environment, limit=1) as url:
        with psycopg.connect(url):
            stored: list[frozenset[str]] = []
            threads = asking(
                lambda: stored.append(receive([event("created")]).accepted),
                lambda: stored.append(asyncio.run(_store(event("verified")))),
            )
            assert stored == []
        for thread in threads:
            thread.join()
    assert {len(accepted) for accepted in stored} == {1}


def test_a_server_that_stays_full_is_trouble_in_the_end(
    environment: pytest.MonkeyPatch, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WAITS_SECONDS", 0.5)
    with (
        _plain_role(database_url, environment, limit=1) as url,
        psycopg.connect(url),
        pytest.raises(DATABASE_TROUBLE, match="too many connections"),
    ):
        receive([event("created")])


def test_a_process_that_shall_end_waits_for_no_connection_any_longer(
    environment: pytest.MonkeyPatch, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WAITS_SECONDS", 3600.0)
    keep_connections(2)
    with _plain_role(database_url, environment, limit=1) as url, psycopg.connect(url):
        with ThreadPoolExecutor() as threads:  # two of them ask the server, which is full, and the third the pool
            asked = [threads.submit(receive, [event("created")]) for _ in range(3)]
            time.sleep(1)  # else some might ask only afterwards, and be refused for that
            database.end_soon()
        for one in asked:
            with pytest.raises(DATABASE_TROUBLE):
                one.result()


def _by_sqlalchemy(words: str) -> Any:
    with statement() as connection:
        return connection.exec_driver_sql(words).scalar()


def _by_the_driver(words: Any) -> Any:
    with past_sqlalchemy() as driver:
        return (driver.execute(words).fetchone() or (None,))[0]


_REFUSAL = "DO $$ BEGIN RAISE EXCEPTION '{}' USING ERRCODE = 'program_limit_exceeded'; END $$"


@pytest.mark.parametrize("ask", [_by_sqlalchemy, _by_the_driver])
@pytest.mark.parametrize(
    ("words", "is_trouble"),
    [
        ("SELECT 1 / 0", False),
        ("INSERT INTO verification_submission " + _LONG_KEY, False),
        ("INSERT INTO verification_submission VALUES ('a', 'b'), ('a', 'b')", False),
        ("SELECT * FROM gone", True),
        ("SELECT gone FROM inbox_event", True),
        ("SELECT pg_terminate_backend(pg_backend_pid())", True),
        ("SET LOCAL lock_timeout = 'x'", False),
        (_REFUSAL.format("index row size 2800 exceeds btree maximum 2704"), False),
        (_REFUSAL.format("database is not accepting commands to avoid wraparound data loss"), True),
    ],
)
def test_what_is_data_and_what_is_trouble_is_told_by_sqlstate(
    words: str, is_trouble: bool, ask: Callable[[str], Any]
) -> None:
    with pytest.raises(DBAPIError) as raised:
        ask(words)
    assert isinstance(raised.value, DATABASE_TROUBLE) == is_trouble
    assert ask("SELECT 1") == 1


@pytest.mark.parametrize("ask", [_by_sqlalchemy, _by_the_driver])
def test_a_connection_that_has_lost_its_statements_is_left(ask: Callable[[str], Any]) -> None:
    ours = "SELECT pg_backend_pid()"
    before = ask(ours)
    assert ask(ours) == before
    with pytest.raises(DATABASE_TROUBLE):
        ask("EXECUTE gone")
    assert ask(ours) != before


def test_twenty_connections_hold_a_service_its_release_a_command_and_the_next_service_beside_it(
    tmp_path: Path,
) -> None:
    with cluster(_SMALLEST_PLAN) as administrator, ExitStack() as stack:
        with psycopg.connect(administrator, autocommit=True) as connection:
            connection.execute("CREATE ROLE service LOGIN")
            connection.execute("CREATE DATABASE service OWNER service")
        url = administrator.replace("postgres@/postgres", "service@/service")
        redis = start_redis(tmp_path / "redis")
        stack.callback(redis.stop)
        sets = [
            [Service(tmp_path / f"{name}{number}", url, redis, WEB_CONCURRENCY="2") for number in range(3)]
            for name in ("old", "new")
        ]
        for one in sets[0] + sets[1]:
            stack.callback(one.stop)
        number = 0
        for services in sets:
            first, *others = services
            assert first.run("migrate").returncode == 0
            first.start("web", "worker", "clock")
            for other in others:
                other.start("worker")
            payloads = [facts.payload("verified", session_id=f"vs_{number + n}") for n in range(60)]
            number += len(payloads)
            threads = [threading.Thread(target=first.deliver, args=(payload,)) for payload in payloads]
            for thread in threads:
                thread.start()
            migrated, status = first.run("migrate"), first.run("status", "--json")
            for thread in threads:
                thread.join()
            assert migrated.returncode == 0, migrated.stdout + migrated.stderr
            # While both sets hold all connections, status may say just that; on a slow machine it adds late rows.
            found = [one["words"] for one in json.loads(status.stdout)["findings"] if one["level"] == "FAIL"]
            refused = [words for words in found if words.startswith("it cannot be used")]
            assert all("no connection free" in words for words in refused), found
            assert not refused or services is sets[1], found
        with psycopg.connect(administrator.replace("@/postgres", "@/service"), autocommit=True) as connection:
            done = "SELECT count(*) FROM inbox_event WHERE status = 'processed'"
            wait_until(
                lambda: connection.execute(done).fetchone() == (number,), lambda: "\n".join(s.logs() for s in sets[1])
            )


def test_work_and_looks_that_are_held_up_keep_no_process_from_saying_that_it_lives(
    tmp_path: Path, database_url: str
) -> None:
    def beats() -> dict[str, datetime]:
        return {one.kind: one.last_at for one in heartbeats.known_processes()}

    patient = f"{database_url}&options=-c lock_timeout=0 -c statement_timeout=0"
    with service(tmp_path / "service", patient) as running, psycopg.connect(database_url) as holder:
        running.start("web", "worker", "clock")
        holder.execute("LOCK TABLE outbox_action")
        for number in range(8):
            running.deliver(facts.payload("verified", session_id=f"vs_{number}"))
        with pytest.raises(HTTPError):
            urlopen(f"http://127.0.0.1:{running.port}/health/backlog")
        wait_until(lambda: _held_up(database_url).get("identity worker") == 4, running.logs)
        for _ in range(3):
            before = beats()
            wait_until(lambda before=before: all(at > before[kind] for kind, at in beats().items()), running.logs)  # type: ignore[misc]
        assert urlopen(f"http://127.0.0.1:{running.port}/readyz").status == 200
        wait_until(
            lambda: _held_up(database_url) == {"identity worker": 4}, running.logs
        )  # the looking connection waits for no lock


ASKED = ("/healthz", "/readyz", "/health/backlog", "/metrics")


def test_forty_who_ask_for_health_and_metrics_take_one_connection_to_the_database(
    tmp_path: Path, database_url: str
) -> None:
    with service(tmp_path, database_url) as web:
        web.start("web")
        wait_until(lambda: _connections(database_url) >= 1)  # the writer's, before any delivery
        most, ended = 0, threading.Event()

        def ask(number: int) -> None:
            while not ended.is_set():
                with suppress(OSError), urlopen(f"http://127.0.0.1:{web.port}{ASKED[number % 4]}") as got:
                    got.read()

        with ThreadPoolExecutor(40) as pool:
            try:
                askers = [pool.submit(ask, number) for number in range(40)]
                for number in range(8):
                    assert web.deliver(facts.payload("verified", session_id=f"vs_{number}")) == "accepted"
                    most = max(most, _connections(database_url))
            finally:
                ended.set()
        assert [asker.exception() for asker in askers] == [None] * 40
        assert most <= 2


def test_figures_wait_for_no_lock_that_would_keep_a_process_from_saying_that_it_lives(
    database_url: str, environment: pytest.MonkeyPatch
) -> None:
    counting.flush()
    counting.RECOVERED_EVENTS.inc()
    with psycopg.connect(database_url) as locking:
        locking.execute("LOCK TABLE identity_metric IN SHARE MODE")
        with capture_logs() as said:
            counting.flush()
        assert [line["event"] for line in said] == ["metrics.kept_back"]
    waited: list[str] = []
    environment.setattr(
        tallies, "add", lambda connection, _: waited.append(connection.scalar(text("SHOW lock_timeout")))
    )
    counting.flush()
    assert waited == ["1s"]


@contextmanager
def _plain_role(database_url: str, environment: pytest.MonkeyPatch, *, limit: int) -> Iterator[str]:
    """A role that owns everything and may have so many connections, in the place of the tests' superuser."""
    url = make_url(database_url)
    name = f"role_of_{url.database}"
    databases.administer(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data")
    databases.administer(f"ALTER ROLE {name} CONNECTION LIMIT {limit}")
    plain = url.set(username=name, password="x").render_as_string(hide_password=False)
    environment.setenv("DATABASE_URL", plain)
    databases.forget_process_state()
    try:
        yield plain
    finally:
        environment.setenv("DATABASE_URL", database_url)
        databases.forget_process_state()
        wait_until(lambda: _connections(database_url, name) == 0)
        databases.administer(f"DROP ROLE {name}")


async def _store(said: Any) -> frozenset[str]:
    inbox = _OnTheLoop()
    receipt = await inbox.receive([said])
    await inbox.close()
    return receipt.accepted


def _held_up(url: str) -> dict[str, int]:
    """The number of connections that wait for a lock, by kind of process."""
    waiting = "SELECT application_name, count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' GROUP BY 1"
    with psycopg.connect(url) as connection:
        return dict(connection.execute(waiting).fetchall())


def _connections(url: str, role: str = "%") -> int:
    """The number of other connections to this database."""
    counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE %s"
    with psycopg.connect(url) as connection:
        row = connection.execute(f"{counted} AND pid <> pg_backend_pid()".encode(), (role,)).fetchone()
    assert row
    return int(row[0])


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.postgres.statement_seconds", lambda *_: 0.5)
    monkeypatch.setattr(database, "_ANSWER_SECONDS", 0.5)


@pytest.mark.usefixtures("hurried")
def test_a_server_that_stands_still_while_its_machine_answers_is_left() -> None:
    with statement() as connection:
        server = connection.scalar(text("SELECT pg_backend_pid()"))
    if not Path(f"/proc/{server}/cmdline").exists():
        pytest.skip("the server is another machine's")
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(DATABASE_TROUBLE, match="said nothing for too long"), statement() as connection:
            connection.scalar(text("SELECT 1"))
        with statement() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) != server
    finally:
        os.kill(server, signal.SIGCONT)


@pytest.mark.usefixtures("hurried")
def test_a_migration_may_take_its_time() -> None:
    with pytest.raises(DATABASE_TROUBLE), statement() as connection:
        connection.scalar(text("SELECT pg_sleep(2)"))
    with database.transaction() as session:
        take_your_time(session.connection())
        session.connection().scalar(text("SELECT pg_sleep(2)"))


@pytest.mark.parametrize(
    ("options", "seconds"), [("", 20.0), ("&options=-c statement_timeout=0", None), ("&options=-c jit=off", 20.0)]
)
def test_who_lets_statements_take_their_time_is_waited_for(
    database_url: str, environment: pytest.MonkeyPatch, options: str, seconds: float | None
) -> None:
    mark = "" if "?" in database_url else "?"
    environment.setenv("DATABASE_URL", f"{database_url}{mark}{options}")
    databases.forget_process_state()
    with statement() as connection:
        assert connection.connection.driver_connection.most_seconds == seconds  # type: ignore[union-attr]
