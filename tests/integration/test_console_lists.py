"""The console's lists: page by page, narrowed, and mended all at once; fast however many rows are kept."""

import html
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from config.database import statement, transaction, true_now
from handlers.operator import lists
from handlers.operator.audit import audited
from handlers.operator.findings import Finding
from handlers.operator.lists import LISTS
from handlers.operator.queries import Filter, find_actions
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction
from receiver.app import app
from receiver.console import bulk
from tests.integration.operators import HERE, KEYS, OURS, send, sign_in
from tests.support import databases

pytestmark = pytest.mark.usefixtures("database_url")
REASON = "the server is back"


@pytest.fixture
def console(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser with anna, who may mend, signed in."""
    for name, value in KEYS.items():
        environment.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE, follow_redirects=False) as client:
        sign_in(client)
        yield client


def _rows(count: int, at_once: int = 3, **changes: Any) -> None:
    """Adds actions, `at_once` of them of the same moment."""
    with transaction() as session:
        for number in range(count):
            at = true_now() - timedelta(minutes=number // at_once)
            row: dict[str, Any] = {
                "session_id": f"vs_{number}",
                "name": "email_verified",
                "cause": "c",
                "status": ActionStatus.DEAD,
            }
            row |= {"created_at": at, "due_at": at, "last_error": "refused"}
            session.add(OutboxAction(**(row | changes)))


def _event(event_id: str, **changes: Any) -> None:
    at = true_now()
    row: dict[str, Any] = {
        "id": event_id,
        "type": "identity.verification_session.verified",
        "session_id": "vs_1",
        "livemode": False,
    }
    row |= {"created_at": at, "received_at": at, "due_at": at}
    with transaction() as session:
        session.add(InboxEvent(**(row | changes)))


def _ids(page: str) -> list[str]:
    return re.findall(r'<td class="id" data-of="id">(\w+)</td>', page)


@pytest.mark.parametrize("name", ["dead-actions", "waiting-actions"])
def test_every_row_is_on_one_page(console: TestClient, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lists, "PAGE_ROWS", 4)
    _rows(11, status=LISTS[name].wanted.status)
    seen: list[str] = []
    path = f"/console/lists/{name}?error=refused"
    for _ in range(3):
        page = console.get(path).text
        seen += _ids(page)
        (path,) = re.findall(r'href="([^"]*after=[^"]*)"', page) or [""]
        path = html.unescape(path)
    assert path == ""
    ordered = sorted(seen, key=int)
    assert len(set(seen)) == 11
    by_moment = [(number - 1) // 3 for number in map(int, seen)]
    assert by_moment == sorted(by_moment, reverse=name == "waiting-actions"), ordered


def test_each_list_has_its_rows_and_no_others(console: TestClient) -> None:
    for status in ActionStatus:
        _rows(1, session_id=f"vs_{status}", status=status)
    _event("evt_dead", status=InboxStatus.DEAD)
    _event("evt_waits")
    _event("evt_ignored", status=InboxStatus.PROCESSED, outcome="ignored", last_error="not ours")
    _event("evt_applied", status=InboxStatus.PROCESSED, outcome="applied")
    found = {name: _ids(console.get(f"/console/lists/{name}").text) for name in LISTS}
    numbers = {str(action.status): str(action.id) for action in find_actions(Filter(), None)}
    assert found == {
        "dead-events": ["evt_dead"],
        "dead-actions": [numbers["dead"]],
        "waiting-events": ["evt_waits"],
        "waiting-actions": [numbers["pending"]],
        "skipped-actions": [numbers["skipped"]],
        "ignored-events": ["evt_ignored"],
    }


@pytest.mark.parametrize(
    ("what", "words", "ways"),
    [
        ("dead", "2 events are dead", ["lists/dead-events"]),
        ("dead", "2 actions are dead", ["lists/dead-actions"]),
        ("overdue", "2 events have waited for more than a day", ["lists/waiting-events"]),
        ("events", "the oldest waiting event is 400 s old", ["lists/waiting-events"]),
        ("actions", "the oldest waiting action is 400 s old", ["lists/waiting-actions"]),
        ("skipped", "2 actions were skipped", ["lists/skipped-actions"]),
        ("redactions", "vs_1 is not redacted, as was asked", ["persons/vs_1"]),
        ("refusals", "the mail server answered 535", ["checks"]),
        ("paused", "mail wait", ["audit"]),
        ("processes", "no clock runs", []),
    ],
)
def test_a_finding_leads_to_where_it_is_mended(
    console: TestClient, monkeypatch: pytest.MonkeyPatch, what: str, words: str, ways: list[str]
) -> None:
    _event("evt_1")
    monkeypatch.setattr("receiver.console.routes.judged", lambda _: [Finding("FAIL", what, words, "retry; it", "A")])
    part = console.get("/console").text.partition('data-part="waits"')[0].partition('data-part="findings"')[2]
    assert re.findall(r'href="/console/([^"]+)"', part) == ways
    assert [console.get(f"/console/{way}").status_code for way in ways] == [200] * len(ways)


def test_a_list_is_narrowed_by_name_reason_and_age(console: TestClient) -> None:
    _rows(1, session_id="vs_1", name="alert_review")
    _rows(1, session_id="vs_2", last_error="it's <gone>")
    _rows(1, session_id="vs_3", created_at=true_now() - timedelta(hours=2))
    for query, session_ids in (
        ("", {"vs_1", "vs_2", "vs_3"}),
        ("kind=alert_review", {"vs_1"}),
        ("error=<gone>", {"vs_2"}),
        ("older=1h", {"vs_3"}),
        ("older=1d&kind=", set()),
        ("older=x&after=x&error=%00", {"vs_1", "vs_2", "vs_3"}),
        ("after=2026-11-26T05:00:00%2B00:00_x", {"vs_1", "vs_2", "vs_3"}),
    ):
        page = console.get(f"/console/lists/dead-actions?{query}").text
        assert set(re.findall(r"persons/(vs_\d)", page)) == session_ids, query
        assert "<gone>" not in page


def test_all_that_match_are_mended_for_a_reason_in_batches(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.operator.retry_discard._BATCH", 2)
    monkeypatch.setattr(bulk, "_MOST_SECONDS", -1.0)
    _rows(5)
    _rows(1, session_id="vs_other", name="alert_review")
    path = "/console/lists/dead-actions/retry?kind=email_verified&error=&older="
    assert "email_verified" in console.get(path).text
    assert send(console, path, on=path, reason="").status_code == 400
    answer, clicks = send(console, path, on=path, reason=REASON), 1
    with transaction() as session:  # the first has failed again meanwhile
        session.connection().execute(text("UPDATE outbox_action SET status = 'dead' WHERE session_id = 'vs_0'"))
    while answer.status_code == 200:
        assert f"{2 * clicks if clicks < 3 else 5} were changed, and there are more" in answer.text
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text.partition("<h1>")[2]))
        assert form["reason"] == REASON
        answer, clicks = console.post(path, data=form, headers=OURS), clicks + 1
    assert answer.headers["location"].endswith("count=5")
    assert "5 changed." in console.get(answer.headers["location"]).text
    assert clicks == 4
    assert [one.session_id for one in find_actions(Filter(status="dead"), None)] == ["vs_other", "vs_0"]
    monkeypatch.undo()
    discard = "/console/lists/dead-actions/discard"
    for count in (2, 0):  # a second click does nothing more
        assert send(console, discard, on=discard, reason=REASON).headers["location"].endswith(f"count={count}")
    assert [(one.who, one.way, one.what, one.reason) for one in audited()] == [
        ("anna", "console", what, REASON) for what in ("discard", "retry", "retry", "retry")
    ]
    ids = [id_ for one in audited(what="retry") for id_ in one.about.split() if id_.isdigit()]
    assert len(ids) == len(set(ids)) == 5


def test_who_may_look_mends_no_list_and_no_list_is_mended_as_it_must_not_be(console: TestClient) -> None:
    _rows(1)
    for path in ("ignored-events/retry", "skipped-actions/discard", "dead-actions/drop", "none/retry", "none"):
        assert console.get(f"/console/lists/{path}").status_code == 404
    send(console, "/console/sign-out")
    sign_in(console, "otto")
    path = "/console/lists/dead-actions/discard"
    assert path not in console.get("/console/lists/dead-actions").text
    assert console.get(path).status_code == 403
    assert send(console, path, reason=REASON).status_code == 403
    assert audited() == []


def test_each_list_goes_by_an_index(database_url: str) -> None:
    if not database_url.startswith("postgres"):
        pytest.skip("how PostgreSQL plans it")
    plans = {}
    for name, one in LISTS.items():
        status = f"outcome = '{one.wanted.outcome}'" if one.wanted.outcome else f"status = '{one.wanted.status}'"
        direction = "" if one.by == "due_at" else "DESC"
        with statement() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            ordered = f"ORDER BY {one.by} {direction}, id {direction} LIMIT 50"
            plan = connection.execute(
                text(f"EXPLAIN SELECT * FROM {one.table.__tablename__} WHERE {status} {ordered}")  # noqa: S608  # ours
            )
            plans[name] = "\n".join(row[0] for row in plan)
    assert {name for name, plan in plans.items() if "Index Scan" not in plan} == set()
