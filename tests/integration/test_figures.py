"""Figures that cost the same at any backlog: exact where that is cheap, and else shown as "more"."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from config.database import engine, statement, transaction, true_now
from handlers.metrics import counting, exposition
from handlers.operator import lists, queries
from handlers.operator.audit import By, Way, audited, note_beforehand
from handlers.operator.findings import findings
from handlers.operator.lists import page_of
from handlers.operator.queries import Filter, backlogs, find_records, records_by_status
from handlers.tables.models import ActionStatus, OutboxAction
from tests.support import facts
from tests.support.operator import command
from worker.__main__ import parser

pytestmark = pytest.mark.usefixtures("database_url")
MANY = 3000


def _fill(count: int, *, status: str = "pending", error: str = "refused") -> None:
    with transaction() as session:
        at = true_now() - timedelta(days=2)
        session.add_all(
            OutboxAction(
                session_id=f"vs_{number}",
                name="email_verified",
                cause=status,
                status=ActionStatus(status),
                created_at=at + timedelta(seconds=number),
                due_at=at + timedelta(seconds=number),
                last_error=error,
            )
            for number in range(count)
        )


def test_what_is_more_than_is_counted_is_said_to_be_more_and_the_oldest_is_exact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queries, "MOST_COUNTED", 3)
    _fill(5)
    _fill(5, status="dead")
    found = backlogs()["actions"]
    assert (found.waiting, found.due, found.dead, found.overdue) == (4, 4, 4, 4)
    assert found.oldest_seconds == pytest.approx(timedelta(days=2).total_seconds(), abs=60)
    assert backlogs()["events"].waiting == 0
    words = {one.what: one.words for one in findings(None)}
    assert words["dead"] == "more than 3 actions are dead"
    assert words["overdue"] == "more than 3 actions have waited for more than a day"
    asked = parser().parse_args(("status",))
    assert asked.command.run(asked) == 1
    assert capsys.readouterr().out.count("more than 3") >= 4 + 2
    assert "1,000 and one of them are counted at most" in exposition.exposition()[0].decode()


def test_status_says_up_to_where_it_counts_and_what_ended_within_minutes() -> None:
    counting.DELIVERIES.labels(outcome="accepted", reason="").inc(2)
    counting.ENDED_ACTIONS.labels(name="email_verified", status="done").inc()
    counting.flush()
    said = command("status", "--json").json
    assert said["counted_up_to"] == queries.MOST_COUNTED
    assert said["last_five_minutes"] == {"deliveries_answered": 2, "events_ended": 0, "actions_ended": 1}


def test_the_latest_sessions_are_counted_by_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    facts.applied(*(facts.event("verified", session_id=f"vs_{number}") for number in range(4)))
    assert records_by_status()["verified"] == 4
    monkeypatch.setattr(queries, "RECORDS", 3)
    assert records_by_status()["verified"] == 3


@pytest.mark.parametrize("name", ["dead-actions", "waiting-actions"])
def test_a_page_that_little_matches_is_looked_for_further_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lists, "LOOKED_AT", 4)
    _fill(9, status=str(lists.LISTS[name].wanted.status))
    with statement() as connection:
        connection.execute(text("UPDATE outbox_action SET last_error = 'gone' WHERE session_id IN ('vs_0', 'vs_5')"))
    found: list[str] = []
    pages, after = 0, None
    while pages == 0 or after:
        rows, last = page_of(name, Filter(error="gone"), after)
        found += [row.session_id for row in rows]
        pages, after = pages + 1, _key(last)
    assert (sorted(found), pages) == (["vs_0", "vs_5"], 3)


def _key(last: str | None) -> Any:
    if last is None:
        return None
    moment, _, id_ = last.partition("_")
    return datetime.fromisoformat(moment), int(id_)


def test_changes_about_one_person_are_looked_for_among_the_latest() -> None:
    by = By(who="anna", way=Way.CONSOLE, reason="told by phone")
    for about in ("vs_1", "vs_2", "vs_3"):
        note_beforehand(by, "link", (about,))
    assert len(audited("vs_1")) == 1
    assert [len(audited("vs_1", among=among)) for among in (2, 3)] == [0, 1]


def test_no_figure_and_no_page_reads_more_rows_than_it_shows(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not database_url.startswith("postgres"):
        pytest.skip("how PostgreSQL does it")
    for module, name in ((queries, "MOST_COUNTED"), (queries, "RECORDS"), (lists, "LOOKED_AT")):
        monkeypatch.setattr(module, name, 10)
    _fill(MANY)
    _fill(MANY, status="dead")
    with statement() as connection:
        connection.execute(
            text(
                "INSERT INTO verification_record (session_id, client_reference_id, user_id, livemode, submissions,"
                " client_reference_trusted, change_number, told_count, applied_rank, applied_answer, created_at,"
                " updated_at)"
                " SELECT 'vs_' || n, 'reference_' || n, 'user_' || n, false, 0, true, 0, 0, 0, false, now(), now()"
                " FROM generate_series(1, :many) AS n"
            ),
            {"many": MANY},
        )
        connection.execute(text("ANALYZE verification_record"))  # as PostgreSQL does soon; others are as at first
    read: dict[str, int] = {}

    @event.listens_for(engine(), "before_cursor_execute")
    def _(_: Any, cursor: Any, asked: str, parameters: Any, *__: Any) -> None:
        if asked.startswith("SELECT") and "FROM" in asked.split():
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}", parameters)
            [plan] = cursor.fetchone()[0]
            read[asked] = max(read.get(asked, 0), *_rows(plan["Plan"]))

    try:
        backlogs()
        records_by_status()
        page_of("waiting-actions", Filter(error="of none"), None)
        page_of("dead-actions", Filter(kind="of none"), None)
        for word in ("reference_7", "user_7", "vs_7", "nobody"):
            find_records(word)
    finally:
        event.remove(engine(), "before_cursor_execute", _)
    assert len(read) >= 6
    assert {asked: rows for asked, rows in read.items() if rows > 100} == {}


def _rows(plan: dict[str, Any]) -> list[int]:
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return [own, *(rows for below in plan.get("Plans", ()) for rows in _rows(below))]
