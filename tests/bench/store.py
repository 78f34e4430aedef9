"""The bench's own look into the databases: emptied, counted, filled."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

_TABLES = ("inbox_event", "verification_record", "verification_submission", "outbox_action", "usual_event")
_USUAL = (
    "CREATE TABLE IF NOT EXISTS usual_event"
    " (id text PRIMARY KEY, type text, session_id text, created_at {0}, received_at {0})"
)
_EVENTS = """
INSERT INTO inbox_event (id, type, session_id, livemode, created_at, received_at, status, outcome, attempts, waits,
  due_at, owes_nothing, has_flow, processed_at, session_status, client_reference_id, user_id)
SELECT 'evt_1Old' || n, 'identity.verification_session.' || k, 'vs_1Old' || n % {records}, false, t, t, 'processed',
  'applied', 1, 0, t, false, false, t, 'requires_input', 'user_' || n % {records}, 'user_' || n % {records}
FROM (SELECT n, now() - interval '60 days' * random() AS t,
    (ARRAY['created', 'processing', 'verified'])[1 + n % 3] AS k FROM generate_series(1, {events}) AS n) AS old"""
_RECORDS = """
INSERT INTO verification_record (session_id, status, client_reference_id, user_id, livemode, submissions, told_count,
  client_reference_trusted, change_number, applied_at, applied_rank, applied_answer, created_at, updated_at)
SELECT 'vs_1Old' || n, 'verified', 'user_' || n, 'user_' || n, false, 1, 0, true, 3, now(), 3, false, now(), now()
FROM generate_series(0, {records} - 1) AS n"""
_SUBMISSIONS = """
INSERT INTO verification_submission (session_id, report_id)
SELECT 'vs_1Old' || n, 'vr_1Old' || n FROM generate_series(0, {records} - 1) AS n"""
_ACTIONS = """
INSERT INTO outbox_action (session_id, name, cause, status, attempts, waits, due_at, created_at, done_at)
SELECT 'vs_1Old' || n, 'email_verified', 'verified::vr_1Old' || n, 'done', 1, 0, now(), now(), now()
FROM generate_series(0, {records} - 1) AS n"""

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
_HOW_MANY = "SELECT count(*), min({since}), count(*) FILTER (WHERE {since} < now() - interval '1 day') FROM {table}"


def empty(url: str) -> None:
    """No rows, and the table of the usual design beside ours."""
    with _open(url) as execute:
        if url.startswith("sqlite"):
            execute(_USUAL.format("text"))
            for table in _TABLES:
                execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        else:
            execute(_USUAL.format("timestamptz"))
            execute(f"TRUNCATE {', '.join(_TABLES)}")


def fill(url: str, events: int, records: int) -> None:
    """Years of work, done."""
    with _open(url) as execute:
        for statement in (_EVENTS, _RECORDS, _SUBMISSIONS, _ACTIONS):
            execute(statement.format(events=events, records=records))
    settle(url)


def fill_undone(url: str, rows: int) -> None:
    """So many events and actions that wait, a third as many that are dead, and the sessions that they are of."""
    with _open(url) as execute:
        execute(_KNOWN.format(rows=rows))
        for statement, waits in ((_WAITING, "received"), (_OWED, "pending")):
            execute(statement.format(rows=rows, status=waits))
            execute(statement.format(rows=rows // 3, status="dead"))


def seconds_to_count(url: str) -> float:
    """All that waits, and how old it is, row by row."""
    begun = time.perf_counter()
    with _open(url) as execute:
        for table, since, waits in (
            ("inbox_event", "received_at", "received"),
            ("outbox_action", "created_at", "pending"),
        ):
            execute(f"{_HOW_MANY.format(table=table, since=since)} WHERE status = '{waits}'").fetchone()
    return time.perf_counter() - begun


def settle(url: str, table: str = "") -> None:
    """Does now what PostgreSQL does in its own time, some minutes later, and would do amid a measurement.

    Of a table it has looked into while it was empty it plans whole scans, for as long as nobody looks again: one that
    is about to be filled for the first time is left out.
    """
    with _open(url) as execute:
        execute(f"VACUUM ANALYZE {table}")
        execute("CHECKPOINT")


def forget_undone(url: str) -> None:
    """Only what is done stays in the inbox and the outbox."""
    with _open(url) as execute:
        execute("DELETE FROM inbox_event WHERE status = 'received'")
        execute("DELETE FROM outbox_action WHERE status = 'pending'")
    settle(url)


def count(url: str, table: str, condition: str = "true") -> int:
    """Rows."""
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
