"""The local Stripe with the official CLI as its client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.e2e.cli import PREFIX, TYPES, Cli
from tests.simulator.catcher import Catcher
from tests.simulator.client import Simulator

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _reset(simulator: Simulator) -> None:
    simulator.reset()


@pytest.fixture
def catcher() -> Iterator[Catcher]:
    with Catcher() as catcher:
        yield catcher


def _types(catcher: Catcher) -> list[str]:
    return [event["type"].removeprefix(PREFIX) for event in catcher.events()]


def test_listen_forwards_all_six_types_signed(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    secret = cli.listen("--forward-to", catcher.url, "--events", ",".join(TYPES))
    session_id = simulator.create()
    simulator.fail(session_id, "document_expired")
    simulator.passed(session_id)
    simulator.redact(session_id)
    simulator.cancel(simulator.create())
    assert simulator.wait_settled()["failed"] == 0
    assert set(_types(catcher)) == {name.removeprefix(PREFIX) for name in TYPES}
    for caught in catcher.caught:
        stripe.Webhook.construct_event(caught.body, caught.signature, secret)
    assert all(event["pending"] == [] for event in simulator.events())


def test_listen_forwards_the_latest_version_too(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    cli.listen("--latest", "--forward-to", catcher.url, "--events", ",".join(TYPES))
    simulator.create()
    simulator.wait_settled()
    assert _types(catcher) == ["created"]


def test_listen_forwards_thin_events(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    secret = cli.listen("--forward-thin-to", catcher.url, "--thin-events", "*")
    session_id = simulator.create()
    [caught] = catcher.wait_for(1)
    client = stripe.StripeClient(simulator.api_key, base_addresses={"api": simulator.base})
    notification: Any = client.parse_event_notification(caught.body, caught.signature, secret)
    assert (notification.type, notification.fetch_related_object().id) == (f"v1.{TYPES[0]}", session_id)


def test_listen_hears_events_of_connected_accounts(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    arguments = ("--forward-to", catcher.url, "--forward-connect-to", catcher.url + "/connect")
    cli.listen(*arguments, "--events", ",".join(TYPES))
    simulator.create(account="acct_1Connected")
    simulator.wait_settled()
    assert [event.get("account") for event in catcher.events()] == ["acct_1Connected"]


def test_the_secret_printed_is_the_one_that_signs(cli: Cli) -> None:
    printed = cli.run("listen", "--print-secret").strip()
    assert printed == cli.listen("--events", TYPES[0])


def test_a_refused_event_stays_pending(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    catcher.answer = lambda _caught: 400
    cli.listen("--forward-to", catcher.url, "--events", ",".join(TYPES))
    simulator.create()
    assert simulator.wait_settled()["failed"] == 1
    [event] = simulator.events()
    assert len(event["pending"]) == 1


@pytest.mark.parametrize(
    ("trigger", "arriving"),
    [
        ("created", {"created"}),
        ("canceled", {"created", "canceled"}),
        ("redacted", {"created", "canceled", "redacted"}),
    ],
)
def test_trigger_makes_its_event(
    simulator: Simulator, cli: Cli, catcher: Catcher, trigger: str, arriving: set[str]
) -> None:
    cli.listen("--forward-to", catcher.url, "--events", ",".join(TYPES))
    assert "Trigger succeeded" in cli.run("trigger", PREFIX + trigger)
    simulator.wait_settled()
    assert set(_types(catcher)) == arriving


def test_trigger_can_add_a_reference(simulator: Simulator, cli: Cli) -> None:
    additions = ("verification_session:client_reference_id=u1", "verification_session:metadata[user_id]=42")
    cli.run("trigger", PREFIX + "canceled", "--add", additions[0], "--add", additions[1])
    [session] = simulator.truth()["sessions"]
    assert (session["client_reference_id"], session["metadata"], session["status"]) == (
        "u1",
        {"user_id": "42"},
        "canceled",
    )


def test_resend_reaches_listeners_or_the_endpoint_named(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    with Catcher() as endpoint:
        simulator.endpoint(endpoint.url)
        cli.listen("--forward-to", catcher.url, "--events", ",".join(TYPES))
        simulator.create()
        simulator.wait_settled()
        event_id = simulator.events()[0]["id"]
        cli.run("events", "resend", event_id)
        catcher.wait_for(2)
        assert len(endpoint.caught) == 1
        cli.run("events", "resend", event_id, "--webhook-endpoint", simulator.endpoint_ids[endpoint.url])
        endpoint.wait_for(2)
        assert len(catcher.caught) == 2
        assert {event["id"] for event in catcher.events() + endpoint.events()} == {event_id}


def test_sessions_are_made_and_changed_by_the_cli(cli: Cli) -> None:
    resource = ("identity", "verification_sessions")
    made = json.loads(cli.run(*resource, "create", "--type", "document", "-d", "metadata[user_id]=42"))
    assert (made["status"], made["metadata"]) == ("requires_input", {"user_id": "42"})
    assert [found["id"] for found in json.loads(cli.run(*resource, "list"))["data"]] == [made["id"]]
    assert json.loads(cli.run(*resource, "retrieve", made["id"]))["id"] == made["id"]
    updated = json.loads(cli.run(*resource, "update", made["id"], "-d", "provided_details[email]=a@example.com"))
    assert updated["status"] == "requires_input"
    path = f"/v1/identity/verification_sessions/{made['id']}"
    fetched = json.loads(cli.run("get", path, "-d", "expand[]=provided_details"))
    assert fetched["provided_details"]["email"] == "a@example.com"
    assert json.loads(cli.run(*resource, "cancel", made["id"]))["status"] == "canceled"
    assert json.loads(cli.run("post", path + "/redact", "--confirm"))["redaction"] == {"status": "processing"}
    events = json.loads(cli.run("events", "list", "--type", PREFIX + "canceled"))["data"]
    assert [event["data"]["object"]["id"] for event in events] == [made["id"]]
    missing = json.loads(cli.run("get", "/v1/identity/verification_sessions/vs_gone"))
    assert missing["error"]["code"] == "resource_missing"


def test_hundreds_of_sessions_pass_through_the_cli(simulator: Simulator, cli: Cli, catcher: Catcher) -> None:
    cli.listen("--forward-to", catcher.url, "--events", ",".join(TYPES))
    simulator.run(200)
    catcher.wait_for(600, timeout=60)
    assert {event["id"] for event in catcher.events()} == {event["id"] for event in simulator.events()}
