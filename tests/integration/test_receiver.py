"""The receiver under real uvicorn: the answer to each delivery, and its rows in the inbox."""

import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import select
from structlog.testing import capture_logs

from config import broker, database
from config.database import transaction
from config.settings import settings
from handlers.inbox.process import process
from handlers.tables.models import InboxEvent
from receiver.app import app
from receiver.webhooks import delivery
from receiver.webhooks.intake import Intake
from tests.support import databases, facts, shapes
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until
from worker.run.broker import start_redis

OLD_SECRET = "whsec_rolled_last_week"


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)


class Client:
    """Posts to the receiver."""

    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, body: bytes, signature: str | None, **headers: str) -> Answer:
        """Posts a delivery with this header, or with none."""
        signed = {"Stripe-Signature": signature} if signature is not None else {}
        return self.ask("POST", "/webhooks/stripe", body, {**signed, **headers})

    def deliver(self, payload: Any, secret: str = shapes.SECRET, at: float | None = None) -> Answer:
        """Posts a delivery as Stripe makes it."""
        body = payload if isinstance(payload, bytes) else shapes.as_body(payload)
        return self.post(body, shapes.signature(body, secret, at))

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **how: Any
    ) -> Answer:
        """Makes any request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {}, **how)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture
def prepared(environment: pytest.MonkeyPatch, database_url: str, redis_url: str) -> Iterator[str]:
    environment.setenv("STRIPE_WEBHOOK_SECRET", f"{OLD_SECRET},{shapes.SECRET}")
    databases.forget_process_state()
    use_broker(environment, redis_url)
    with broker.connected() as connection:
        connection.default_channel.queue_purge(broker.EVENTS_QUEUE)
    yield database_url
    broker.producers.cache_clear()  # others publish from this process too


@pytest.fixture
def client(prepared: str) -> Iterator[Client]:
    assert prepared
    with running_receiver() as port:
        yield Client(port)


def use_broker(environment: pytest.MonkeyPatch, url: str) -> None:
    """Makes this process publish there, as one that has never published."""
    environment.setenv("REDIS_URL", url)
    settings.cache_clear()
    broker.producers.cache_clear()
    broker._outage.__init__()  # type: ignore[misc]  # there is one for the process


def _stored() -> set[str]:
    with transaction() as session:
        return set(session.exec(select(InboxEvent.id)).all())


def _published() -> list[str]:
    ids: list[str] = []
    with broker.connected() as connection:
        while message := connection.default_channel.basic_get(broker.EVENTS_QUEUE, no_ack=True):
            ids += json.loads(message.body)[0][0]
    return ids


def _intake() -> Intake:
    intake: Intake = app.state.webhook._intake
    return intake


def _held() -> int:
    """The number of deliveries in work, while the database is locked, and of those behind them."""
    return len(_intake()._in_work) + len(_intake()._waiting)


PAYLOAD = facts.payload("verified", report="vr_1")
BODY = shapes.as_body(PAYLOAD)


def test_an_event_is_accepted_once_and_then_a_duplicate(client: Client) -> None:
    first, second = client.deliver(PAYLOAD), client.deliver(PAYLOAD)
    assert (first.status, first.content) == (200, {"event": PAYLOAD["id"], "outcome": "accepted"})
    assert (second.status, second.content) == (200, {"event": PAYLOAD["id"], "outcome": "duplicate"})
    assert first.headers["content-type"] == "application/json"
    assert _stored() == {PAYLOAD["id"]}


def test_an_accepted_event_and_an_unprocessed_duplicate_are_published(client: Client) -> None:
    client.deliver(PAYLOAD)
    client.deliver(PAYLOAD)
    published: list[str] = []

    def are_both_published() -> bool:  # in one message or in two
        published.extend(_published())
        return len(published) >= 2

    wait_until(are_both_published)
    assert published == [PAYLOAD["id"]] * 2


@pytest.mark.parametrize("kind", ["created", "processing", "requires_input", "verified", "canceled", "redacted"])
def test_each_of_the_six_types_is_accepted(client: Client, kind: str) -> None:
    assert client.deliver(facts.payload(kind)).content["outcome"] == "accepted"


def test_a_thin_notification_is_accepted(client: Client) -> None:
    said = shapes.thin("evt_1", "verified", "2026-11-16T10:00:00.123Z", "vs_1")
    assert client.deliver(said).content == {"event": "evt_1", "outcome": "accepted"}


def test_a_foreign_type_is_ignored_and_not_stored(client: Client) -> None:
    answer = client.deliver({"id": "evt_9", "object": "event", "type": "charge.succeeded"})
    assert (answer.status, answer.content) == (200, {"event": "evt_9", "outcome": "ignored"})
    assert _stored() == set()


@pytest.mark.parametrize("livemode", [False, True])
@pytest.mark.parametrize("form", ["snapshot", "thin"])
def test_an_event_of_the_mode_that_the_key_is_not_for_is_kept_as_ignored(
    prepared: str, environment: pytest.MonkeyPatch, livemode: bool, form: str
) -> None:
    assert prepared
    environment.setenv("STRIPE_API_KEY", "sk_test_made_up" if livemode else "sk_live_made_up")
    snapshot = facts.payload("verified", report="vr_1", reference="ref", user="u", livemode=livemode)
    thin = {**shapes.thin("evt_thin", "verified", "2026-11-16T10:00:00.123Z", "vs_1"), "livemode": livemode}
    _is_kept_as_ignored(snapshot if form == "snapshot" else thin, "other mode")


@pytest.mark.parametrize("livemode", [False, True])
def test_an_event_of_the_keys_mode_is_accepted(prepared: str, environment: pytest.MonkeyPatch, livemode: bool) -> None:
    assert prepared
    environment.setenv("STRIPE_API_KEY", "sk_live_made_up" if livemode else "sk_test_made_up")
    databases.forget_process_state()
    with running_receiver() as port:
        answer = Client(port).deliver(facts.payload("verified", report="vr_1", livemode=livemode))
    assert answer.content["outcome"] == "accepted"


def test_an_event_of_a_session_that_is_not_ours_is_kept_as_ignored(
    prepared: str, environment: pytest.MonkeyPatch
) -> None:
    assert prepared
    environment.setenv("OUR_SESSIONS", "app=onboarding")
    marked = {"app": "billing"}
    _is_kept_as_ignored(
        facts.payload("verified", report="vr_1", reference="ref", user="u", metadata=marked), "not ours"
    )


def _is_kept_as_ignored(payload: dict[str, Any], reason: str) -> None:
    """Every delivery of it is ignored, beside one of ours; the inbox keeps its id, session, type and time only."""
    databases.forget_process_state()
    ours = facts.payload(
        "created",
        event_id="evt_ours",
        livemode=not payload["livemode"] if reason == "other mode" else False,
        metadata={"app": "onboarding"},
    )
    with running_receiver() as port, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(Client(port).deliver, (payload, ours, payload)))
        answers += [Client(port).deliver(payload)]
    assert [(one.status, one.content["outcome"]) for one in answers] == [
        (200, "ignored"),
        (200, "accepted"),
        (200, "ignored"),
        (200, "ignored"),
    ]
    assert _stored() == {payload["id"], "evt_ours"}
    row = facts.event_row(payload["id"])
    assert (row.status, row.outcome, row.last_error) == ("processed", "ignored", reason)
    assert row.processed_at is not None
    shown = (row.account, row.session_status, row.error_code, row.error_reason, row.report_id)
    assert {*shown, row.client_reference_id, row.user_id, row.redaction} == {None}
    assert process([row.id]) == []


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        "t=,v1=",
        "t=abc,v1=def",
        "v1=" + shapes.digest(BODY, shapes.SECRET, 1),
        f"t={int(time.time())}",
        f"t={int(time.time())},v1=",
        f"t={int(time.time())},v1={'0' * 64}",
        f"t={int(time.time())},v0={shapes.digest(BODY, shapes.SECRET, int(time.time()))}",
        shapes.signature(BODY, "whsec_somebody_else"),
        shapes.signature(BODY + b" "),
        "t=1," + shapes.signature(BODY),
        shapes.signature(BODY).replace("t=", "t=1"),
        shapes.signature(BODY).replace("t=", "t=" + "9" * 5000),
        shapes.signature(BODY).replace("t=", "t=-"),
        "=" * 100,
        "," * 5000,
    ],
    ids=itertools.count(),  # the time is in them
)
def test_a_bad_signature_is_a_400_with_a_reason(client: Client, header: str | None) -> None:
    _is_refused(client.post(BODY, header), 400)


@pytest.mark.parametrize("value", ["é", "\u00ff" * 64, "t\u00e9=1,v1=\u00e9"])
def test_a_signature_that_is_not_ascii_is_a_400(client: Client, value: str) -> None:
    stamp = int(time.time())
    _is_refused(client.post(BODY, f"t={stamp},v1={value}".encode().decode("latin-1")), 400)
    _is_refused(client.post(BODY, value), 400)


@pytest.mark.parametrize("apart", [-301, -86400, 302, 86400, 10**9])
def test_a_timestamp_too_far_from_now_is_a_400_in_both_directions(client: Client, apart: int) -> None:
    answer = client.deliver(PAYLOAD, at=time.time() + apart)
    _is_refused(answer, 400)
    assert "timestamp" in answer.content["error"]


def test_a_second_timestamp_makes_no_old_signature_young(client: Client) -> None:
    old = shapes.signature(BODY, at=time.time() - 3600)
    _is_refused(client.post(BODY, f"{old},t={int(time.time())}"), 400)
    _is_refused(client.post(BODY, f"t={int(time.time())},{old}"), 400)


@pytest.mark.parametrize("apart", [-290, 290])
def test_a_clock_a_little_off_is_no_reason_to_refuse(client: Client, apart: int) -> None:
    assert client.deliver(PAYLOAD, at=time.time() + apart).status == 200


@pytest.mark.parametrize("secret", [OLD_SECRET, shapes.SECRET])
def test_every_configured_secret_is_good(client: Client, secret: str) -> None:
    assert client.deliver(PAYLOAD, secret).status == 200


def test_one_good_signature_among_several_is_enough(client: Client) -> None:
    stamp = int(time.time())
    signatures = ("0" * 64, shapes.digest(BODY, shapes.SECRET, stamp), "f" * 64)
    header = f"t={stamp}," + ",".join(f"v1={one}" for one in signatures) + ",v0=ignored"
    assert client.post(BODY, header).status == 200


@pytest.mark.parametrize("body", [b"\xff\xfe\xfd", b'{"id": "\xc3\x28"}', BODY.replace(b"vr_1", b"vr_\xff")])
def test_a_body_that_is_not_utf8_is_a_400(client: Client, body: bytes) -> None:
    _is_refused(client.deliver(body), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"x"',
        b"12",
        b"{}",
        b'{"type": "identity.verification_session.verified"}',
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"id": "evt_1", "type": "\\ud800"}',
        shapes.as_body({**PAYLOAD, "created": True}),
        shapes.as_body({**PAYLOAD, "created": 10**308}),
        shapes.as_body({**PAYLOAD, "id": "evt_\0"}),
        shapes.as_body({**PAYLOAD, "data": {"object": None}}),
        shapes.as_body({**PAYLOAD, "data": {"object": [1]}}),
        shapes.as_body({**PAYLOAD, "livemode": "no"}),
    ],
)
def test_a_correctly_signed_body_that_is_no_event_is_a_400(client: Client, body: bytes) -> None:
    _is_refused(client.deliver(body), 400)


def _is_refused(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.body.count(b"\n") == 0
    assert set(answer.content) == {"error"}
    assert b"Traceback" not in answer.body
    assert _stored() == set()


def test_a_body_up_to_the_cap_is_read(client: Client) -> None:
    padded = {**PAYLOAD, "padding": ""}
    padded["padding"] = "x" * (delivery.MAX_BODY_BYTES - len(shapes.as_body(padded)))
    body = shapes.as_body(padded)
    assert len(body) == delivery.MAX_BODY_BYTES
    assert client.deliver(body).status == 200


def test_a_declared_body_above_the_cap_is_refused_before_it_is_sent(client: Client) -> None:
    with client.raw() as connection:
        connection.sendall(_head(BODY, f"Content-Length: {delivery.MAX_BODY_BYTES + 1}"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_above_the_cap_is_refused_while_it_is_sent(client: Client) -> None:
    body = shapes.as_body({**PAYLOAD, "padding": "x" * delivery.MAX_BODY_BYTES})
    with client.raw() as connection:
        with suppress(OSError):  # it does not listen any more
            connection.sendall(_head(body, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(body), body))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert _stored() == set()


def test_a_chunked_body_below_the_cap_is_read(client: Client) -> None:
    pieces = [BODY[i : i + 100] for i in range(0, len(BODY), 100)]
    headers = {"Stripe-Signature": shapes.signature(BODY)}
    answer = client.ask("POST", "/webhooks/stripe", iter(pieces), headers, encode_chunked=True)
    assert answer.content["outcome"] == "accepted"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_a_405(client: Client, method: str) -> None:
    answer = client.ask(method, "/webhooks/stripe")
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/webhooks/strip", "/", "//verify/x", "/Verify/x", "/favicon.ico"])
def test_another_path_is_a_404_that_nobody_keeps_frames_or_runs(client: Client, path: str) -> None:
    answer = client.ask("POST", path, BODY)
    assert answer.status == 404
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_the_server_does_not_say_what_it_runs_on(client: Client) -> None:
    assert "server" not in client.deliver(PAYLOAD).headers


def test_a_sender_that_goes_away_in_the_middle_disturbs_nobody(client: Client) -> None:
    for _ in range(5):
        with client.raw() as connection:
            connection.sendall(_head(BODY) + b"{")
    assert client.deliver(PAYLOAD).status == 200


def _head(body: bytes, length: str = "") -> bytes:
    lines = (length or f"Content-Length: {len(body)}", f"Stripe-Signature: {shapes.signature(body)}")
    return ("POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_sender_that_goes_away_while_its_event_is_stored_disturbs_nobody(client: Client, prepared: str) -> None:
    other = facts.payload("processing")
    with databases.locked(prepared):
        with client.raw() as connection:
            connection.sendall(_head(BODY) + BODY)
            wait_until(lambda: _intake()._in_work)
        pool = ThreadPoolExecutor(1)
        answer = pool.submit(client.deliver, other)
        wait_until(lambda: _intake()._waiting)
    assert answer.result().content["outcome"] == "accepted"
    pool.shutdown()
    wait_until(lambda: _stored() == {PAYLOAD["id"], other["id"]})


def test_what_waits_together_is_stored_together_and_a_bad_row_fails_alone(client: Client, prepared: str) -> None:
    databases.refuse(prepared, "inbox_event", "id", "evt_bad")
    payloads = [facts.payload("verified", session_id=f"vs_{n}") for n in range(6)]
    payloads.insert(3, facts.payload("verified", session_id="vs_bad", event_id="evt_bad"))
    pool = ThreadPoolExecutor(8)
    with databases.locked(prepared):
        first = pool.submit(client.deliver, PAYLOAD)
        wait_until(lambda: not _intake()._waiting and _intake()._in_work)
        answers = [pool.submit(client.deliver, payload) for payload in payloads]
        wait_until(lambda: len(_intake()._waiting) == len(payloads))
    assert first.result().status == 200
    pool.shutdown()
    statuses = {json.loads(shapes.as_body(p))["id"]: a.result().status for p, a in zip(payloads, answers, strict=True)}
    assert statuses.pop("evt_bad") == 400
    assert set(statuses.values()) == {200}
    assert _stored() == {PAYLOAD["id"], *statuses}


def test_one_event_delivered_twice_at_once_is_accepted_once(client: Client, prepared: str) -> None:
    with databases.locked(prepared):
        pool = ThreadPoolExecutor(4)
        answers = [pool.submit(client.deliver, PAYLOAD) for _ in range(4)]
        wait_until(lambda: _held() == 4)
    assert sorted(answer.result().content["outcome"] for answer in answers) == ["accepted", *["duplicate"] * 3]
    pool.shutdown()


def test_a_database_that_is_down_is_a_503_until_it_is_back(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_SQLITE_BUSY_SECONDS", 0.1)
    with running_receiver() as port:
        client = Client(port)
        wait_until(lambda: client.ask("GET", "/readyz").status == 200)
        with databases.down(prepared):
            answer = client.deliver(PAYLOAD)
            assert (answer.status, answer.headers["retry-after"]) == (503, "30")
            assert set(answer.content) == {"error"}
            if databases.SERVER_URL:  # SQLite's lock hinders writers only
                wait_until(lambda: client.ask("GET", "/readyz").status == 503)  # an answer is good for a second
            assert client.ask("GET", "/healthz").status == 200
        assert client.deliver(PAYLOAD).content["outcome"] == "accepted"
        wait_until(lambda: client.ask("GET", "/readyz").status == 200)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis+socket:///nowhere/redis.sock"])
def test_a_redis_that_is_down_delays_no_answer(environment: pytest.MonkeyPatch, prepared: str, url: str) -> None:
    assert prepared
    use_broker(environment, url)
    with running_receiver() as port:
        client = Client(port)
        started = time.monotonic()
        for n in range(20):
            assert client.deliver(facts.payload("verified", session_id=f"vs_{n}")).status == 200
        assert time.monotonic() - started < 10  # one timeout each would be more
        wait_until(lambda: client.ask("GET", "/readyz").status == 200)
        assert client.ask("GET", "/readyz").content == {"database": "ok", "broker": "unreachable"}
    assert len(_stored()) == 20


def test_a_redis_that_is_frozen_delays_no_answer(environment: pytest.MonkeyPatch, prepared: str) -> None:
    assert prepared
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # takes the connection, and says nothing
        use_broker(environment, f"redis://127.0.0.1:{frozen.getsockname()[1]}/0")
        with running_receiver() as port:
            started = time.monotonic()
            for n in range(20):
                assert Client(port).deliver(facts.payload("verified", session_id=f"vs_{n}")).status == 200
            assert time.monotonic() - started < 10


def test_many_at_once_are_all_stored(client: Client) -> None:
    payloads = [facts.payload("verified", session_id=f"vs_{n}") for n in range(200)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(client.deliver, payloads))
    assert {answer.content["outcome"] for answer in answers} == {"accepted"}
    assert _stored() == {payload["id"] for payload in payloads}


def test_shutting_down_answers_who_waits_and_publishes_what_was_stored(prepared: str) -> None:
    pool = ThreadPoolExecutor(4)
    answers: list[Future[Answer]] = []
    unlock = threading.Event()
    locked = threading.Event()

    def hold() -> None:
        with databases.locked(prepared):
            locked.set()
            unlock.wait()

    holding = pool.submit(hold)
    locked.wait()
    try:
        with running_receiver() as port:
            client = Client(port)
            answers = [pool.submit(client.deliver, facts.payload("verified", session_id=f"vs_{n}")) for n in range(3)]
            wait_until(lambda: _held() == 3)
            threading.Timer(0.3, unlock.set).start()  # the shutdown has begun by then
    finally:
        unlock.set()
    assert {answer.result().status for answer in answers} == {200}
    holding.result()
    pool.shutdown()
    assert sorted(_published()) == sorted(_stored())
    assert len(_stored()) == 3


def test_an_answered_event_is_already_committed(client: Client) -> None:
    for n in range(20):
        payload = facts.payload("verified", session_id=f"vs_{n}")
        assert client.deliver(payload).status == 200
        assert facts.event_row(payload["id"]).status == "received"


def test_an_error_that_nobody_meant_is_answered_500_and_its_words_are_in_no_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("c4nary")

    monkeypatch.setattr(delivery, "parse", fail)
    monkeypatch.setattr("receiver.app.as_sent", fail)
    with capture_logs() as said:
        answers = client.deliver(PAYLOAD), client.ask("GET", "/readyz")
    for answer in answers:
        assert (answer.status, b"c4nary" in answer.body) == (500, False)
    assert [(line["event"], line["error"]) for line in said] == [("web.failed", "ValueError")] * 2
    assert "c4nary" not in caplog.text + str(said)
