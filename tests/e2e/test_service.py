"""The service's processes behind the official CLI: people's steps at Stripe become their record and their mail."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.cli import PREFIX, TYPES, Cli
from tests.simulator.client import Simulator
from tests.support.service import Service

pytestmark = pytest.mark.e2e

SETTLES = 50.0  # seconds; the control API's own patience is a little longer
ENDPOINT_SECRET = "whsec_of_the_endpoint_0000"
NEXT_SECRET = "whsec_after_it_was_rolled_0"
UNKNOWN_SECRET = "whsec_nobody_has_told_us_00"


@pytest.fixture(scope="module")
def service(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests: each has sessions of its own."""
    folder = tmp_path_factory.mktemp("service")
    secrets = (Cli(simulator, folder).secret(), ENDPOINT_SECRET, NEXT_SECRET)
    with Service(
        folder,
        STRIPE_API_BASE=simulator.base,
        STRIPE_API_KEY=simulator.api_key,
        STRIPE_WEBHOOK_SECRET=",".join(secrets),
    ) as service:
        yield service.wait_ready()


@pytest.fixture
def forwarding(cli: Cli, service: Service) -> Cli:
    """`stripe listen`, forwarding to the service."""
    cli.listen("--forward-to", service.url, "--events", ",".join(TYPES))
    return cli


@pytest.mark.usefixtures("forwarding")
def test_all_six_types_become_records_and_mails(simulator: Simulator, service: Service) -> None:
    ada = simulator.create(email="ada@example.com", client_reference_id="order-1", metadata={"user_id": "42"})
    settle(simulator, service)
    fresh = service.record(ada)
    assert fresh is not None
    assert (fresh["status"], fresh["client_reference_id"], fresh["user_id"]) == ("requires_input", "order-1", "42")
    simulator.fail(ada, "document_expired")
    settle(simulator, service)
    [prompt] = service.mails("ada@example.com")
    assert "expired" in prompt.text
    simulator.passed(ada)
    settle(simulator, service)
    assert [mail.subject for mail in service.mails("ada@example.com")][1:] == ["Your identity is verified"]
    simulator.redact(ada)
    bob = simulator.create(email="bob@example.com")
    simulator.cancel(bob)
    settle(simulator, service)
    record = service.record(ada)
    assert record is not None
    assert (record["status"], record["submissions"]) == ("verified", 2)
    assert record["redacted_at"]
    assert (record["client_reference_id"], record["user_id"]) == (None, None)
    assert service.actions(bob) == ["email_canceled done"]
    assert [mail.subject for mail in service.mails("bob@example.com")] == ["Your identity verification has ended"]
    stored = service.rows("SELECT type, outcome FROM inbox_event WHERE session_id IN (?, ?)", ada, bob)
    assert {row["type"] for row in stored} == set(TYPES)


@pytest.mark.usefixtures("forwarding")
def test_two_hundred_sessions_of_three_quick_events_end_as_they_did_at_stripe(
    simulator: Simulator, service: Service
) -> None:
    """The CLI forwards all its events at once, so that many overtake another one of their session."""
    before = {row["id"] for row in service.rows("SELECT id FROM inbox_event")}
    passing, failing = (
        simulator.run(100, steps=["submit", last], session={"provided_details": {"email": f"{kind}-{{n}}@example.com"}})
        for kind, last in (("passes", "pass"), ("fails", "fail:selfie_face_mismatch"))
    )
    settle(simulator, service)
    arrived = [row for row in service.rows("SELECT * FROM inbox_event") if row["id"] not in before]
    assert (len(arrived), {row["status"] for row in arrived}) == (600, {"processed"})
    for session_id in passing + failing:
        assert seen(service, session_id) == true(simulator, session_id)
    mails = [mail for mail in service.mails() if mail.to.startswith(("passes-", "fails-"))]
    assert sorted((mail.to, mail.subject) for mail in mails) == sorted(
        (f"{kind}-{number}@example.com", subject)
        for kind, subject in (("passes", "Your identity is verified"), ("fails", "Please verify your identity again"))
        for number in range(100)
    )


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"forged": True}, "the signature does not match"),
        ({"signed_at": -301}, "the signature's timestamp is too far from now"),
        ({"signed_at": 320}, "the signature's timestamp is too far from now"),
    ],
)
def test_a_forged_or_expired_signature_is_refused(
    simulator: Simulator, service: Service, policy: dict[str, Any], reason: str
) -> None:
    with endpoint(simulator, service, **policy):
        session_id = simulator.create()
        assert answers(simulator, session_id) == [f"400 {reason}"]
    assert service.rows("SELECT id FROM inbox_event WHERE session_id = ?", session_id) == []


def test_while_a_secret_is_rolled_one_known_signature_is_enough(simulator: Simulator, service: Service) -> None:
    with endpoint(simulator, service, secret=UNKNOWN_SECRET):
        roll(simulator, service, NEXT_SECRET, overlap=600)
        assert answers(simulator, simulator.create()) == ["accepted"]


def test_after_a_roll_the_new_secret_works_if_it_was_set_beforehand(simulator: Simulator, service: Service) -> None:
    with endpoint(simulator, service):
        roll(simulator, service, NEXT_SECRET, overlap=0)
        assert answers(simulator, simulator.create()) == ["accepted"]
        roll(simulator, service, UNKNOWN_SECRET, overlap=0)
        assert answers(simulator, simulator.create()) == ["400 the signature does not match"]


@pytest.mark.parametrize("name", ["created", "canceled", "redacted"])
def test_trigger_makes_a_record_with_what_was_added(
    simulator: Simulator, forwarding: Cli, service: Service, name: str
) -> None:
    forwarding.run(
        "trigger",
        PREFIX + name,
        *("--add", "verification_session:client_reference_id=u1"),
        *("--add", "verification_session:metadata[user_id]=42"),
        *("--add", f"verification_session:provided_details[email]={name}@example.com"),
    )
    session_id = simulator.last()
    settle(simulator, service)
    record = service.record(session_id)
    assert record is not None
    assert record["status"] == ("requires_input" if name == "created" else "canceled")
    assert bool(record["redacted_at"]) == (name == "redacted")
    if name != "redacted":
        assert (record["client_reference_id"], record["user_id"]) == ("u1", "42")
    if name == "canceled":
        assert [mail.subject for mail in service.mails("canceled@example.com")] == [
            "Your identity verification has ended"
        ]


def test_an_event_resent_by_the_cli_is_a_duplicate(simulator: Simulator, forwarding: Cli, service: Service) -> None:
    session_id = simulator.create(email="twice@example.com")
    simulator.passed(session_id)
    settle(simulator, service)
    before = everything_about(service, session_id)
    events = [event["id"] for event in simulator.events(session_id)]
    for event_id in events:
        forwarding.run("events", "resend", event_id)
    service.wait_until(lambda: len(answers(simulator, session_id)) == 2 * len(events))
    settle(simulator, service)
    assert sorted(answers(simulator, session_id)) == ["accepted"] * 3 + ["duplicate"] * 3
    assert everything_about(service, session_id) == before


def test_what_the_cli_printed_can_be_replayed(simulator: Simulator, cli: Cli, service: Service) -> None:
    cli.listen("--format", "JSON", "--events", ",".join(TYPES))
    session_id = simulator.create(email="replayed@example.com")
    simulator.fail(session_id, "document_expired")
    simulator.passed(session_id)
    simulator.redact(other := simulator.create())
    [output] = cli.outputs
    service.wait_until(lambda: all(event["id"] in output.read_text() for event in simulator.events()[-8:]))
    cli.stop()
    assert service.record(session_id) is None
    assert service.command("replay", str(output)) == "accepted: 8\ntotal: 8\n"
    assert service.command("replay", str(output)) == "duplicate: 8\ntotal: 8\n"
    service.wait_until(service.is_quiet)
    assert seen(service, session_id) == true(simulator, session_id)
    assert seen(service, other)[0] == "canceled"
    assert service.mails("replayed@example.com")[-1].subject == "Your identity is verified"


@contextmanager
def endpoint(simulator: Simulator, service: Service, **policy: Any) -> Iterator[None]:
    """A webhook endpoint at the service, tried once for each event."""
    simulator.endpoint(service.url, **{"secret": ENDPOINT_SECRET, "schedule": []} | policy)
    try:
        yield
    finally:
        simulator.wait_settled(SETTLES)
        simulator.remove_endpoint(service.url)


def roll(simulator: Simulator, service: Service, secret: str, overlap: float) -> None:
    simulator.post(f"/endpoints/{simulator.endpoint_ids[service.url]}/roll", {"secret": secret, "overlap": overlap})


def settle(simulator: Simulator, service: Service) -> None:
    """Waits until nothing is on its way any more, on either side."""
    simulator.wait_settled(SETTLES)
    service.wait_until(service.is_quiet)


def answers(simulator: Simulator, session_id: str) -> list[str]:
    """The service's answer to each delivery about a session, in the order of the deliveries."""
    simulator.wait_settled(SETTLES)
    events = {event["id"] for event in simulator.events(session_id)}
    attempts = [attempt for one in simulator.deliveries() if one["event"] in events for attempt in one["attempts"]]
    said = [(attempt["code"], json.loads(attempt["body"])) for attempt in attempts]
    return [body["outcome"] if code == 200 else f"{code} {body['error']}" for code, body in said]


def seen(service: Service, session_id: str) -> tuple[Any, ...]:
    record = service.record(session_id)
    return (record["status"], record["last_error_code"], record["last_report_id"]) if record else ()


def true(simulator: Simulator, session_id: str) -> tuple[Any, ...]:
    session = simulator.session(session_id)
    return session["status"], (session["last_error"] or {}).get("code"), session["last_verification_report"]


def everything_about(service: Service, session_id: str) -> list[Any]:
    tables = ("inbox_event", "verification_record", "verification_submission", "outbox_action")
    rows = [service.rows(f"SELECT * FROM {table} WHERE session_id = ?", session_id) for table in tables]  # noqa: S608  # the four names above
    return [*rows, service.mails()]
