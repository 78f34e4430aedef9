"""The bench's own access to the databases: empties, counts and fills them."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

_TABLES = ("inbox_event", "verification_record", "verification_submission", "outbox_action", "usual_event")
_USUAL = (
    "CREATE TABLE IF NOT EXISTS usual_event"
    " (id text PRIMARY KEY, type text, session_id text, created_at {0}, received_at {0})"
)
# In the order of time, with a session's three events side by side.
_EVENTS = """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, outcome, attempts, waits,
  due_at, owes_nothing, has_flow, processed_at, session_status, client_reference_id, user_id)
SELECT 'evt_1Old' || n, 'identity.verification_session.' || k, 'vs_1Old' || s, false, t, t, 'processed',
  CASE n % 20 WHEN 7 THEN 'ignored' ELSE 'applied' END, 1, 0, t, false, false, t, 'requires_input', 'user_' || s,
  'user_' || s
FROM (SELECT n, n * {records} / {events} AS s, now() - interval '60 days' * (1 - n::float / {events}) AS t,
    (ARRAY['created', 'processing', 'verified'])[1 + n % 3] AS k
  FROM generate_series(0, {events}::bigint - 1) AS n) AS old"""
_RECORDS = """
INSERT INTO verification_record (session_id, status, client_reference_id, user_id, livemode, submissions,
  client_reference_trusted, change_number, told_count, applied_at, applied_rank, applied_answer, created_at, updated_at,
  compare_at)
SELECT 'vs_1Old' || n, CASE n % 100 WHEN 7 THEN 'requires_input' ELSE 'verified' END, 'user_' || n, 'user_' || n, false,
  1, true, 3, 1, t, 3, false, t, t, CASE n % 100 WHEN 7 THEN now() + interval '1 day' END
FROM (SELECT n, now() - interval '60 days' * (1 - n::float / {records}) AS t
  FROM generate_series(0, {records} - 1) AS n) AS old"""
_SUBMISSIONS = """
INSERT INTO verification_submission (session_id, report_id)
SELECT 'vs_1Old' || n, 'vr_1Old' || n FROM generate_series(0, {records} - 1) AS n"""
_ACTIONS = """
INSERT INTO outbox_action (id, session_id, name, cause, status, attempts, waits, due_at, created_at, done_at)
SELECT {free} + n, 'vs_1Old' || n, 'email_verified', 'verified::vr_1Old' || n,
  CASE n % 10 WHEN 7 THEN 'skipped' ELSE 'done' END, 1, 0, t, t, t
FROM (SELECT n, now() - interval '60 days' * (1 - n::float / {records}) AS t
  FROM generate_series(0, {records} - 1) AS n) AS old"""
_WAITING_EVENTS = """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, attempts, waits, due_at,
  owes_nothing, has_flow, session_status)
SELECT 'evt_1Wait' || n, 'identity.verification_session.created', 'vs_1Wait' || n, false, t, t, 'received', 0, 0, t,
  false, false, 'requires_input'
FROM (SELECT n, now() - interval '1 hour' * (2 - n::float / {waiting}) AS t
  FROM generate_series(0, {waiting} - 1) AS n) AS young"""
_WAITING_ACTIONS = """
INSERT INTO outbox_action (session_id, name, cause, status, attempts, waits, due_at, created_at)
SELECT 'vs_1Old' || n, 'notify_app', '3', 'pending', 0, 0, t, t
FROM (SELECT n, now() - interval '1 hour' * (2 - n::float / {waiting}) AS t
  FROM generate_series(0, {waiting} - 1) AS n) AS young"""
_NUMBERS = "SELECT setval(pg_get_serial_sequence('outbox_action', 'id'), {free} + {records})"
_FREE = 1_000_000  # numbers that are free for the actions older than all others
_LOCK_WAITS = "SELECT wait_event FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
_CONNECTIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_OLD_EVENTS = """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, outcome, attempts, waits,
  due_at, owes_nothing, has_flow, processed_at)
SELECT 'evt_1Gone' || n, 'identity.verification_session.created', 'vs_1Gone' || n, false, t, t, 'processed', 'applied',
  1, 0, t, false, false, t
FROM (SELECT n, now() - interval '400 days' AS t FROM generate_series(1, {count}) AS n) AS old"""
_OLD_ACTIONS = """
INSERT INTO outbox_action (id, session_id, name, cause, status, attempts, waits, due_at, created_at, done_at)
SELECT n, 'vs_1Gone' || n, 'email_verified', 'verified::', 'done', 1, 0, t, t, t
FROM (SELECT n, now() - interval '400 days' AS t FROM generate_series(1, {count}) AS n) AS old"""

_WAITING = """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, attempts, waits, due_at,
  owes_nothing, has_flow, last_error)
SELECT 'evt_1{status}' || n, 'identity.verification_session.verified', 'vs_1Wait' || n, false, t, t, '{status}', 1, 0,
  t + interval '1 minute', false, false, 'Stripe was not reached'
FROM (SELECT n, now() - interval '2 days' * random() AS t FROM generate_series(1, {rows}) AS n) AS waiting"""
_OWED = """
INSERT INTO outbox_action (session_id, name, cause, status, attempts, waits, due_at, created_at, last_error)
SELECT 'vs_1Wait' || n, 'email_verified', '{status}', '{status}', 1, 0, t, t, 'the mail server was not reached'
FROM (SELECT n, now() - interval '2 days' * random() AS t FROM generate_series(1, {rows}) AS n) AS waiting"""
_KNOWN = """
INSERT INTO verification_record (session_id, client_reference_id, livemode, submissions, client_reference_trusted,
  change_number, told_count, applied_rank, applied_answer, created_at, updated_at)
SELECT 'vs_1Wait' || n, 'user_' || n, false, 0, true, 0, 0, 0, false, now(), now()
FROM generate_series(1, {rows}) AS n"""
# The rows that make the console's pages long: changes, a month's counters, and persons with many rows.
_CHANGED = """
INSERT INTO identity_audit (at, who, way, what, about, reason)
SELECT now() - interval '60 days' * (1 - n::float / {rows}), 'anna', 'console', 'retry', 'vs_1Old' || n || ' ' || n,
  'told by phone'
FROM generate_series(1, {rows}) AS n"""
_COUNTED = """
INSERT INTO identity_tally (seconds, since, name, labels, value)
SELECT seconds, date_trunc('minute', now()) - n * seconds * interval '1 second', name,
  label || '="' || kind || '",reason=""', 7
FROM (VALUES (60, 180), (600, 288), (3600, 768)) AS spans (seconds, slots), generate_series(0, slots - 1) AS n,
  (VALUES ('identity_deliveries_total', 'outcome', 'accepted duplicate ignored refused'),
    ('identity_events_total', 'outcome', 'applied stale ignored dead'),
    ('identity_actions_total', 'status', 'done skipped dead'),
    ('identity_event_age_seconds_bucket', 'le', '0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 60.0'),
    ('identity_action_age_seconds_bucket', 'le', '0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 60.0')
  ) AS counters (name, label, kinds), unnest(string_to_array(kinds, ' ')) AS kind
ON CONFLICT DO NOTHING"""
_SESSIONS = """
INSERT INTO verification_record (session_id, verification_id, generation, client_reference_id, livemode, submissions,
  client_reference_trusted, change_number, told_count, applied_rank, applied_answer, created_at, updated_at)
SELECT '{name}' || n, {verification}, n, '{reference}', false, 0, true, 0, 0, 0, false, now(), now()
FROM generate_series({first}, {rows}) AS n"""
_VERIFICATION = """
INSERT INTO verification (id, purpose, account, livemode, generation, client_reference_id, session_id, created_at,
  updated_at) VALUES ('idv_1Again', '', '', false, {rows}, 'again', 'vs_1Again{rows}', now(), now())"""
_BUSY = (
    """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, outcome, attempts, waits,
  due_at, owes_nothing, has_flow, processed_at)
SELECT 'evt_1Busy' || n, 'identity.verification_session.processing', 'vs_1Busy', false, now(), now(), 'processed',
  'stale', 1, 0, now(), false, false, now()
FROM generate_series(1, {rows}) AS n""",
    """
INSERT INTO outbox_action (session_id, name, cause, status, attempts, waits, due_at, created_at, done_at)
SELECT 'vs_1Busy', 'email_retry_prompt', n::text, 'done', 1, 0, now(), now(), now()
FROM generate_series(1, {rows}) AS n""",
)
_HOW_MANY = "SELECT count(*), min({since}), count(*) FILTER (WHERE {since} < now() - interval '1 day') FROM {table}"


def empty(url: str) -> None:
    """Deletes all rows, and makes the table of the usual design beside ours."""
    with _open(url) as execute:
        if url.startswith("sqlite"):
            execute(_USUAL.format("text"))
            for table in _TABLES:
                execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        else:
            execute(_USUAL.format("timestamptz"))
            execute(f"TRUNCATE {', '.join(_TABLES)}")


def fill(url: str, events: int, records: int) -> None:
    """Adds two months of work, done, and lets PostgreSQL analyse it."""
    with _open(url) as execute:
        execute("SET synchronous_commit = off")
        for statement in (_EVENTS, _RECORDS, _SUBMISSIONS, _ACTIONS, _NUMBERS):
            execute(statement.format(events=events, records=records, free=_FREE))
    settle(url)


def fill_undone(url: str, rows: int) -> None:
    """Adds so many waiting events and actions, a third as many dead ones, and their sessions."""
    with _open(url) as execute:
        execute(_KNOWN.format(rows=rows))
        for statement, waits in ((_WAITING, "received"), (_OWED, "pending")):
            execute(statement.format(rows=rows, status=waits))
            execute(statement.format(rows=rows // 3, status="dead"))


def fill_console(url: str, rows: int) -> None:
    """Adds so many changes by operators, the counters of a month, and persons with many rows."""
    much = 300
    with _open(url) as execute:
        execute(_CHANGED.format(rows=rows))
        execute(_COUNTED)
        execute(_SESSIONS.format(name="vs_1Shared", verification="NULL", reference="shared", first=1, rows=rows // 5))
        execute(_SESSIONS.format(name="vs_1Again", verification="NULL", reference="again", first=1, rows=much))
        execute(_VERIFICATION.format(rows=much))
        execute("UPDATE verification_record SET verification_id = 'idv_1Again' WHERE client_reference_id = 'again'")
        execute(_SESSIONS.format(name="vs_1Bus", verification="NULL", reference="busy", first=1, rows=1))
        execute("UPDATE verification_record SET session_id = 'vs_1Busy' WHERE session_id = 'vs_1Bus1'")
        for statement in _BUSY:
            execute(statement.format(rows=much))
    settle(url)


def a_dead_action(url: str) -> int:
    """The id of a dead action."""
    with _open(url) as execute:
        return int(execute("SELECT max(id) FROM outbox_action WHERE status = 'dead'").fetchone()[0])


def seconds_to_count(url: str) -> float:
    """The seconds in which PostgreSQL counts all waiting rows and their ages, row by row."""
    begun = time.perf_counter()
    with _open(url) as execute:
        for table, since, waits in (
            ("inbox_event", "received_at", "received"),
            ("outbox_action", "created_at", "pending"),
        ):
            execute(f"{_HOW_MANY.format(table=table, since=since)} WHERE status = '{waits}'").fetchone()
    return time.perf_counter() - begun


def add_waiting(url: str, count: int) -> None:
    """Adds so many events and actions that have waited for an hour or two, without an analysis by PostgreSQL."""
    with _open(url) as execute:
        for statement in (_WAITING_EVENTS, _WAITING_ACTIONS):
            execute(statement.format(waiting=count))


def add_old(url: str, count: int) -> None:
    """Adds so many events and as many actions that are older than all others."""
    with _open(url) as execute:
        for statement in (_OLD_EVENTS, _OLD_ACTIONS):
            execute(statement.format(count=count))


def alone(url: str) -> None:
    """Has each statement done by its own connection's process alone, whose processor time can be read."""
    with _open(url) as execute:
        name = execute("SELECT current_database()").fetchone()[0]
        execute(f"ALTER DATABASE {name} SET max_parallel_workers_per_gather = 0")


@contextmanager
def processor(url: str) -> Iterator[Callable[[], float]]:
    """A function for the seconds of processor that the open connections of this database have had."""
    with _open(url) as execute:

        def seconds() -> float:
            pids = [row[0] for row in execute(_CONNECTIONS).fetchall()]
            return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9

        yield seconds


@contextmanager
def lock_waits(url: str) -> Iterator[list[str]]:
    """The locks that connections were seen to wait for, at each look."""
    ended = threading.Event()
    seen: list[str] = []

    def look() -> None:
        with _open(url) as execute:
            while not ended.wait(0.02):
                seen.extend(row[0] for row in execute(_LOCK_WAITS).fetchall())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def deleted(url: str) -> int:
    """The number of rows of the inbox and the outbox that were ever deleted."""
    tables = "('inbox_event', 'outbox_action')"
    with _open(url) as execute:
        return int(execute(f"SELECT sum(n_tup_del) FROM pg_stat_user_tables WHERE relname IN {tables}").fetchone()[0])  # noqa: S608


def size(url: str) -> str:
    """The size of the database on the disk."""
    with _open(url) as execute:
        return str(execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()[0])


def settle(url: str, table: str = "") -> None:
    """Does PostgreSQL's own upkeep now, which else comes some minutes later, amid a measurement.

    PostgreSQL plans whole scans of a table that was empty at its last analysis, until the next: so leave out a table
    that is about to be filled for the first time.
    """
    with _open(url) as execute:
        execute(f"VACUUM ANALYZE {table}")
        execute("CHECKPOINT")


def forget_undone(url: str) -> None:
    """Deletes the rows that wait from the inbox and the outbox."""
    with _open(url) as execute:
        execute("DELETE FROM inbox_event WHERE status = 'received'")
        execute("DELETE FROM outbox_action WHERE status = 'pending'")
    settle(url)


def count(url: str, table: str, condition: str = "true") -> int:
    """The number of rows that meet the condition."""
    with _open(url) as execute:
        return int(execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()[0])  # noqa: S608  # our own words


@contextmanager
def _open(url: str) -> Iterator[Any]:
    if url.startswith("sqlite"):
        lite = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=10)
        try:
            yield lite.execute
        finally:
            lite.close()
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection.execute
