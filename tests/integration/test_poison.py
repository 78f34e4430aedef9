"""Poison, such as an event that can never be applied, is refused, dropped or buried with its reason: nothing waits."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlmodel import col, select

from config import broker
from config.database import transaction
from handlers.inbox.receive import receive
from handlers.record.events import Status
from handlers.tables.models import InboxEvent, InboxStatus, Metric
from tests.support import databases, facts, shapes
from tests.support.facts import event, payload
from tests.support.foreign import CANARY, READABLE, UNREADABLE
from tests.support.processes import service
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until
from worker import tasks

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture(autouse=True)
def _no_broker(environment: pytest.MonkeyPatch) -> None:
    """There is no broker, and its outage is forgotten after the test."""
    environment.setattr(broker, "_outage", broker._Outage())


@pytest.fixture
def port(environment: pytest.MonkeyPatch, database_url: str) -> Iterator[int]:
    """The port of a receiver of deliveries signed with our secret."""
    assert database_url
    environment.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)
    databases.forget_process_state()
    with running_receiver() as port:
        yield port


def _deliver(port: int, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/webhooks/stripe", body, {"Stripe-Signature": shapes.signature(body)})
    answer = connection.getresponse()
    status, content = answer.status, json.loads(answer.read())
    connection.close()
    return status, content


def _ids() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(InboxEvent.id).order_by(col(InboxEvent.id))))


SPOILED = {
    "a NUL in the id": ('"evt_poison"', '"evt_\\u0000poison"'),
    "a NUL in a text that is kept": ('"client_reference_id": null', '"client_reference_id": "a\\u0000b"'),
    "a lone surrogate": ('"client_reference_id": null', '"client_reference_id": "\\ud800"'),
    "a time of 10^308": ('"created": 1794830400', '"created": 1e308'),
    "a time of 10^400": ('"created": 1794830400', '"created": 1' + "0" * 400),
    "a time before all": ('"created": 1794830400', '"created": -62135596801'),
    "NaN": ('"created": 1794830400', '"created": NaN'),
    "absurd depth": ('"metadata": {}', '"metadata": ' + '{"a":' * 5000 + "1" + "}" * 5000),
    "a session that is a list": ('"object": "identity.verification_session"', '"object": ["identity"]'),
    "an id that is a number": ('"id": "vs_1"', '"id": 1'),
    "an id that is an object": ('"id": "vs_1"', '"id": {"id": "vs_1"}'),
    "a status that is missing": ('"status": "verified"', '"status": null'),
    "an error that is a text": ('"last_error": null', '"last_error": "none"'),
    "a report that is a number": ('"last_verification_report": null', '"last_verification_report": 7'),
    "a mode that is a text": ('"livemode": false,\n  "pending', '"livemode": "false",\n  "pending'),
    "a text without end": ('"client_reference_id": null', '"client_reference_id": "' + "a" * 100_000 + '"'),
}


@pytest.mark.parametrize(("was", "becomes"), SPOILED.values(), ids=SPOILED.keys())
def test_what_is_malformed_behind_a_right_signature_is_refused_at_the_door(port: int, was: str, becomes: str) -> None:
    text = shapes.as_body(payload("verified", event_id="evt_poison")).decode()
    assert was in text
    status, content = _deliver(port, text.replace(was, becomes).encode())
    assert status == 400, content
    assert "error" in content
    assert _ids() == []
    assert _deliver(port, text.encode())[1]["outcome"] == "accepted"


def test_a_row_the_database_refuses_costs_its_batch_nothing(database_url: str, port: int) -> None:
    databases.refuse(database_url, "inbox_event", "id", "evt_bad")
    bodies = [shapes.as_body(payload("verified", session_id=f"vs_{n}", event_id=f"evt_{n}")) for n in range(3)]
    bad = shapes.as_body(payload("verified", event_id="evt_bad"))
    assert _deliver(port, bad)[0] == 400
    assert [_deliver(port, body)[0] for body in bodies] == [200, 200, 200]
    assert _ids() == ["evt_0", "evt_1", "evt_2"]


def test_what_can_never_be_applied_is_buried_with_its_reason_while_everything_else_is_done(
    database_url: str, environment: pytest.MonkeyPatch
) -> None:
    """The worker's own task takes the poison in the middle of a batch, then alone until its attempts are used up."""
    environment.setenv("EVENT_ATTEMPTS", "3")
    environment.setattr(tasks, "hand_on", lambda _: None)
    databases.forget_process_state()
    databases.refuse(database_url, "verification_record", "session_id", "vs_bad")
    said = [event("verified", session_id=f"vs_{n}", report="vr") for n in range(20)]
    bad = event("verified", session_id="vs_bad", event_id="evt_vs_1_a_bad_one")
    receive([*said, bad])
    for attempt in range(1, 4):
        tasks.process_events([*(one.id for one in said), bad.id])
        assert {facts.record(f"vs_{n}").status for n in range(20)} == {Status.VERIFIED}
        assert facts.event_row(bad.id).attempts == attempt
        facts.end_all_leases()
    row = facts.event_row(bad.id)
    assert (row.status, row.last_error, row.attempts) == (InboxStatus.DEAD, "IntegrityError", 3)
    later = event("created", session_id="vs_later")
    receive([later])
    tasks.process_events([later.id, bad.id])
    assert facts.record("vs_later").status == Status.REQUIRES_INPUT
    assert facts.event_row(bad.id).attempts == 3


@pytest.mark.processes
def test_messages_that_none_of_ours_wrote_end_no_worker_and_are_gone(tmp_path: Path, database_url: str) -> None:
    """kombu's own loop takes each kind in each queue, and after them an event that is applied as ever."""
    foreign = [*UNREADABLE.values(), *READABLE.values()]
    with (
        service(tmp_path / "service", database_url) as ours,
        redis.Redis(unix_socket_path=str(ours.folder / "redis" / "redis.sock")) as client,
    ):
        ours.start("web", "worker")
        for queue in ("clock", "events", "outbox"):
            client.lpush(f"identity:{queue}", *foreign)
        assert ours.deliver(payload("verified", report="vr_1")) == "accepted"
        wait_until(ours.mails, ours.logs)
        wait_until(lambda: not client.exists("identity:clock", "identity:events", "identity:outbox"), ours.logs)
        said = ours.log("worker")
        ours.stop()
    assert said.count("ready.") == 1
    assert "message.dropped" in said
    for word in (CANARY, "Traceback", '"level": "critical"', '"level": "error"'):
        assert word not in said, said
    with transaction() as session:
        dropped = session.scalars(select(Metric.value).where(Metric.name == "identity_dropped_messages_total")).all()
    assert sum(dropped) == len(UNREADABLE) * 3
