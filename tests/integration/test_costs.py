"""The costs of an event that can be counted without a clock: statements, round trips, commits, messages."""

import asyncio
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock, patch

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from config import broker
from config.database import BY_ITSELF, database_now, engine, transaction
from config.settings import settings
from handlers.inbox.process import process, process_session
from handlers.inbox.receive import receive
from handlers.outbox import perform as performing
from handlers.outbox.perform import perform
from handlers.queue.claims import due
from handlers.record.events import VerificationEvent
from handlers.sessions import asking, entering, links, looking, opening, timeline, views
from handlers.sessions.reminders import remind
from handlers.sessions.seen import seen
from handlers.tables.models import InboxEvent, OutboxAction
from handlers.upkeep.accounts import heard_of
from handlers.upkeep.allowance import Report
from handlers.upkeep.drift import compare_open
from handlers.upkeep.left_behind import take_up
from handlers.upkeep.limits import judge_limits
from receiver.webhooks.intake import Intake
from receiver.webhooks.storage import _OnTheLoop
from tests.bench import store
from tests.integration.openings import wanted
from tests.support import databases, facts
from worker.commands import show

SIZES = (2, 50)  # sessions in a batch, each with three events

pytestmark = pytest.mark.usefixtures("database_url")


@dataclass
class Costs:
    """The statements and transactions that the database was sent."""

    statements: list[str] = field(default_factory=list)
    transactions: int = 0

    @property
    def round_trips(self) -> int:
        """The statements, and two more for each BEGIN and COMMIT; a statement by itself needs none."""
        return len(self.statements) + 2 * self.transactions


@contextmanager
def counted() -> Iterator[Costs]:
    costs = Costs()

    def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
        costs.statements.append(" ".join(statement.split())[:60])

    def begun(connection: Connection) -> None:
        costs.transactions += not connection.get_execution_options().get(BY_ITSELF)

    async def asked(storage: _OnTheLoop, statement: str, parameter: str) -> frozenset[str]:
        executed(None, None, statement)  # a transaction by itself
        return await by_itself(storage, statement, parameter)

    def past_sqlalchemy(connection: psycopg.Connection[Any], statement: str, *arguments: Any) -> Any:
        executed(None, None, statement)
        return by_the_driver(connection, statement, *arguments)

    by_itself, by_the_driver = _OnTheLoop._ask, psycopg.Connection.execute
    event.listen(engine(), "before_cursor_execute", executed)
    event.listen(engine(), "begin", begun)
    try:
        with patch.object(_OnTheLoop, "_ask", asked), patch.object(psycopg.Connection, "execute", past_sqlalchemy):
            yield costs
    finally:
        event.remove(engine(), "before_cursor_execute", executed)
        event.remove(engine(), "begin", begun)
    costs.statements = [statement for statement in costs.statements if not statement.startswith("BEGIN")]


def is_postgres() -> bool:
    return engine().dialect.name == "postgresql"


def stories(sessions: int, name: str = "vs") -> list[VerificationEvent]:
    """Three events of each session, one of which owes an action; their rows leave different columns empty."""
    return [
        facts.event(kind, facts.NOON + second, session_id=f"{name}_{number}", **more)
        for number in range(sessions)
        for second, (kind, more) in enumerate(
            (("created", {}), ("processing", {"user": "u"}), ("verified", {"report": f"vr_{name}_{number}"}))
        )
    ]


def received(sessions: int, name: str = "vs") -> list[str]:
    events = stories(sessions, name)
    receive(events)
    return [one.id for one in events]


@pytest.mark.parametrize("sessions", SIZES)
def test_a_batch_of_any_size_is_stored_with_one_statement_and_one_commit(sessions: int) -> None:
    engine().connect().close()
    with counted() as costs:
        assert len(receive(stories(sessions)).accepted) == 3 * sessions
    assert len(costs.statements) == 1, costs.statements
    assert costs.round_trips == (1 if is_postgres() else 3)


def test_a_duplicate_costs_one_more_statement() -> None:
    receive(stories(1))
    with counted() as costs:
        receive(stories(1))
    assert len(costs.statements) == 2, costs.statements


def test_everything_that_waits_is_one_commit() -> None:
    async def deliver(events: list[VerificationEvent]) -> None:
        intake = Intake()
        await asyncio.gather(*(intake.accept(one) for one in events))
        await intake.close()

    received(1, "warm")  # opens the connection
    with counted() as costs:
        asyncio.run(deliver(stories(50)))
    assert len(costs.statements) == 1, costs.statements
    assert costs.transactions == (0 if is_postgres() else 1)


def test_a_batch_travels_in_messages_of_fifty(environment: pytest.MonkeyPatch) -> None:
    sent: list[list[str]] = []
    environment.setattr(broker, "_send", lambda _, __, ___, arguments: sent.extend(arguments))
    environment.setattr(broker, "_reached", lambda use: use(Mock()) or True)
    environment.setattr(broker, "_length", lambda _, __: 0)
    broker.publish_events([f"evt_{number}" for number in range(120)])
    assert [len(batch) for batch in sent] == [50, 50, 20]


@pytest.mark.parametrize("sessions", SIZES)
def test_a_batch_of_any_size_is_applied_with_seven_statements_in_one_transaction(sessions: int) -> None:
    event_ids = received(sessions)
    with counted() as costs:
        assert len(process(event_ids)) == sessions
    # claim · records made · records locked · submissions · actions · events finished · records written
    assert len(costs.statements) == 7, costs.statements
    assert costs.transactions == (1 if is_postgres() else 2)


def test_an_event_alone_takes_no_more() -> None:
    *_, verified = received(1)
    with counted() as costs:
        process([verified])
    assert len(costs.statements) == 7, costs.statements
    assert costs.round_trips == (9 if is_postgres() else 11)


def test_a_record_that_is_there_is_not_made_anew() -> None:
    created, processing, _ = received(1)
    process([created])
    with counted() as costs:
        process([processing])
    # claim · record locked · event finished · record written
    assert len(costs.statements) == 4, costs.statements


def test_a_message_that_only_repeats_one_costs_two_statements() -> None:
    event_ids = received(20)
    process(event_ids)
    with counted() as costs:
        assert process(event_ids) == []
    assert len(costs.statements) == 2, costs.statements


def test_an_action_is_claimed_and_ended_with_three_statements() -> None:
    action_ids = process(received(1))
    with counted() as costs:
        for action_id in action_ids:
            perform(action_id)
    # claim · its record · the end
    assert len(costs.statements) == 3, costs.statements
    assert costs.round_trips == (3 if is_postgres() else 9)


def test_a_mail_that_is_told_costs_three_statements_too(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()
    action_ids = process(received(1))
    with counted() as costs:
        for action_id in action_ids:
            perform(action_id)
    # claim · its record · the told cause and the end, in two statements on SQLite
    assert len(costs.statements) == (3 if is_postgres() else 4), costs.statements
    assert costs.transactions == (0 if is_postgres() else 3)


def test_of_ten_mails_together_only_the_ends_are_each_one_statement(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()
    environment.setattr(performing, "_GOOD_FOR_SECONDS", 3600.0)  # even on a slow machine
    environment.setattr(performing, "_TOGETHER_SECONDS", 3600.0)
    action_ids = process(received(10))
    with counted() as costs:
        perform(*action_ids)
    assert len(costs.statements) == (12 if is_postgres() else 22), costs.statements


def test_a_quiet_sweep_reads_twice_and_writes_nothing() -> None:
    received(1)
    with counted() as costs:
        due(InboxEvent, 1000)
        due(OutboxAction, 1000)
    assert [statement.split()[0] for statement in costs.statements] == ["SELECT", "SELECT"]
    assert costs.round_trips == (2 if is_postgres() else 6)


@pytest.mark.parametrize("json", [True, False])
def test_status_asks_each_question_once(json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    facts.all_alive()
    with counted() as costs:
        show.status(Namespace(json=json))
    # PostgreSQL is asked for its connections, keys, triggers and standby, too, and is given two settings of its planner
    assert len(costs.statements) == (23 if is_postgres() else 15), costs.statements
    assert "queue_messages" in capsys.readouterr().out


@pytest.mark.usefixtures("stripe")
def test_each_question_of_who_waits_on_a_page_costs_one_statement() -> None:
    opened = opening.open_verification(wanted())
    assert opened
    with counted() as costs:
        for subject in (opened.verification_id, opened.answer.id):
            assert seen(subject).word == "todo"
    assert len(costs.statements) == 2, costs.statements
    assert costs.round_trips == (2 if is_postgres() else 6)


@pytest.mark.usefixtures("stripe")
def test_going_in_costs_three_statements_around_stripes_answer() -> None:
    opened = opening.open_verification(wanted())
    assert opened
    with counted() as costs:
        assert entering.enter_by_link(opened.verification_id, entering.WayIn(integration="redirect")).fields["url"]
    # the verification, the person's verified sessions · the count of their submissions
    assert len(costs.statements) == 3, costs.statements
    assert costs.round_trips == (3 if is_postgres() else 9)


@pytest.mark.usefixtures("stripe")
def test_nobody_is_looked_for_by_a_scan_of_all_verifications(environment: pytest.MonkeyPatch) -> None:
    if not is_postgres():
        pytest.skip("how PostgreSQL plans it")
    environment.setenv("LINK_KEYS", "n" * 32)
    databases.forget_process_state()
    opened = opening.open_verification(wanted())
    assert opened
    plans: dict[str, str] = {}

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE"):
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("EXPLAIN " + statement, parameters)
            plans[statement] = "\n".join(row[0] for row in cursor.fetchall())

    def past_sqlalchemy(connection: psycopg.Connection[Any], statement: str, parameters: Any = None) -> Any:
        explain(None, connection.cursor(), statement, parameters)
        return connection.cursor().execute(statement, parameters)

    engine().connect().close()
    environment.setattr(psycopg.Connection, "execute", past_sqlalchemy)
    event.listen(engine(), "before_cursor_execute", explain)
    for subject in (opened.verification_id, opened.answer.id):
        seen(subject)
        views.view(subject)
        timeline.view_in_time(subject)
        entering.enter_by_link(subject, entering.WayIn(integration="redirect"))
        looking.look(subject)
        asking.ask_for_link(subject)
        links.link_of(subject)
    event.remove(engine(), "before_cursor_execute", explain)
    assert len(plans) > 10, plans
    assert {statement for statement, plan in plans.items() if "Seq Scan on verification" in plan} == set()


def test_what_is_found_by_its_id_or_its_session_is_not_looked_for_among_all_that_waits(
    database_url: str, environment: pytest.MonkeyPatch
) -> None:
    if not is_postgres():
        pytest.skip("how PostgreSQL plans it")
    store.fill(database_url, 20_000, 6_000)
    store.add_waiting(database_url, 1_000)  # PostgreSQL has not analysed them yet
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()
    plans: dict[str, str] = {}

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "WITH"):
            cursor.execute("EXPLAIN " + statement, parameters)
            plans[statement] = "\n".join(row[0] for row in cursor.fetchall())

    def past_sqlalchemy(connection: psycopg.Connection[Any], statement: str, parameters: Any = None) -> Any:
        explain(None, connection.cursor(), statement, parameters)
        return connection.cursor().execute(statement, parameters)

    engine().connect().close()
    environment.setattr(psycopg.Connection, "execute", past_sqlalchemy)
    event.listen(engine(), "before_cursor_execute", explain)
    try:
        event_ids = received(2)
        receive(stories(2))  # all duplicates
        process_session("vs_0")
        for action_id in process(event_ids):
            perform(action_id)
        process(event_ids)
    finally:
        event.remove(engine(), "before_cursor_execute", explain)
    assert len(plans) > 10, plans
    assert any("told_count = told_count + 1" in asked for asked in plans), "no mail ended"
    waiting = ("_due ", "_waiting ")
    assert [asked for asked, plan in plans.items() if any(index in plan for index in waiting)] == []


# Lets each session be one that was opened here.
_OPENED_HERE = (
    """
INSERT INTO verification (id, purpose, account, livemode, generation, client_reference_id, session_id, created_at,
  updated_at) SELECT 'idv_' || session_id, '', '', livemode, 1, session_id, session_id, created_at, created_at
FROM verification_record""",
    "UPDATE verification_record SET verification_id = 'idv_' || session_id, generation = 1",
)


def test_a_run_of_reconcile_and_of_reminders_finds_its_records_by_an_index(
    database_url: str, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_postgres():
        pytest.skip("how PostgreSQL plans it")
    environment.setenv("STRIPE_API_KEY", "sk_test_1")
    settings.cache_clear()
    store.fill(database_url, 20_000, 6_000)
    with transaction() as session:
        for statement in _OPENED_HERE:
            session.connection().execute(text(statement))
    store.settle(database_url)
    monkeypatch.setattr("handlers.upkeep.progress._PAGE", 1000)
    judge_limits()
    heard_of()  # the first call reads all records for both
    plans: dict[str, str] = {}

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith(("SELECT", "WITH")) and "FROM verification" in statement:
            cursor.execute("EXPLAIN " + statement, parameters)
            plans[statement] = "\n".join(row[0] for row in cursor.fetchall())

    event.listen(engine(), "before_cursor_execute", explain)
    try:
        judge_limits()
        accounts = heard_of()
        next(compare_open(Report(), accounts, bounded=True)[None], None)
        compare_open(Report(), {"acct_1": database_now()}, bounded=True)
        take_up()
        remind()
    finally:
        event.remove(engine(), "before_cursor_execute", explain)
    assert len(plans) > 8, plans
    assert [asked for asked, plan in plans.items() if "Seq Scan on verification" in plan] == []
    costs = [float(re.findall(r"\.\.([\d.]+) rows", plan)[0]) for plan in plans.values()]
    assert max(costs) < 25_000  # with each record's others read, the limit's cost is above 50,000
