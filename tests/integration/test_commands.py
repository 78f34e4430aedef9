"""The operator's commands, as real processes: their output, their changes, and their exit status."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.process import claim_events, process, process_together
from handlers.inbox.receive import receive
from handlers.operator.audit import By, Way
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows
from handlers.record.decide import Outcome
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    Verification,
    VerificationRecord,
)
from tests.support import facts
from tests.support.facts import NOON, claim_action, event
from tests.support.operator import ROOT, command
from worker.__main__ import COMMANDS, parser

pytestmark = pytest.mark.usefixtures("database_url")

NOW = datetime.now(UTC)
PERSONAL = ("It did not work.", "c4nary")  # Stripe's sentence about the document, and a word that nothing may show


def test_status_of_an_empty_service_is_good() -> None:
    facts.all_alive()
    said = command("status", "--json")
    assert said.code == 0
    assert said.json["events"] == {"waiting": 0, "due": 0, "dead": 0, "oldest_seconds": 0.0, "overdue": 0}
    assert "waiting" in command("status").out


def test_status_says_that_a_deploy_has_worked_and_nobody_refuses() -> None:
    assert "processes" not in command("status", "--json").json["in_order"]
    facts.all_alive()
    in_order = {
        "database": "all migrations are applied",
        "processes": "web, worker and clock are at work",
        "refusals": "no process was refused by whom it asked last",
    }
    assert command("status", "--json").json["in_order"] == in_order
    said = " ".join(command("status").out.split())
    assert " ".join(["in order", *(word for pair in in_order.items() for word in pair)]) in said


def test_status_counts_what_waits_and_fails_when_it_waited_too_long() -> None:
    facts.all_alive()
    receive([event("created"), event("verified", NOON + 1)])
    said = command("status", "--json")
    assert (said.code, said.json["events"]["waiting"], said.json["events"]["due"]) == (0, 2, 2)
    _move(InboxEvent, received_at=datetime.now(UTC) - timedelta(minutes=6))
    assert command("status").code == 1
    assert command("status", BACKLOG_SECONDS="3600").code == 0


def test_status_fails_when_something_is_dead() -> None:
    _dead_event()
    said = command("status", "--json")
    assert (said.code, said.json["events"]["dead"]) == (1, 1)


def test_events_are_found_by_each_filter() -> None:
    facts.applied(event("created", session_id="vs_a"), event("verified", NOON + 1, session_id="vs_b"))
    receive([event("processing", session_id="vs_c")])
    assert len(command("events", "--json").json) == 3
    for words, session_id in (
        (("--kind", "verified"), "vs_b"),
        (("--kind", "identity.verification_session.created"), "vs_a"),
        (("--session", "vs_c"), "vs_c"),
        (("--status", "received"), "vs_c"),
        (("--limit", "1"), "vs_c"),
    ):
        assert [row["session_id"] for row in command("events", "--json", *words).json] == [session_id], words
    assert command("events", "--since", "1h", "--kind", "canceled").code == 1
    assert command("events", "--since", "2099-01-01").code == 1


def test_an_event_is_shown_with_its_history() -> None:
    said = event("requires_input", code="document_expired", report="vr_1")
    facts.applied(said)
    shown = command("event", said.id)
    assert shown.code == 0
    for words in ("happened at Stripe", "received", "tried once", "processed: applied", "email_retry_prompt"):
        assert words in shown.out
    assert command("event", said.id, "--json").json["error_code"] == "document_expired"
    assert command("event", "evt_unknown").code == 1


def test_a_session_is_one_story_by_its_id_its_user_or_its_reference() -> None:
    facts.applied(event("created"), event("processing", NOON + 5))
    failed = event("requires_input", NOON + 9, code="document_expired", report="vr_1", user="u7", reference="case-7")
    facts.applied(failed)
    for word in ("vs_1", "u7", "case-7"):
        [story] = command("session", word, "--json").json
        assert story["record"]["last_error_code"] == "document_expired"
        assert [line["what"] for line in story["timeline"]] == [
            "created",
            "processing",
            "requires_input",
            "email_retry_prompt",
        ]
    assert "document_expired" in command("session", "vs_1").out
    assert command("session", "nobody").code == 1


def test_a_session_is_told_in_stripes_order_whatever_the_ids_are() -> None:
    facts.applied(
        event("verified", NOON + 5, event_id="evt_a", report="vr_2"),
        event("requires_input", NOON + 5, event_id="evt_b", code="document_expired", report="vr_1"),
        event("processing", NOON + 5, event_id="evt_c"),
        event("created", NOON, event_id="evt_d"),
    )
    [story] = command("session", "vs_1", "--json").json
    told = [line["what"] for line in story["timeline"] if line["id"].startswith("evt_")]
    assert told == ["created", "processing", "requires_input", "verified"]
    assert story["dashboard_url"] == "https://dashboard.stripe.com/test/identity/verification-sessions/vs_1"


def test_a_session_shows_what_waits_why_and_until_when() -> None:
    [mail] = facts.applied(event("verified", report="vr_1"))
    _move(OutboxAction, mail, attempts=3, waits=2, last_error="Stripe answered 403")
    shown = " ".join(command("session", "vs_1").out.split())
    assert "Stripe answered 403, since the person is verified (vr_1), tried 3 times, 2 of them not counted, <" in shown
    assert "waits until" in shown


def test_a_mail_address_is_not_looked_up_and_not_repeated() -> None:
    said = command("session", "c4nary@example.com")
    assert said.code == 1
    assert "Dashboard" in said.err
    assert "c4nary" not in said.err + said.out


def test_actions_are_listed_by_each_filter_and_by_pages() -> None:
    ids = facts.applied(*(event("verified", session_id=f"vs_{number}", report="vr_1") for number in range(3)))
    _move(OutboxAction, ids[0], status="skipped", reason="no address")
    _move(OutboxAction, ids[1], created_at=NOW - timedelta(days=2))
    for words, found in (
        ((), [ids[2], ids[1], ids[0]]),
        (("--status", "skipped"), [ids[0]]),
        (("--error", "address"), [ids[0]]),
        (("--older", "1d"), [ids[1]]),
        (("--since", "1d", "--kind", "email_verified"), [ids[2], ids[0]]),
        (("--session", "vs_2"), [ids[2]]),
        (("--limit", "1", "--after", str(ids[2])), [ids[1]]),
    ):
        assert [row["id"] for row in command("actions", *words, "--json").json] == found, words
    assert f"--after {ids[1]}" in command("actions", "--limit", "2").err
    assert command("actions", "--kind", "alert_review").code == 1
    for listing in ("actions", "sessions", "events", "audit"):
        assert {command(listing, "--limit", some).code for some in ("-1", "0", "1001", "9" * 20)} == {2}
    assert command("actions", "--older", "soon").code == 2


def test_sessions_are_listed_by_each_filter_and_by_pages() -> None:
    facts.applied(
        event("verified", session_id="vs_a"), event("requires_input", session_id="vs_b", code="document_expired")
    )
    with transaction() as session:
        session.add(Verification(id="idv_1", purpose="age", livemode=False, created_at=NOW, updated_at=NOW))
        record = session.get_one(VerificationRecord, "vs_a")
        record.verification_id, record.created_at = "idv_1", NOW - timedelta(days=2)
    for words, found in (
        ((), ["vs_b", "vs_a"]),
        (("--status", "verified"), ["vs_a"]),
        (("--error", "document_expired"), ["vs_b"]),
        (("--purpose", "age"), ["vs_a"]),
        (("--older", "1d"), ["vs_a"]),
        (("--since", "1d"), ["vs_b"]),
        (("--after", "vs_b", "--limit", "1"), ["vs_a"]),
    ):
        assert [row["session_id"] for row in command("sessions", *words, "--json").json] == found, words
    assert command("sessions", "--after", "vs_unknown").code == 1
    assert [row["session_id"] for row in command("actions", "--purpose", "age", "--json").json] == ["vs_a"]
    assert [story["record"]["session_id"] for story in command("session", "idv_1", "--json").json] == ["vs_a"]


def test_no_command_shows_what_is_personal() -> None:
    said = event("requires_input", code="made_up", report="vr_1")
    facts.applied(said)
    for words in (
        ("events", "--json"),
        ("event", said.id, "--json"),
        ("session", "vs_1", "--json"),
        ("session", "vs_1"),
        ("sessions", "--json"),
        ("actions", "--json"),
    ):
        shown = command(*words)
        assert not any(secret in shown.out + shown.err for secret in PERSONAL), words


def test_what_is_stored_is_no_markup_for_the_terminal() -> None:
    _dead_event(last_error="[red]not red[/]")
    assert "[red]not red[/]" in command("dead").out


def test_dead_lists_events_and_actions_and_says_whether_there_are_any() -> None:
    assert command("dead").code == 0
    event_id, action_id = _dead_event(), _dead_action()
    said = command("dead", "--json")
    assert said.code == 1
    assert [row["id"] for row in said.json["events"]] == [event_id]
    assert [row["id"] for row in said.json["actions"]] == [action_id]


def test_retry_gives_a_dead_event_all_its_tries_again_and_keeps_the_fence() -> None:
    event_id = _dead_event(attempts=8)
    said = command("retry", event_id, "--json")
    assert (said.code, said.json) == (0, {"retried": {"events": [event_id]}})
    row = facts.event_row(event_id)
    assert (row.status, row.attempts, row.waits) == (InboxStatus.RECEIVED, 8, 8)
    process([event_id])
    assert facts.event_row(event_id).status == InboxStatus.PROCESSED
    assert facts.record().status == "verified"


def test_retry_takes_many_ids_of_both_kinds() -> None:
    event_id, action_id = _dead_event(), _dead_action()
    said = command("retry", event_id, str(action_id), "--json")
    assert said.json == {"retried": {"events": [event_id], "actions": [action_id]}}
    assert facts.due_actions() == [action_id]


def test_retry_by_filter_takes_what_matches_and_is_dead() -> None:
    action_id = _dead_action(last_error="the SMTP server answered 550")
    _dead_event(last_error="OverflowError")
    assert command("retry", "--error", "550", "--json").json == {"retried": {"events": [], "actions": [action_id]}}
    assert command("retry", "--all", "--of", "actions").code == 1
    assert command("retry", "--all").code == 0
    assert command("retry", "--all").code == 1


def test_retry_takes_what_waits_too_and_leaves_what_somebody_works_on() -> None:
    [waits, at_work, at_work_again, never_tried] = facts.applied(
        *(event("verified", session_id=f"vs_{number}", report="vr_1") for number in range(4))
    )
    later = datetime.now(UTC) + timedelta(hours=1)
    _move(OutboxAction, waits, attempts=5, waits=2, due_at=later, last_error="Stripe answered 403")
    assert claim_action(at_work)
    _move(OutboxAction, at_work_again, attempts=5, last_error="Stripe answered 403")
    assert claim_action(at_work_again)
    assert command("retry", "--error", "403", "--json").json["retried"]["actions"] == [waits]
    row = facts.action(waits)
    assert (row.status, row.attempts, row.waits, row.last_error) == (ActionStatus.PENDING, 5, 5, None)
    assert set(facts.due_actions()) == {waits, never_tried}
    assert command("retry", str(at_work)).code == 1


def test_retry_and_discard_say_of_each_that_is_named_why_it_stays_as_it_is() -> None:
    [at_work, done, skipped] = facts.applied(
        *(event("verified", session_id=f"vs_{number}", event_id=f"evt_{number}", report="vr_1") for number in range(3))
    )
    assert claim_action(at_work)
    _move(OutboxAction, done, status=ActionStatus.DONE)
    _move(OutboxAction, skipped, status=ActionStatus.SKIPPED, reason="discarded: told by phone")
    dead = _dead_action()
    said = command("retry", "evt_0", "evt_9", *map(str, (at_work, done, skipped, dead)), "--json")
    assert said.json == {"retried": {"events": [], "actions": [dead]}}
    assert said.err.splitlines() == [
        "evt_0 stays as it is: it is processed, and is applied once only.",
        "evt_9 stays as it is: there is none.",
        f"{at_work} stays as it is: it waits for its first try, or a worker has it now.",
        f"{done} stays as it is: it is done; python -m worker resend does it once more, on purpose.",
        f"{skipped} stays as it is: it is skipped; python -m worker resend does it once more, on purpose.",
    ]
    assert "it is done" in command("discard", str(done), "--reason", "test").err


def test_discard_ends_what_waits_too() -> None:
    [waits, at_work] = facts.applied(event("verified", report="vr_1"), event("verified", session_id="vs_2"))
    _move(OutboxAction, waits, last_error="Stripe answered 403")
    assert command("discard", "--all", "--reason", "test", "--json").json["discarded"]["actions"] == [waits]
    assert claim_action(at_work)
    assert command("discard", "--kind", "email_verified", "--reason", "test").code == 1
    assert command("discard", str(at_work), "--reason", "test").code == 0


def test_what_has_waited_for_a_day_is_a_finding() -> None:
    [waits] = facts.applied(event("verified", report="vr_1"))
    _move(OutboxAction, waits, last_error="Stripe answered 403", created_at=datetime.now(UTC) - timedelta(hours=23))
    assert command("status", "--json").json["actions"]["overdue"] == 0
    assert "more than a day" not in command("doctor").out
    _move(OutboxAction, waits, created_at=datetime.now(UTC) - timedelta(hours=25))
    said = command("status", "--json").json
    assert said["actions"]["overdue"] == 1
    assert [(row["id"], row["last_error"]) for row in said["overdue"]["actions"]] == [(waits, "Stripe answered 403")]
    assert "Stripe answered 403" in command("status").out
    assert "1 actions have waited for more than a day" in " ".join(command("doctor").out.split())


def test_retry_of_everything_has_to_be_said() -> None:
    _dead_event()
    assert command("retry").code == 2
    assert command("retry", "evt_1", "--all").code == 2


def test_discard_ends_a_dead_action_with_a_reason_and_keeps_the_row() -> None:
    action_id = _dead_action()
    assert command("discard", str(action_id)).code == 2
    assert command("discard", str(action_id), "--reason", "told by phone").code == 0
    action = facts.action(action_id)
    assert (action.status, action.reason) == (ActionStatus.SKIPPED, "discarded: told by phone")
    assert command("dead").code == 0


def test_discard_by_id_ends_a_waiting_event_too_but_by_filter_only_dead_ones() -> None:
    receive([event("created", session_id="vs_a")])
    dead = _dead_event()
    assert command("discard", "--all", "--reason", "test", "--json").json["discarded"]["events"] == [dead]
    waiting = event("created", session_id="vs_a").id
    assert command("discard", waiting, "--reason", "test").code == 0
    assert facts.event_row(waiting).outcome == Outcome.IGNORED
    assert process([waiting]) == []


def test_whoever_works_on_a_discarded_event_changes_nothing() -> None:
    said = event("verified")
    receive([said])
    [work] = claim_events([said.id], first_try=True)
    assert list(discard_rows(InboxEvent, Filter(ids=[said.id]), By(who="a test", way=Way.COMMAND, reason="test")))
    assert process_together([work]) == []
    assert facts.event_row(said.id).outcome == Outcome.IGNORED
    assert facts.count_records() == 0


def test_a_bad_call_exits_2_and_a_bad_setting_too() -> None:
    assert command("nonsense").code == 2
    assert command("status", PORT="nonsense").code == 2
    assert command("events", "--since", "whenever").code == 2


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            parser().parse_args([name, "--help"])
        assert COMMANDS[name].summary[:30] in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(("name", "imports"), [("retry", {"change"}), ("status", {"show"})])
def test_a_command_imports_its_own_module_and_no_other(name: str, imports: set[str]) -> None:
    told = (
        "import atexit, sys; from worker.__main__ import main;"
        " atexit.register(lambda: print(*sys.modules)); sys.exit(main())"
    )
    ran = subprocess.run([sys.executable, "-c", told, name], cwd=ROOT, capture_output=True, text=True, check=False)
    commands = {path.stem for path in (ROOT / "worker" / "commands").glob("*.py")} - {"__init__", "options", "printing"}
    loaded = set(ran.stdout.split())
    assert {one for one in commands if f"worker.commands.{one}" in loaded} == imports
    assert name != "status" or not {"stripe", "alembic", "jinja2"} & loaded


def _dead_event(**values: object) -> str:
    said = event("verified", code=None)
    receive([said])
    _move(InboxEvent, said.id, **{"status": "dead", "attempts": 8, "last_error": "OverflowError", **values})
    return said.id


def _dead_action(**values: object) -> int:
    [action_id] = facts.applied(event("verified", session_id="vs_dead"))
    _move(OutboxAction, action_id, **{"status": "dead", "attempts": 9, "last_error": "refused", **values})
    return action_id


def _move(table: type[InboxEvent] | type[OutboxAction], row_id: str | int | None = None, **values: object) -> None:
    statement = update(table).where(col(table.id) == row_id) if row_id else update(table)
    with transaction() as session:
        session.connection().execute(statement.values(**values))


@pytest.mark.parametrize("moment", ["2026-11-20T12:00:00+02:00", "2026-11-20T10:00:00", "2026-11-20T10:00:00Z"])
def test_a_moment_of_any_zone_is_the_same_moment_in_the_tables(moment: str) -> None:
    for minute in (59, 61):
        at = datetime(2026, 11, 20, 9, tzinfo=UTC) + timedelta(minutes=minute)
        receive([event("verified", session_id=f"vs_{minute}")])
        with transaction() as session:
            session.get_one(InboxEvent, event("verified", session_id=f"vs_{minute}").id).received_at = at
    assert [row["session_id"] for row in command("events", "--since", moment, "--json").json] == ["vs_61"]
