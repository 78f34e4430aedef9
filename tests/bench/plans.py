"""The query plan of every statement on the way of an event: run as a process of its own on a full database."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import event

from config.database import engine
from config.logs import configure_logging
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.queue.claims import due
from handlers.record.events import VerificationEvent, parse
from handlers.tables.models import InboxEvent, OutboxAction
from tests.bench import load
from tests.bench.servers import House


def explain(house: House, database: str) -> dict[str, str]:
    """The plan of each statement, from a batch of fifty events and their actions."""
    command = [sys.executable, "-m", "tests.bench.plans"]
    output = subprocess.run(command, env=house.variables(database), capture_output=True, check=True).stdout
    plans: dict[str, str] = json.loads(output)
    return plans


def scanned(plan: str) -> set[str]:
    """The tables that a plan reads whole, without the pauses, which are a handful of rows."""
    return set(re.findall(r"Seq Scan on (\w+)", plan)) - {"identity_paused"}


def main() -> None:
    """Prints the plans as JSON; each is made with the values of the real statement, just before it runs."""
    configure_logging()  # to standard error
    plans: dict[str, str] = {}

    @event.listens_for(engine(), "before_cursor_execute")
    def _(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        verb, *rest = statement.split()
        if verb in ("SELECT", "INSERT", "UPDATE", "WITH") and rest[0] != "pg_catalog.version()":
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.setdefault(_name(statement), "\n".join(row[0] for row in cursor.fetchall()))

    events = [
        parse(orjson.loads(request.partition(b"\r\n\r\n")[2]))
        for _, request in load.deliveries(f"P{datetime.now(UTC):%H%M%S}", 50)
    ]
    ours = [one for one in events if isinstance(one, VerificationEvent)]
    receive(ours)
    receive(ours)  # all duplicates
    due(InboxEvent, 1000)
    for action_id in process([one.id for one in ours]):
        perform(action_id)
    due(OutboxAction, 1000)
    json.dump(plans, sys.stdout)


def _name(statement: str) -> str:
    return " ".join(statement.split())[:100]


if __name__ == "__main__":
    main()
