"""A refusal from outside is a finding within seconds, in a word: the refused process knows it first, and says so."""

import json
import os
import resource
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlmodel import col
from starlette.testclient import TestClient

from config import names
from config.database import transaction
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.metrics import counting, heartbeats, outside
from handlers.operator import endpoints, public_url, refusals
from handlers.operator.findings import WARN, findings
from handlers.outbox.perform import perform
from handlers.outbox.smtp import send_by_smtp
from handlers.queue.failures import NotNowError, PermanentError, RefusedError
from handlers.sessions.links import link_to
from handlers.stripe_api import account, sessions
from handlers.tables.models import Heartbeat
from receiver.app import app
from receiver.pages.assets import fetched
from receiver.webhooks import doubt
from tests.integration.operators import HERE, KEYS, sign_in
from tests.simulator.client import Simulator
from tests.support import databases, facts, shapes
from tests.support.operator import command
from tests.support.servers import Mailbox, mail_server, running_receiver
from tests.support.wire import OK, saying
from worker import app as worker_app
from worker import tasks

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("database_url", "alive")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"sender_answer": "550 not you"}, "the mail server answered 550 to MAIL_FROM: nothing else since"),
        ({"recipient_answer": "451 later"}, "the mail server answered 451 to one mail after the other: nothing else"),
        (None, "the mail server was not reached: nobody listens there: nothing else since"),
    ],
    ids=["the sender", "each of three recipients", "nobody there"],
)
def test_a_mail_server_that_refuses_us_is_found_and_over_with_the_next_mail(
    environment: pytest.MonkeyPatch, trouble: dict[str, str] | None, words: str
) -> None:
    box = Mailbox()
    with mail_server(box) as port:
        for name, value in (trouble or {}).items():
            setattr(box, name, value)
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{port if trouble else 1}")
        environment.setenv("MAIL_FROM", "id@example.com")
        databases.forget_process_state()
        for number in range(3):
            assert _refusals() == []
            with pytest.raises((NotNowError, RefusedError)):
                send_by_smtp(b"a mail\n", f"{number}@example.com", lambda: None)
        [said] = _refusals()
        assert said.startswith(words)
        box.sender_answer = box.recipient_answer = "250 OK"
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{port}")
        settings.cache_clear()
        send_by_smtp(b"a mail\n", "0@example.com", lambda: None)
        assert _refusals() == []


def test_a_folder_that_takes_no_mail_is_found_and_counts_no_try(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()
    folder = settings().var_dir / "mail"
    folder.parent.mkdir()
    folder.write_text("a file")
    receive([facts.event("verified")])
    [action_id] = process(["evt_vs_1_verified_1794830400"])
    perform(action_id)
    [said] = _refusals()
    assert said.startswith("VAR_DIR/mail takes no mail: File exists: nothing else since ")
    [action] = facts.actions()
    assert (action.waits, action.last_error) == (1, "VAR_DIR/mail takes no mail: File exists")
    folder.unlink()
    facts.end_all_leases()
    perform(action_id)
    assert (len(list(folder.iterdir())), _refusals()) == (1, [])


def test_one_mail_that_is_refused_for_itself_is_none_of_us(environment: pytest.MonkeyPatch) -> None:
    box = Mailbox()
    box.recipient_answer = "550 nobody here"
    with mail_server(box) as port:
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{port}")
        environment.setenv("MAIL_FROM", "id@example.com")
        databases.forget_process_state()
        for _ in range(4):
            with pytest.raises(PermanentError):
                send_by_smtp(b"a mail\n", "gone@example.com", lambda: None)
        assert _refusals() == []


def test_a_refusal_is_told_after_a_moment_and_until_there_is_an_answer_to_whomever() -> None:
    outside.note_refusal(outside.STRIPE, "answered 401")
    assert _refusals() == []
    outside.note_answer(outside.STRIPE)
    outside.note_refusal(outside.APPLICATION, "answered 404", seconds=4.0)
    [said] = _refusals()
    assert said.startswith("the application answered 404: nothing else since ")
    later = '[{"of": "the application", "doing": "", "answered": 0.0}]'
    _says("web", later)
    assert _refusals() == []
    for _ in range(2):  # refused to this process alone
        outside.note_refusal(outside.APPLICATION, "answered 404")
    [said] = _refusals()
    assert "to worker " in said
    assert "and to no other process" in said
    _says("web", "of another version")
    assert ["no other process" in one for one in _refusals()] == [False]
    _says("web", '[{"of": "the fax", "doing": "", "word": "rings", "times": 3, "since": 9.0, "last": 1.0}]')
    assert "the fax rings: nothing else since" in "".join(_refusals())


def test_a_permission_is_missing_until_it_is_used_whatever_else_is_answered() -> None:
    outside.note_refusal(
        outside.STRIPE, "answered 403: the key lacks the permission x", doing="post …/cancel", seconds=9.0
    )
    outside.note_answer(outside.STRIPE, "get …")
    [said] = _refusals()
    assert said.startswith("Stripe answered 403: the key lacks the permission x: nothing else since")
    outside.note_answer(outside.STRIPE, "post …/cancel")
    assert _refusals() == []


def test_what_the_database_lets_fail_is_found_until_something_is_done_or_nothing_fails_any_more(
    environment: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("c4nary", {}, Exception("c4nary"))

    environment.setattr(refusals, "_BLIP", timedelta(0))
    receive([facts.event("verified", event_id="evt_1")])
    with environment.context() as patch:
        patch.setattr("handlers.inbox.process.apply", fail)
        process(["evt_1"])
    [said] = _refusals()
    assert said.startswith("the database lets events fail (Exception): nothing else since")
    with environment.context() as patch:
        patch.setattr(refusals, "_MAY_BE_OVER", timedelta(0))
        assert _refusals() == []
    facts.applied(facts.event("created", session_id="vs_2", event_id="evt_2"))
    assert _refusals() == []


def test_a_fault_of_ours_is_found_where_several_events_fail(environment: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("c4nary")

    environment.setattr("handlers.inbox.process.apply", fail)
    for number in range(3):
        assert _refusals() == []
        receive([facts.event("verified", session_id=f"vs_{number}", event_id=f"evt_{number}")])
        process([f"evt_{number}"])
    [said] = _refusals()
    assert said.startswith("this service fails at events of kind verified (KeyError): nothing else since")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("c4nary"), "this service fails at events of kind verified (KeyError): nothing else since"),
        (
            OperationalError("c4nary", {}, sqlite3.OperationalError("no such column: c4nary")),
            "the database lets events of kind verified fail (OperationalError): nothing else since",
        ),
    ],
)
def test_what_fails_at_one_kind_is_found_though_others_are_done_and_over_with_the_next_of_its_own(
    environment: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    environment.setattr(refusals, "_BLIP", timedelta(0))
    for number in range(3):
        facts.applied(facts.event("created", session_id=f"vs_{number}", event_id=f"evt_created_{number}"))
        receive([facts.event("verified", facts.NOON + 1, session_id=f"vs_{number}", event_id=f"evt_{number}")])
        with environment.context() as patch:
            patch.setattr("handlers.inbox.process.apply", fail)
            process([f"evt_{number}"])
    facts.applied(facts.event("created", session_id="vs_3", event_id="evt_created_3"))
    [said] = _refusals()
    assert said.startswith(words)
    facts.applied(facts.event("verified", facts.NOON + 1, session_id="vs_3", event_id="evt_3"))
    assert _refusals() == []


def test_a_fault_of_ours_is_over_once_nothing_fails_by_it_any_more(environment: pytest.MonkeyPatch) -> None:
    for number in range(3):
        counting.note_in_vain("events", KeyError("c4nary"), str(number), kind="canceled")
    assert len(_refusals()) == 1
    environment.setattr(refusals, "_MAY_BE_OVER", timedelta(0))
    assert _refusals() == []


def test_a_task_that_fails_is_found(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    worker_app.note_failed_task(OperationalError("c4nary", {}, Exception("c4nary")), tasks.reconcile_with_stripe)
    [said] = _refusals()
    assert said.startswith("the database lets the schedule fail (Exception): nothing else since")
    tasks.sweep()
    assert _refusals() == []
    worker_app.note_failed_task(KeyError("c4nary"), tasks.purge_finished)
    [said] = _refusals()
    assert said.startswith("this service fails at the task purge (KeyError): nothing else since")
    worker_app.unbind_task("1", tasks.purge_finished, "SUCCESS")
    assert _refusals() == []


def test_who_does_not_answer_is_told_while_it_is_waited_for(environment: pytest.MonkeyPatch) -> None:
    with outside.asking(outside.MAIL_SERVER):
        assert _refusals() == []
        environment.setattr(outside, "_SILENT_SECONDS", 0.0)
        environment.setattr(refusals, "_BLIP", timedelta(seconds=-5))
        assert [one.split(":")[0] for one in _refusals()] == ["the mail server has not answered yet"]
    assert _refusals() == []


def test_a_secret_that_is_wrong_is_found_by_a_refused_delivery_whose_event_stripe_knows(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setattr(doubt, "_SECONDS", 0.0)
    [theirs] = [one["body"] for one in simulator.events(simulator.create())]
    told = []
    with TestClient(app) as client:
        for payload, secret in (
            (facts.payload("created"), "whsec_of_another_endpoint"),
            (theirs, "whsec_of_another_endpoint"),
            (theirs, shapes.SECRET),
        ):
            body = shapes.as_body(payload)
            told.append(_told_after(client, body, {"Stripe-Signature": shapes.signature(body, secret)}))
    assert told == [[], ["a delivery of Stripe's own was refused for its signature"], []]
    assert "evt_" not in (outside.said() or "")


def test_a_secret_that_is_wrong_is_found_by_a_refused_delivery_about_a_session_that_is_known_here(
    environment: pytest.MonkeyPatch,
) -> None:
    assert not settings().stripe_api_key
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setattr(doubt, "_SECONDS", 0.0)
    wrong, told = "whsec_of_another_endpoint", []
    with TestClient(app) as client:
        process([*receive([facts.event("created", session_id="vs_0123456789")]).accepted])
        for session_id, secret in (
            ("vs_9876543210", wrong),
            ("vs_0123456789", wrong),
            ("vs_0123456789", shapes.SECRET),
        ):
            body = shapes.as_body(facts.payload("processing", event_id="evt_00000001", session_id=session_id))
            told.append(_told_after(client, body, {"Stripe-Signature": shapes.signature(body, secret)}))
    assert told == [[], ["a delivery of Stripe's own was refused for its signature"], []]


def test_a_body_that_a_proxy_has_written_anew_and_a_signature_that_it_takes_away_are_found(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setattr(doubt, "_SECONDS", 0.0)
    process([*receive([facts.event("created", session_id="vs_0123456789")]).accepted])
    payload = facts.payload("verified", event_id="evt_00000001", session_id="vs_0123456789")
    body, compact = shapes.as_body(payload), json.dumps(payload).encode()
    thin = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    stripes, changed = {"User-Agent": "Stripe/1.0"}, "the body of a delivery was changed on its way"
    with TestClient(app) as client:
        for sent, signed, words in (
            (compact, body, [changed]),
            (body, body, []),
            (body + b"\n", thin, [changed]),
            (body, body, []),
            (body, None, ["a delivery of Stripe's own came without its signature"]),
            (body, body, []),
            (body[:-1], body, ["a delivery of Stripe's own was refused for its signature"]),
            (body, body, []),
        ):
            headers = {"Stripe-Signature": shapes.signature(signed)} if signed else {}
            assert _told_after(client, sent, stripes | headers) == words


def test_of_bodies_without_a_signature_one_in_ten_seconds_is_read() -> None:
    read: list[int] = []

    def chunks(number: int) -> Iterator[bytes]:
        read.append(number)
        yield b"{}"

    with TestClient(app) as client:
        for number in range(3):
            answer = client.post("/webhooks/stripe", content=chunks(number), headers={"User-Agent": "Stripe/1.0"})
            assert (answer.status_code, answer.json()) == (400, {"error": counting.STRIPPED})
    assert read == [0]


def _told_after(client: TestClient, body: bytes, headers: dict[str, str]) -> list[str]:
    client.post("/webhooks/stripe", content=body, headers=headers)
    app.state.webhook._doubt._thread.submit(int).result()  # it has asked by then
    return [one.partition(":")[0] for one in _refusals()]


def test_whoever_sends_refused_deliveries_has_stripe_asked_seldom(environment: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def find(event_id: str) -> dict[str, str]:
        asked.append(event_id)
        return {}

    environment.setattr(doubt, "find_event", find)
    environment.setenv("STRIPE_API_KEY", "sk_test_0123456789")
    settings.cache_clear()
    asking = doubt.Doubt(lambda *_: False)
    asking.note(b"", "")
    for number in range(5):
        asking.note(b'{"id": "evt_0000000%d"}' % number, "")
    asking._thread.submit(int).result()
    assert asked == ["evt_00000000"]


def test_a_key_that_is_revoked_and_a_permission_that_is_taken_are_found(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    databases.forget_process_state()
    facts.all_alive()
    simulator.keys(key=simulator.restricted_key, permissions=["event_read"])
    with pytest.raises(NotNowError):
        sessions.retrieve_state("vs_1", None)
    span = NOON, NOON, None
    sessions.list_events(*span)
    assert [one.partition(": nothing")[0] for one in _refusals()] == [
        "Stripe answered 403: the key lacks the permission rak_identity_product_read"
    ]
    simulator.keys(key=simulator.restricted_key, revoked=True)
    with pytest.raises(NotNowError):
        sessions.list_events(*span)
    assert "Stripe answered 401: it knows no such key, or it was revoked" in "".join(_refusals())


def _deliver_here(simulator: Simulator, environment: pytest.MonkeyPatch) -> None:
    """Lets an endpoint at Stripe lead to PUBLIC_URL."""
    environment.setenv("PUBLIC_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    simulator.endpoint(endpoints.url())


def test_an_endpoint_that_delivers_no_more_is_found_with_the_schedules_next_minute(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    _deliver_here(simulator, environment)
    told = []
    for change in ({}, {"enabled": False}, {"enabled": True}, None):
        if change is None:
            simulator.remove_endpoint(endpoints.url())
        elif change:
            simulator.change_endpoint(endpoints.url(), **change)
        tasks.remind_persons()
        told.append([one.partition(": ")[0] for one in _refusals()])
    less, gone = "the endpoint at Stripe delivers less than it should", "the endpoint at Stripe is gone"
    assert told == [[], [less], [], [gone]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enabled": False}, "delivers less than it should: we_"),
        ({"enabled_events": ["identity.verification_session.created"]}, "delivers less than it should: we_"),
        (None, "is gone: none leads to PUBLIC_URL"),
    ],
    ids=["switched off", "without a type", "gone, or of another URL"],
)
def test_status_asks_stripe_about_the_endpoint_itself_whenever_a_worker_has_looked(
    simulator: Simulator, environment: pytest.MonkeyPatch, change: dict[str, object] | None, words: str
) -> None:
    _deliver_here(simulator, environment)
    receive([facts.event("created")])
    tasks.remind_persons()
    heartbeats.beat("worker")
    assert _of_status() == []
    if change:
        simulator.change_endpoint(endpoints.url(), **change)
    else:
        simulator.remove_endpoint(endpoints.url())
    [said] = _of_status()
    assert said.startswith(f"the endpoint at Stripe {words}")
    assert _refusals() == []  # the worker will look in its time


def test_a_look_that_finds_it_well_ends_the_finding_of_a_process_that_looked_before(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    _deliver_here(simulator, environment)
    _says(
        "web",
        '[{"of": "the endpoint at Stripe", "doing": "", "word": "is gone", "times": 3, "since": 3700, "last": 3700}]',
    )
    assert _refusals() != []
    assert _of_status() == []


def test_the_console_has_stripe_asked_by_who_looks_at_it_and_seldom(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    for name, value in (KEYS | {"PUBLIC_URL": "http://127.0.0.1:9"}).items():
        environment.setenv(name, value)
    environment.setattr(endpoints, "_latest", -endpoints._LOOKED_AT_MOST_EVERY)
    settings.cache_clear()
    simulator.endpoint(endpoints.url())
    simulator.change_endpoint(endpoints.url(), enabled=False)
    with TestClient(app, HERE) as console:
        sign_in(console)
        console.get("/console?live")
        for look in [one for one in threading.enumerate() if one.name == "endpoint"]:
            look.join()
        heartbeats.beat("web")
        assert "the endpoint at Stripe delivers less than it should" in console.get("/console?live").text
    assert endpoints.look_soon() == []


def _of_status() -> list[str]:
    """The refusals that `status` tells: none of these tests has a broker, which is another finding."""
    said = command("status", "--json")
    return [one["words"] for one in said.json["findings"] if one["what"] == "refusals"]


def test_a_process_that_can_open_nothing_more_says_so_by_the_connection_that_it_has(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    assert _refusals() == []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        heartbeats.beat("web")
        heartbeats.beat("worker")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for one in taken:
            os.close(one)
    told = [[one.words for one in findings(None) if one.what == "refusals"], _refusals()]
    who = [[one.partition("the limit of open files is reached by ")[2].split()[0] for one in some] for some in told]
    assert who == [["web", "worker"], ["web"]]  # the worker opens one again with its next beat


def test_what_is_no_endpoint_ends_no_reconcile(environment: pytest.MonkeyPatch) -> None:
    body = b'{"object": "list", "has_more": false, "data": [{"id": "we_1"}, {"url": 7}, null]}'
    with saying(lambda _: iter([OK + f"Content-Length: {len(body)}\r\n\r\n".encode() + body])) as wire:
        environment.setenv("STRIPE_API_BASE", wire.url.rstrip("/"))
        environment.setenv("STRIPE_API_KEY", "sk_test_0123456789")
        environment.setenv("PUBLIC_URL", "http://127.0.0.1:9")
        databases.forget_process_state()
        endpoints.look_at_endpoint()
        assert len(wire.asked) == 1


def test_figures_that_cannot_be_added_up_are_found_since_findings_go_by_them(environment: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("c4nary")

    environment.setattr(refusals, "_BLIP", timedelta(0))
    counting.RECOVERED_EVENTS.inc()
    with environment.context() as patch:
        patch.setattr(counting, "_add_up", fail)
        counting.flush()
    [said] = _refusals()
    assert said.startswith("this service fails at figures (KeyError): nothing else since ")
    counting.flush()
    assert _refusals() == []


@pytest.mark.parametrize(
    ("path", "broken", "words"),
    [
        ("/verifications", "handlers.sessions.views.listed", "GET verifications of the API"),
        ("/verify/TOKEN", "receiver.pages.routes.seen", "GET verify of the pages"),
    ],
)
def test_a_request_that_fails_by_a_fault_of_ours_is_found_until_the_same_goes_well(
    environment: pytest.MonkeyPatch, path: str, broken: str, words: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("c4nary")

    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setenv("STRIPE_API_KEY", "sk_test_0123456789")
    environment.setenv("LINK_KEYS", "l" * 32)
    environment.setenv("PUBLIC_URL", HERE)
    environment.setenv("API_TOKENS", f"shop:{'t' * 32}")
    databases.forget_process_state()
    facts.applied(facts.event("created"))
    paths = ["/verifications", urlsplit(link_to("vs_1").url).path]
    path = path.replace("/verify/TOKEN", paths[1])
    with TestClient(app, HERE, headers={"Authorization": f"Bearer {'t' * 32}"}) as client:
        with environment.context() as patch:
            patch.setattr(broken, fail)
            assert client.get(path).status_code >= 500
        [other] = {*paths} - {path}
        assert client.get(other).status_code == 200
        [said] = _refusals()
        assert said.startswith(f"this service fails at {words} (KeyError): nothing else since ")
        assert client.get(path).status_code == 200
        assert _refusals() == []


def test_a_key_that_may_not_look_at_endpoints_is_none_that_is_refused(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    environment.setenv("PUBLIC_URL", "http://127.0.0.1:9")
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    databases.forget_process_state()
    facts.all_alive()
    simulator.keys(key=simulator.restricted_key, permissions=["identity_product_read", "event_read"])
    counted = counting.NO_ANSWERS.labels(of=outside.STRIPE, why="not allowed")
    before = counted._value.get()
    endpoints.look_at_endpoint()
    account.stripe_now()
    assert (_refusals(), counted._value.get()) == ([], before)


def test_a_public_url_that_leads_to_another_service_is_found_and_silence_is_not(
    environment: pytest.MonkeyPatch,
) -> None:
    answers: list[bytes] = []
    with saying(lambda _: iter([answers[-1]])) as wire:
        environment.setenv("PUBLIC_URL", wire.url.replace("127.0.0.1", "127.1"))
        settings.cache_clear()
        for status, words in (
            (b"404 Not Found", "leads to another service, which answered 404 at /webhooks/stripe: nothing else since "),
            (b"405 No\r\nAllow: POST", ""),
            (b"301 Moved\r\nLocation: /", "leads to another service, which answered 301 at /webhooks/stripe: "),
            (b"405 No\r\nAllow: POST", ""),
            (b"403 Forbidden", ""),
            (b"502 Bad Gateway", ""),
            (b"502 Bad Gateway", "answers 502, and web lets none of it through: "),
            (b"405 No\r\nAllow: POST", ""),
            (b"405 No\r\nAllow: PUT", ""),
            (b"502 Bad Gateway", ""),
            (b"404 Not Found", "leads to another service"),
        ):
            answers.append(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            public_url.look_once(endpoints.url())
            assert [said.startswith(f"PUBLIC_URL {words}") for said in _refusals()] == [True] * bool(words), status
    public_url.look_once(endpoints.url())  # where nobody listens
    assert len(_refusals()) == 1
    environment.setattr(refusals, "_MAY_BE_OVER", timedelta(0))  # as if the look before were long ago
    assert _refusals() == []


def test_status_and_the_console_look_twice_at_a_public_url_behind_which_web_seems_away(
    environment: pytest.MonkeyPatch,
) -> None:
    with saying(lambda _: iter([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])) as wire:
        environment.setenv("PUBLIC_URL", wire.url.replace("127.0.0.1", "127.1"))  # this machine, by another word
        settings.cache_clear()
        [said] = _of_status()
        assert said.startswith("PUBLIC_URL answers 502, and web lets none of it through")
        assert len(wire.asked) == 2
        wire.says = lambda _: iter([b"HTTP/1.1 405 No\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"])
        assert _of_status() == []
        assert len(wire.asked) == 3


def test_the_word_of_a_proxy_on_the_way_to_public_url_is_none_of_its_own(environment: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "c4nary")

    with saying(lambda _: iter([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"])) as wire:
        for scheme in ("http", "https"):
            environment.setenv(f"{scheme.upper()}_PROXY", wire.url)
            environment.setenv("PUBLIC_URL", f"{scheme}://identity.example")
            settings.cache_clear()
            environment.setattr(names, "_libc", fail)
            public_url.look_once(endpoints.url())
            assert _refusals() == []


@pytest.mark.parametrize(("host", "words"), [("localhost", "has expired"), ("127.0.0.1", "is of another host")])
def test_a_certificate_that_nobody_may_trust_is_found_and_one_that_nobody_has_signed_is_not(
    environment: pytest.MonkeyPatch, tmp_path: Path, host: str, words: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(NOON - timedelta(days=9)).not_valid_after(datetime.now(UTC) - timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = tmp_path / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM) + private)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    environment.setattr(public_url, "LOOPBACK", ())
    with saying(tls=tls) as wire:
        environment.setenv("PUBLIC_URL", wire.url.replace("http://127.0.0.1", f"https://{host}"))
        settings.cache_clear()
        public_url.look_once(endpoints.url())
        assert _refusals() == []
        environment.setenv("SSL_CERT_FILE", str(pem))
        public_url.look_once(endpoints.url())
        [said] = _refusals()
    assert said.startswith(f"PUBLIC_URL has a certificate that {words}: nothing else since ")


def test_our_own_answer_is_known_by_a_look_from_outside(environment: pytest.MonkeyPatch) -> None:
    with running_receiver() as port:
        facts.all_alive()
        for path in ("nothing/", ""):
            environment.setenv("PUBLIC_URL", f"http://127.1:{port}/{path}")
            settings.cache_clear()
            public_url.look_once(endpoints.url())
            assert len(_refusals()) == bool(path)


def test_a_public_url_whose_name_nobody_knows_is_found_and_a_name_server_that_is_away_is_not(
    environment: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(numbers[0], "c4nary")

    environment.setenv("PUBLIC_URL", "https://identity.example")
    settings.cache_clear()
    environment.setattr(names, "_libc", fail)
    numbers = [socket.EAI_AGAIN]
    public_url.look_once(endpoints.url())
    assert _refusals() == []
    numbers[0] = socket.EAI_NONAME
    public_url.look_once(endpoints.url())
    assert _refusals()[0].startswith("PUBLIC_URL has a name that no name server knows: nothing else since ")


def test_a_logo_that_cannot_be_had_is_a_warning_and_fails_nothing(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(refusals, "_BLIP", timedelta(0))
    picture = OK + b"Content-Length: 8\r\n\r\n\x89PNG\r\n\x1a\n"
    with (
        saying(lambda _: iter([OK + b"Content-Length: 2\r\n\r\n{}"])) as page,
        saying(lambda _: iter([picture])) as logo,
    ):
        for url, words in (
            ("http://127.0.0.1:9/", "was not reached: nobody listens there: nothing else since"),
            (page.url, "answered 200, and no image that is served: nothing else since"),
        ):
            with pytest.raises((NotNowError, ValueError)):
                fetched(url)
            [said] = _refusals()
            assert said.startswith(f"the server of BRAND_LOGO_URL {words}")
            assert {one.level for one in findings(None) if one.what == "refusals"} == {WARN}
            assert fetched(logo.url)[0] == "image/png"
            assert _refusals() == []


def _refusals() -> list[str]:
    """The findings right after a beat."""
    counting._note_progress()
    heartbeats.beat("worker")
    return [one.words for one in findings(None) if one.what == "refusals"]


def _says(kind: str, text: str) -> None:
    with transaction() as session:
        session.connection().execute(update(Heartbeat).where(col(Heartbeat.kind) == kind).values(outside=text))
