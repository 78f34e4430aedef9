"""All data of a SQLite file goes on in PostgreSQL: waiting rows, numbers, moments, and nothing twice."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select, text, update

from config.database import on_sqlite, transaction
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.audit import By, Way, audited, note
from handlers.outbox.perform import perform
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord
from handlers.upkeep import move as moving
from tests.support import databases, facts
from tests.support.facts import NOON, event
from tests.support.operator import command
from tests.support.waiting import wait_until

_ON_POSTGRESQL = pytest.mark.skipif(not databases.SERVER_URL, reason="it is where everything is moved to")
BY = By(who="a test", way=Way.COMMAND)


@pytest.fixture
def file(tmp_path: Path, environment: pytest.MonkeyPatch) -> str:
    """A SQLite file with persons in each state, in use by this process."""
    url = databases._sqlite_file(tmp_path, migrated=True)
    _use(environment, url)
    sent, waits = facts.applied(
        event("requires_input", code="document_expired", report="vr_1", reference="über-1"),
        event("verified", NOON + 5, report="vr_2"),
    )
    perform(sent)
    with transaction() as session:
        later = datetime.now(UTC) + timedelta(hours=1)
        changed = {"attempts": 3, "waits": -33, "due_at": later, "last_error": "Stripe answered 403"}
        session.connection().execute(update(OutboxAction).where(OutboxAction.id == waits).values(changed))  # type: ignore[arg-type]  # SQLModel
    receive([event("created", session_id="vs_2"), event("redacted", NOON + 9, session_id="vs_3")])
    return url


def _use(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("DATABASE_URL", url)
    databases.forget_process_state()


def _all_rows() -> dict[str, list[Any]]:
    with transaction() as session:
        return {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
            for table in moving._tables()
        }


@_ON_POSTGRESQL
def test_every_row_is_there_and_goes_on(database_url: str, file: str, environment: pytest.MonkeyPatch) -> None:
    before = _all_rows()
    said = command("move", "--to", database_url, "--json", DATABASE_URL=file)
    assert said.code == 0, said.err
    assert {row["table"]: row["compared"] for row in said.json} == {
        name: len(rows) for name, rows in before.items() if rows
    }
    assert all(row["copied"] == row["compared"] for row in said.json)
    assert said.err == "", "nothing mixes into what a machine reads"
    _use(environment, database_url)
    after = _all_rows()
    [line] = after.pop("identity_audit")
    assert "move" in line
    before.pop("identity_audit")
    assert after == before
    process([row.id for session_id in ("vs_2", "vs_3") for row in facts.event_rows(session_id)])
    assert facts.record("vs_2").status == "requires_input"
    [new] = facts.applied(event("verified", session_id="vs_4", report="vr_1"))
    assert new == len(before["outbox_action"]) + 1, "numbers go on where the file had come"


@_ON_POSTGRESQL
def test_a_move_that_was_cut_off_is_run_again(
    database_url: str, file: str, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _all_rows()
    monkeypatch.setattr(moving, "_BATCH", 1)
    source = on_sqlite(make_url(file))
    _use(environment, database_url)
    for so_far in (1, 2, 5, 8):
        going = moving.move_database(source, BY)
        for _ in range(so_far):
            next(going)
        going.close()
        assert not any(_all_rows().values()), "nobody finds a part of it"
    steps = list(moving.move_database(source, BY))
    assert sum(step.rows for step in steps if step.is_comparison) == sum(map(len, before.values()))
    # A second run only compares.
    assert all(step.is_comparison for step in moving.move_database(source, BY))
    assert [row.what for row in audited()] == ["move"]


@_ON_POSTGRESQL
@pytest.mark.parametrize("steps", [1, 9])
def test_what_a_process_owes_meanwhile_waits_and_loses_nothing(
    database_url: str, file: str, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    before = {action.id for action in facts.actions()}
    monkeypatch.setattr(moving, "_BATCH", 1)
    _use(environment, database_url)
    going = moving.move_database(on_sqlite(make_url(file)), BY)
    for _ in range(steps):
        next(going)
    with ThreadPoolExecutor(1) as other:
        owed = other.submit(facts.applied, event("verified", session_id="vs_9", report="vr_9"))
        wait_until(_somebody_waits_for_a_lock)
        for _ in going:
            pass
    new = {action.id for action in facts.actions("vs_9")}
    assert new == set(owed.result())
    assert {action.id for action in facts.actions()} == before
    assert not new & before, "numbers go on where the file had come"
    assert facts.record("vs_9").status == "verified"


def _somebody_waits_for_a_lock() -> bool:
    with transaction() as session:
        return bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


@_ON_POSTGRESQL
def test_who_was_at_work_before_the_move_is_not_written_over(
    database_url: str, file: str, environment: pytest.MonkeyPatch
) -> None:
    _use(environment, database_url)
    with transaction() as session:
        note(session, BY, "pause", [])
    _use(environment, file)
    with transaction() as session:
        note(session, BY, "resume", [])
    said = command("move", "--to", database_url)
    assert (said.code, "identity_audit differs" in said.err) == (1, True)
    _use(environment, database_url)
    assert [row.what for row in audited()] == ["pause"]
    assert sum(map(len, _all_rows().values())) == 1


def _is_at_work() -> None:
    for row in facts.event_rows("vs_2"):
        process([row.id])


def _is_anothers() -> None:
    with transaction() as session:
        session.delete(session.get_one(VerificationRecord, "vs_1"))


def _tells_otherwise() -> None:
    with transaction() as session:
        session.connection().execute(update(OutboxAction).values(status=ActionStatus.DEAD))


@_ON_POSTGRESQL
@pytest.mark.parametrize("change", [_is_at_work, _is_anothers, _tells_otherwise])
def test_what_has_been_at_work_since_is_never_written_over(
    database_url: str, file: str, environment: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    assert command("move", "--to", database_url).code == 0
    _use(environment, database_url)
    change()
    rows = _all_rows()
    _use(environment, file)
    said = command("move", "--to", database_url)
    assert said.code == 1
    assert "A row of" in said.err
    _use(environment, database_url)
    assert _all_rows() == rows


@_ON_POSTGRESQL
def test_nobody_writes_to_the_file_meanwhile(database_url: str, file: str, environment: pytest.MonkeyPatch) -> None:
    source = on_sqlite(make_url(file))
    _use(environment, database_url)
    going = moving.move_database(source, BY)
    next(going)
    with (
        closing(sqlite3.connect(str(make_url(file).database), timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError),
    ):
        other.execute("DELETE FROM inbox_event")
    going.close()
    source.dispose()


@pytest.mark.usefixtures("file")
def test_only_a_file_is_moved_and_only_into_postgresql(tmp_path: Path) -> None:
    assert command("move", "--to", f"sqlite:///{tmp_path}/other.db").code == 1
    for url, code in (("nonsense", 2), ("postgres://h/x?nonsense=1", 2), ("postgres://127.0.0.1:1/x", 1)):
        said = command("move", "--to", url)
        assert (said.code, "--to" in said.err, "DATABASE_URL" in said.err) == (code, True, False), said.err
    assert command("move", "--to", "postgres://127.0.0.1/x", DATABASE_URL="postgres://127.0.0.1/y").code == 1
    assert command("move", "--to", "postgres://127.0.0.1/x", DATABASE_URL=f"sqlite:///{tmp_path}/none.db").code == 1


def test_an_older_file_is_to_be_migrated_first(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("CREATE TABLE inbox_event (id TEXT)")
    said = command("move", "--to", "postgres://127.0.0.1:1/x", DATABASE_URL=f"sqlite:///{tmp_path}/old.db")
    assert (said.code, "python -m worker migrate" in said.err) == (1, True)
