"""Figures of all processes, in a form that Prometheus reads, and files that name only figures there are."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from config.database import transaction
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import counting, exposition
from handlers.outbox.perform import perform
from handlers.tables.models import InboxEvent
from receiver.app import app
from tests.support import databases, facts, shapes
from tests.support.facts import NOON, event

DOCS = Path(__file__).parents[2] / "docs"
# https://prometheus.io/docs/instrumenting/exposition_formats/
_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\]*",?)*)\})? (\S+)')
_NAME = re.compile(r"\bidentity_[a-z_]+")
SECRET = "whsec_made_up_for_tests"

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture(autouse=True)
def _nothing_counted() -> Iterator[None]:
    counting._counted.clear()
    yield
    counting._counted.clear()


@pytest.fixture
def client(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    databases.forget_process_state()
    with TestClient(app) as client:
        yield client


def test_before_anything_happened_every_metric_is_announced(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for name in (*counting.COUNTERS, *counting.HISTOGRAMS, *exposition.GAUGES):
        assert f"# TYPE {name} " in answer.text
    assert _samples(answer.text)["identity_events_waiting"] == 0


def test_every_line_is_one_that_prometheus_reads(client: TestClient) -> None:
    client.post("/webhooks/stripe", content=b"forged")
    _do_everything()
    for line in client.get("/metrics").text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or _SAMPLE.fullmatch(line), line


def test_deliveries_are_counted_by_outcome_and_reason(client: TestClient) -> None:
    body = shapes.as_body(facts.payload("created"))
    for _ in range(2):
        headers = {"Stripe-Signature": shapes.signature(body, SECRET)}
        assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 200
    assert client.post("/webhooks/stripe", content=body).status_code == 400
    found = _samples(client.get("/metrics").text)
    assert found['identity_deliveries_total{outcome="accepted",reason=""}'] == 1
    assert found['identity_deliveries_total{outcome="duplicate",reason=""}'] == 1
    refused = 'identity_deliveries_total{outcome="refused",reason="the signature is missing or does not match"}'
    assert found[refused] == 1
    assert found["identity_accept_seconds_count"] == 2
    assert found['identity_accept_seconds_bucket{le="+Inf"}'] == 2


def test_events_and_actions_are_counted_by_what_became_of_them() -> None:
    _do_everything()
    found = _samples(exposition.exposition())
    assert found['identity_events_total{type="identity.verification_session.verified",outcome="applied"}'] == 1
    assert found['identity_events_total{type="identity.verification_session.created",outcome="stale"}'] == 1
    assert found['identity_actions_total{name="email_verified",status="skipped"}'] == 1
    assert found["identity_event_age_seconds_count"] == 2
    assert found["identity_action_age_seconds_count"] == 1


def test_what_was_given_up_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OverflowError

    monkeypatch.setattr("handlers.inbox.apply.decide", refuse)
    said = event("verified")
    receive([said])
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(attempts=7))
    process([said.id])
    found = _samples(exposition.exposition())
    assert found['identity_events_total{type="identity.verification_session.verified",outcome="dead"}'] == 1
    assert found["identity_events_dead"] == 1


def test_buckets_add_up() -> None:
    for seconds in (0.004, 0.01, 0.02, 3.0, 100_000.0):
        counting.observe("identity_event_age_seconds", seconds)
    found = _samples(exposition.exposition())
    by_bound = {le: found[f'identity_event_age_seconds_bucket{{le="{le}"}}'] for le in ("0.01", "0.025", "5.0", "+Inf")}
    assert by_bound == {"0.01": 2, "0.025": 3, "5.0": 4, "+Inf": 5}
    assert found["identity_event_age_seconds_sum"] == pytest.approx(100_003.034)


def test_gauges_tell_what_waits() -> None:
    receive([event("created"), event("verified", NOON + 1)])
    with transaction() as session:
        then = datetime.now(UTC) - timedelta(minutes=10)
        session.connection().execute(update(InboxEvent).values(received_at=then))
    found = _samples(exposition.exposition())
    assert (found["identity_events_waiting"], found["identity_events_due"]) == (2, 2)
    assert 600 <= found["identity_events_oldest_seconds"] < 660


def test_what_several_processes_count_adds_up_and_outlives_them() -> None:
    for number in range(3):
        for _ in range(number + 1):
            counting.count("identity_recovered_events_total")
        counting.flush()
    counting.count("identity_recovered_events_total", 4)
    assert _samples(exposition.exposition())["identity_recovered_events_total"] == 10


def test_the_end_of_a_process_writes_down_its_last_seconds_and_leaves_no_thread() -> None:
    counting.start_flushing()
    counting.count("identity_recovered_events_total")
    counting.stop_flushing()
    assert exposition._counted()["identity_recovered_events_total"] == {"": 1.0}
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_processes_that_write_at_once_lose_nothing() -> None:
    rows: dict[counting._Key, float] = {(f"identity_{number}_total", ()): 1.0 for number in range(30)}

    def write() -> None:
        for _ in range(20):
            counting._write(rows)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = exposition._counted()
    assert {values[""] for values in found.values()} == {80.0}


def test_figures_wait_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError

    counting.count("identity_recovered_events_total")
    with monkeypatch.context() as patch:
        patch.setattr(counting, "_write", fail)
        counting.flush()
    assert _samples(exposition.exposition())["identity_recovered_events_total"] == 1


def test_the_backlog_is_well_until_something_has_waited_too_long(client: TestClient) -> None:
    assert client.get("/health/backlog").status_code == 200
    receive([event("created")])
    answer = client.get("/health/backlog")
    assert (answer.status_code, answer.json()["actions_oldest_seconds"]) == (200, 0.0)
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(received_at=datetime.now(UTC) - timedelta(seconds=301)))
    answer = client.get("/health/backlog")
    assert answer.status_code == 503
    assert answer.json()["events_oldest_seconds"] > 300


def test_without_a_database_both_say_so(client: TestClient, database_url: str) -> None:
    assert client.get("/metrics").status_code == 200
    with databases.down(database_url):
        if databases.SERVER_URL:  # SQLite's writer waits for ten seconds before it gives up
            assert client.get("/metrics").status_code == 503
            assert client.get("/health/backlog").status_code == 503


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json"])
def test_alerts_and_dashboard_name_only_metrics_there_are(file: str) -> None:
    histograms = {f"{name}_{part}" for name in counting.HISTOGRAMS for part in ("bucket", "sum", "count")}
    there_are = {*counting.COUNTERS, *histograms, *exposition.GAUGES}
    named = set(_NAME.findall((DOCS / file).read_text()))
    assert named
    assert named <= there_are


def test_the_dashboard_shows_every_metric() -> None:
    text = (DOCS / "grafana-dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for name in (*counting.COUNTERS, *counting.HISTOGRAMS, *exposition.GAUGES):
        assert name in text


def _do_everything() -> None:
    """One event applied, one stale, one action ended."""
    for action_id in facts.applied(event("verified", NOON + 5), event("created")):
        perform(action_id)


def _samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
