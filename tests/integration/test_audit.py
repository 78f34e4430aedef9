"""Each change is written down with its author: who, by which way, what, about what, and why."""

import getpass
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.receive import receive
from handlers.operator import retry_discard
from handlers.operator.audit import By, Way, audited
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows
from handlers.outbox.perform import perform
from handlers.sessions.closing import cancel_verification, redact_verification
from handlers.tables.models import ActionStatus, Audited, InboxEvent, OutboxAction
from handlers.upkeep.purge import purge
from tests.integration.openings import open_wanted
from tests.support import facts
from tests.support.facts import event
from tests.support.operator import command
from worker.__main__ import COMMANDS, parser

pytestmark = pytest.mark.usefixtures("database_url")
ANNA = By(who="anna", way=Way.CONSOLE, reason="told by phone")


def _rows(**wanted: Any) -> list[tuple[str, str, str, str | None]]:
    return [(row.way, row.what, row.about, row.reason) for row in audited(**wanted)]


def _dead(session_id: str = "vs_1") -> int:
    [action_id] = facts.applied(event("verified", session_id=session_id))
    with transaction() as session:
        session.get_one(OutboxAction, action_id).status = ActionStatus.DEAD
    return action_id


def test_a_command_writes_down_who_and_why() -> None:
    assert command("audit").code == 1
    action_id = _dead()
    assert command("discard", str(action_id), "--reason", "told by phone").code == 0
    assert _rows() == [("command", "discard", f"vs_1 {action_id}", "told by phone")]
    said = command("audit", "vs_1", "--json")
    assert said.code == 0
    assert said.json[0]["who"].startswith(f"{getpass.getuser()}@{socket.gethostname()}")
    assert "told by phone" in command("audit", str(action_id), "--what", "discard", "--since", "1h").out


def test_a_name_that_somebody_gives_stands_beside_what_the_machine_knows() -> None:
    command("retry", str(_dead()), "--by", "Anna B.", DYNO="run.1234")
    [row] = audited()
    assert row.who == f"Anna B. ({getpass.getuser()}@run.1234)"


@pytest.mark.parametrize("nothing", [("audit", "vs_"), ("audit", "v%"), ("audit", "--what", "purge")])
def test_an_id_is_found_as_a_whole(nothing: tuple[str, ...]) -> None:
    command("retry", str(_dead()))
    assert command(*nothing).code == 1


def test_what_is_not_changed_is_not_written_down() -> None:
    receive([event("created")])
    assert command("retry", "--all").code == 1
    assert command("discard", "evt_unknown", "--reason", "test").code == 1
    assert _rows() == []


def test_the_change_and_its_line_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    action_id = _dead()

    def fail(*_: object) -> None:
        raise RuntimeError("the audit cannot be written")

    monkeypatch.setattr(retry_discard, "note", fail)
    with pytest.raises(RuntimeError):
        list(discard_rows(OutboxAction, Filter(ids=[action_id]), ANNA))
    assert facts.action(action_id).status == ActionStatus.DEAD


def test_many_rows_are_changed_in_batches_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_discard, "_BATCH", 2)
    ids = [_dead(f"vs_{number}") for number in range(5)]
    batches = []
    for batch in retry_discard.retry_rows(OutboxAction, Filter(status="dead"), ANNA):
        batches.append(batch)
        with transaction() as session:  # it fails again at once
            failed = update(OutboxAction).where(col(OutboxAction.id).in_(batch))
            session.connection().execute(failed.values(status=ActionStatus.DEAD))
    assert batches == [ids[:2], ids[2:4], ids[4:]]
    assert [len(row.about.split()) for row in audited()] == [2, 4, 4]


@pytest.mark.usefixtures("stripe")
def test_a_verification_that_is_ended_or_forgotten_says_by_whom() -> None:
    one, other = open_wanted(), open_wanted(client_reference_id="user-2")
    cancel_verification(one.verification_id, notify=False, by=ANNA)
    redact_verification(other.verification_id, ANNA)
    assert _rows() == [
        ("console", "redact", other.verification_id, "told by phone"),
        ("console", "cancel", f"{one.verification_id} {one.answer.id}", "told by phone"),
    ]


@pytest.mark.usefixtures("stripe")
def test_what_an_operator_opens_is_written_down_with_its_session() -> None:
    shown = command("open", "user-1", "--type", "document", "--json").json
    assert _rows() == [("command", "open", f"{shown['id']} {shown['session_id']}", None)]


def test_what_takes_many_transactions_is_written_down_before_the_first() -> None:
    command("purge")
    command("reconcile", "--reason", "an outage")
    command("rebuild", "--since", "1d")
    command("restored", "--since", "1d")
    rows = [("restored", None), ("rebuild", None), ("reconcile", "an outage"), ("purge", None)]
    assert [(what, reason) for _, what, _, reason in _rows()] == rows


def test_every_command_that_changes_something_says_who() -> None:
    looking = {"status", "session", "verification", "events", "event", "dead", "audit", "doctor", "mails"}
    looking |= {"run", "migrate", "replay", "pages", "sessions", "actions", "console-user"}
    assert {name for name, one in COMMANDS.items() if not one.changes} <= looking


def test_every_command_that_changes_something_takes_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (name for name, one in COMMANDS.items() if one.changes):
        with pytest.raises(SystemExit):
            parser([name]).parse_args([name, "--help"])
        assert {"--reason", "--by"} <= set(capsys.readouterr().out.replace("[", " ").split()), name


@pytest.mark.usefixtures("stripe")
def test_whoever_is_forgotten_by_a_command_is_forgotten_for_a_reason() -> None:
    opened = open_wanted()
    assert command("redact", opened.verification_id, "--reason", "she asked for it").code == 0
    assert ("command", "redact", "she asked for it") in [(way, what, reason) for way, what, _, reason in _rows()]


def test_it_is_kept_as_long_as_audit_days_say() -> None:
    command("retry", str(_dead()))
    for days, left in ((364, 1), (366, 0)):
        with transaction() as session:
            session.connection().execute(update(Audited).values(at=datetime.now(UTC) - timedelta(days=days)))
        purge()
        assert len(audited()) == left


def test_what_a_setting_has_skipped_is_brought_back() -> None:
    skipped, other, superseded = facts.applied(
        event("verified"), event("verified", session_id="vs_2"), event("requires_input", session_id="vs_3", code="x")
    )
    for action_id in (skipped, other, superseded):
        perform(action_id)
    assert {facts.action(one).reason for one in (skipped, other, superseded)} == {"no STRIPE_API_KEY"}
    facts.applied(event("verified", facts.NOON + 9, session_id="vs_3", report="vr_1"))
    assert command("retry", "--all").code == 1
    assert command("retry", str(skipped)).code == 0
    assert command("retry", "--skipped", "--error", "KEY", "--json").json == {
        "retried": {"actions": [other, superseded]}
    }
    assert facts.action(other).status == ActionStatus.PENDING
    perform(superseded)
    assert facts.action(superseded).reason == "superseded"


def test_what_is_skipped_for_another_reason_is_not_brought_back() -> None:
    action_id = _dead()
    command("discard", str(action_id), "--reason", "test")
    assert command("retry", str(action_id)).code == 1
    assert command("retry", "--skipped").code == 1


def test_an_event_is_about_its_session_too() -> None:
    receive([event("created")])
    [row] = facts.event_rows()
    with transaction() as session:
        session.get_one(InboxEvent, row.id).status = "dead"  # type: ignore[assignment]  # as the database has it
    command("retry", row.id)
    assert _rows(about="vs_1") == [("command", "retry", f"vs_1 {row.id}", None)]
