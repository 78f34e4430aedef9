"""Figures of all processes, in a form that Prometheus reads, and files that name only existing figures."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from starlette.testclient import TestClient

from config import broker
from config.database import transaction
from config.settings import running_commit, settings
from config.version import VERSION
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import counting, exposition, heartbeats
from handlers.outbox.perform import perform
from handlers.tables.models import InboxEvent
from receiver import health
from receiver.app import app
from tests.support import databases, facts, shapes
from tests.support.facts import NOON, event
from tests.support.waiting import PATIENCE

DOCS = Path(__file__).parents[2] / "docs"
_NAME = re.compile(r"\bidentity_[a-z_]+")
SECRET = "whsec_made_up_for_tests"
# The Accept header of Prometheus 3.
SCRAPER = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
NAMES = {
    *(metric.name + "_total" * (metric.type == "counter") for metric in counting.COUNTED.collect()),
    *exposition.GAUGES,
    exposition.CLOCKS,
    exposition.FINDINGS,
}

pytestmark = pytest.mark.usefixtures("database_url")


@pytest.fixture
def client(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client on this machine; each answer is a new one."""
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    environment.setattr(health, "_GOOD_FOR_SECONDS", 0.0)
    databases.forget_process_state()
    environment.setattr(broker, "trouble_now", lambda: None)  # there is no broker to reach
    with TestClient(app, client=("127.0.0.1", 50000)) as client:
        facts.all_alive()
        yield client


def test_before_anything_happened_every_metric_is_announced(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert set(re.findall(r"^# TYPE (\S+)", answer.text, re.MULTILINE)) == NAMES | {"identity_build_info"}
    found = _samples(answer.text)
    assert {name for name, value in found.items() if value and not name.startswith(exposition.CLOCKS)} == {
        f'identity_build_info{{commit="{running_commit()}",version="{VERSION}"}}'
    }
    assert "identity_drifted_sessions_total" in found  # else its first step up would go unseen


def test_whoever_asks_for_openmetrics_gets_the_same_figures_in_it(client: TestClient) -> None:
    client.post("/webhooks/stripe", content=b"forged")
    _do_everything()
    plain, asked = client.get("/metrics"), client.get("/metrics", headers={"Accept": SCRAPER})
    assert asked.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    strictly_read = openmetrics.text_string_to_metric_families(asked.text)  # type: ignore[no-untyped-call]
    expected = [metric.samples for metric in text_string_to_metric_families(plain.text)]
    assert [metric.samples for metric in strictly_read] == expected


@pytest.mark.parametrize("version", ['"1.0.0"', "latest", "2.0.0"])
def test_a_scraper_that_names_another_version_still_gets_its_metrics(client: TestClient, version: str) -> None:
    answer = client.get("/metrics", headers={"Accept": f"application/openmetrics-text;version={version}"})
    assert (answer.status_code, answer.text[-6:]) == (200, "# EOF\n")


def test_deliveries_are_counted_by_outcome_and_reason(client: TestClient) -> None:
    body = shapes.as_body(facts.payload("created"))
    for _ in range(2):
        headers = {"Stripe-Signature": shapes.signature(body, SECRET)}
        assert client.post("/webhooks/stripe", content=body, headers=headers).status_code == 200
    assert client.post("/webhooks/stripe", content=body).status_code == 400
    found = _samples(client.get("/metrics").text)
    assert found['identity_deliveries_total{outcome="accepted",reason=""}'] == 1
    assert found['identity_deliveries_total{outcome="duplicate",reason=""}'] == 1
    refused = 'identity_deliveries_total{outcome="refused",reason="the signature is missing"}'
    assert found[refused] == 1
    assert found["identity_accept_seconds_count"] == 2
    assert found['identity_accept_seconds_bucket{le="+Inf"}'] == 2


def test_events_and_actions_are_counted_by_what_became_of_them() -> None:
    _do_everything()
    found = _samples(exposition.exposition())
    assert found['identity_events_total{outcome="applied",type="identity.verification_session.verified"}'] == 1
    assert found['identity_events_total{outcome="stale",type="identity.verification_session.created"}'] == 1
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
    assert found['identity_events_total{outcome="dead",type="identity.verification_session.verified"}'] == 1
    assert found["identity_events_dead"] == 1


def test_buckets_add_up() -> None:
    for seconds in (0.004, 0.01, 0.02, 3.0, 100_000.0):
        counting.EVENT_AGE_SECONDS.observe(seconds)
    found = _samples(exposition.exposition())
    by_bound = {le: found[f'identity_event_age_seconds_bucket{{le="{le}"}}'] for le in ("0.01", "0.025", "5.0", "+Inf")}
    assert by_bound == {"0.01": 2, "0.025": 3, "5.0": 4, "+Inf": 5}
    assert found["identity_event_age_seconds_sum"] == pytest.approx(100_003.034)


def test_an_observation_adds_to_one_bucket_row_alone_and_the_next_to_another() -> None:
    for seconds in (0.02, 3.0):
        counting.EVENT_AGE_SECONDS.observe(seconds)
        counting.flush()
    assert exposition._counted()["identity_event_age_seconds_bucket"] == {'le="0.025"': 1.0, 'le="5.0"': 1.0}


def test_an_age_below_nought_lowers_no_figure() -> None:
    for seconds in (2.0, -3.0):  # a worker whose clock is behind web's
        counting.ACTION_AGE_SECONDS.observe(seconds)
        found = _samples(exposition.exposition())
        assert found["identity_action_age_seconds_sum"] == pytest.approx(2.0)
    assert found["identity_action_age_seconds_count"] == 2


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
            counting.RECOVERED_EVENTS.inc()
        counting.flush()
    counting.RECOVERED_EVENTS.inc(4)
    assert _samples(exposition.exposition())["identity_recovered_events_total"] == 10


def test_the_end_of_a_process_writes_down_its_last_seconds_and_leaves_no_thread() -> None:
    counting.start_flushing("web")
    counting.RECOVERED_EVENTS.inc()
    counting.stop_flushing()
    assert exposition._counted()["identity_recovered_events_total"] == {"": 1.0}
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_the_end_of_a_process_does_not_wait_for_a_database_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(counting, "flush", answered.wait)
    monkeypatch.setattr(counting, "_ENDS_WITHIN", 0.1)
    counting.start_flushing("web")
    ending = threading.Thread(target=counting.stop_flushing)
    ending.start()
    ending.join(PATIENCE)
    is_ended = not ending.is_alive()
    answered.set()
    counting.stop_flushing()
    assert is_ended


def test_whatever_starts_is_ready_by_the_end_of_its_start_also_where_something_was_started_before() -> None:
    for _ in range(2):
        heartbeats._process = heartbeats._Process()
        counting.start_flushing("web")
        hindrance = heartbeats.write_trouble()
        counting.stop_flushing()
        assert hindrance is None


def test_processes_that_write_at_once_lose_nothing() -> None:
    rows = {(f"identity_{number}_total", ""): 1.0 for number in range(30)}

    def write() -> None:
        for _ in range(20):
            counting._add_up(rows)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = exposition._counted()
    assert {values[""] for values in found.values()} == {80.0}


def test_what_is_counted_while_others_write_is_written_once() -> None:
    def count() -> None:
        for _ in range(2000):
            counting.DELIVERIES.labels(outcome="accepted", reason="").inc()
            counting.ACCEPT_SECONDS.observe(0.25)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        writers = [threading.Thread(target=counting.flush) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    found = _samples(exposition.exposition())
    assert found['identity_deliveries_total{outcome="accepted",reason=""}'] == 8000
    assert found["identity_accept_seconds_count"] == 8000
    assert found["identity_accept_seconds_sum"] == pytest.approx(2000.0)


def test_figures_wait_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError

    counting.RECOVERED_EVENTS.inc()
    with monkeypatch.context() as patch:
        patch.setattr(counting, "_add_up", fail)
        counting.flush()
        counting.flush()
    counting.RECOVERED_EVENTS.inc()
    for _ in range(2):
        assert _samples(exposition.exposition())["identity_recovered_events_total"] == 2


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


PROXIED = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "Via": "1.1 vegur"}


@pytest.mark.parametrize("header", [*PROXIED, "Forwarded", "X-Real-IP"])
def test_without_a_token_figures_are_for_this_machine_alone(client: TestClient, header: str) -> None:
    sent = {header: PROXIED.get(header, "127.0.0.1")}
    assert client.get("/metrics").status_code == 200
    assert "events_oldest_seconds" in client.get("/health/backlog").json()
    refused = client.get("/metrics", headers=sent)
    assert (refused.status_code, "identity_" in refused.text) == (403, False)
    told = client.get("/health/backlog", headers=sent)
    assert (told.status_code, told.json()) == (200, {"status": "ok"})
    receive([event("created")])
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(received_at=datetime.now(UTC) - timedelta(seconds=301)))
    told = client.get("/health/backlog", headers=sent)
    assert (told.status_code, told.json()) == (503, {"status": "needs a hand"})


def test_somebody_elses_address_is_not_this_machine(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 200
    assert TestClient(app, client=("198.51.100.7", 50000)).get("/metrics").status_code == 403


def test_with_a_token_figures_are_for_whoever_has_it(client: TestClient, environment: pytest.MonkeyPatch) -> None:
    token = "a token of ours".replace(" ", "-") + "-and-more"
    environment.setenv("METRICS_TOKEN", token)
    settings.cache_clear()  # and no more: the application is at work with the rest
    for sent in (f"Bearer {token}", f"bearer  {token} "):
        assert client.get("/metrics", headers={"Authorization": sent, **PROXIED}).status_code == 200
        assert "actions_oldest_seconds" in client.get("/health/backlog", headers={"Authorization": sent}).json()
    for sent in ("", token, f"Basic {token}", f"Bearer {token}x", "Bearer ", f"Bearer {token[:-1]}", "Bearer é"):
        header = {b"Authorization": sent.encode()}
        refused = client.get("/metrics", headers=header)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert token not in refused.text
        assert client.get("/health/backlog", headers=header).json() == {"status": "ok"}


def test_who_asks_within_a_second_gets_the_same_answer_and_the_database_is_asked_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_GOOD_FOR_SECONDS", 3600.0)
    first = client.get("/health/backlog")
    receive([event("created")])
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(received_at=datetime.now(UTC) - timedelta(hours=1)))
    assert client.get("/health/backlog").json() == first.json()
    monkeypatch.setattr(health, "_GOOD_FOR_SECONDS", 0.0)
    assert client.get("/health/backlog").status_code == 503


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json"])
def test_alerts_and_dashboard_name_only_metrics_there_are(file: str) -> None:
    samples = {sample.name for metric in counting.COUNTED.collect() for sample in metric.samples}
    named = set(_NAME.findall((DOCS / file).read_text()))
    assert named
    assert named <= NAMES | samples


def test_the_dashboard_shows_every_metric() -> None:
    text = (DOCS / "grafana-dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for name in NAMES:
        assert name in text


def _do_everything() -> None:
    """Applies one event and one stale one, and ends one action."""
    for action_id in facts.applied(event("verified", NOON + 5), event("created")):
        perform(action_id)


def _samples(shown: str | tuple[bytes, str]) -> dict[str, float]:
    text = shown if isinstance(shown, str) else shown[0].decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
