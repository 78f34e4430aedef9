"""Secrets and personal data planted everywhere reach no log line, no table and no Redis key, also when things fail."""

import base64
import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from sqlmodel import select

from config.database import transaction
from config.settings import settings
from handlers.operator.console_users import hash_of
from handlers.operator.lists import LISTS
from handlers.outbox.perform import perform
from handlers.sessions.asking import ask_for_link
from handlers.sessions.links import read_token, return_url_of
from handlers.sessions.reminders import remind
from handlers.tables.models import InboxEvent, OutboxAction
from receiver.api.openapi import document
from tests.integration.operators import OURS, hidden_in
from tests.simulator.catcher import Catcher
from tests.simulator.client import Simulator
from tests.support import databases, facts, shapes
from tests.support.facts import NOON
from tests.support.processes import Service, service
from tests.support.servers import FakeStripe, Mailbox, fake_stripe, mail_server
from tests.support.waiting import PATIENCE, wait_until
from worker.__main__ import parser

SECRET = "whsec_c4nary_webhook"
# Two more secrets are base64, in which no word of ours fits.
CALLBACK_KEY = base64.b64encode(bytes(range(64, 88))).decode()
CONSOLE_PASSWORD = "c4nary of the console"
FERNET_KEY = base64.urlsafe_b64encode(bytes(range(96, 128))).decode()
NOWHERE = ("c4nary", CALLBACK_KEY, FERNET_KEY)
PERSONAL = "pers0nal"  # allowed in the tables: the references and Stripe's sentence about the failure


def _settings(stripe: FakeStripe, smtp_port: int) -> dict[str, str]:
    return {
        "LOG_LEVEL": "debug",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_KEY": "sk_test_c4nary",
        "STRIPE_RESTRICTED_KEY": "rk_test_c4nary",
        "STRIPE_API_BASE": stripe.url,
        "SMTP_URL": f"smtp://user:c4nary@127.0.0.1:{smtp_port}",
        "EMAIL_LOOKUP": "",
        "REMINDER_HOURS": "1",
        "APP_CALLBACK_URL": "http://user:c4nary@127.0.0.1:1/c4nary",
        "APP_CALLBACK_SECRET": f"whsec_{CALLBACK_KEY}",
        "VERIFIED_OUTPUTS": "first_name,address",
        "VERIFIED_OUTPUTS_KEY": FERNET_KEY,
    }


def _let_in(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, _given: Any) -> AuthResult:
    return AuthResult(success=True)


def _person(name: str) -> dict[str, Any]:
    return {
        "status": "verified",
        "provided_details": {"email": f"c4nary-{name}@example.com", "phone": "+49 c4nary"},
        "verified_outputs": {"first_name": "c4nary", "last_name": "c4nary", "address": {"line1": "c4nary"}},
    }


def _payload(kind: str, name: str, at: int = NOON, **fields: Any) -> dict[str, Any]:
    said = facts.payload(kind, at, f"vs_{name}", reference=f"{PERSONAL}-ref", user=f"{PERSONAL}-user", **fields)
    said["data"]["object"] |= {
        "client_secret": f"vs_{name}_secret_c4nary",
        "url": "https://verify.stripe.com/start/c4nary",
        "provided_details": {"email": "c4nary@example.com"},
        "verified_outputs": {"first_name": "c4nary", "dob": {"year": 1980}},
        "unknown": ["c4nary"],
    }
    said["request"] = {"id": None, "idempotency_key": "c4nary"}
    if said["data"]["object"]["last_error"]:
        said["data"]["object"]["last_error"] |= {"reason": f"{PERSONAL} reason", "detail": "c4nary"}
    return said


@pytest.fixture
def sentry() -> Iterator[Catcher]:
    """Catches the reports that go to Sentry."""
    with Catcher() as catcher:
        yield catcher


@pytest.fixture
def monitored(
    tmp_path: Path, database_url: str, sentry: Catcher
) -> Iterator[tuple[Service, FakeStripe, Mailbox, list[bytes]]]:
    mailbox = Mailbox()
    dsn = f"http://key@{urlsplit(sentry.url).netloc}/1"
    with (
        fake_stripe() as stripe,
        mail_server(mailbox, auth_require_tls=False, authenticator=_let_in) as smtp_port,
        service(tmp_path / "service", database_url, **_settings(stripe, smtp_port), SENTRY_DSN=dsn) as made,
        _monitor(made) as commands,
    ):
        yield made, stripe, mailbox, commands


@contextmanager
def _monitor(made: Service) -> Iterator[list[bytes]]:
    """Records all commands to Redis."""
    heard: list[bytes] = []
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(made.redis.url.removeprefix("redis+socket://"))
    connection.sendall(b"MONITOR\r\n")

    def listen() -> None:
        while piece := connection.recv(65536):
            heard.append(piece)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        connection.shutdown(socket.SHUT_RDWR)
        thread.join()
        connection.close()


@pytest.mark.processes
def test_what_must_stay_secret_is_nowhere(
    monitored: tuple[Service, FakeStripe, Mailbox, list[bytes]],
    database_url: str,
    sentry: Catcher,
    environment: pytest.MonkeyPatch,
) -> None:
    made, stripe, mailbox, commands = monitored
    names = ("good", "refused", "later", "unasked", "unstorable")
    for name in names:
        stripe.sessions[f"vs_{name}"] = _person(name)
    stripe.failing.add("vs_unasked")
    mailbox.recipient_answers = {
        "c4nary-refused@example.com": "550 no such user c4nary",
        "c4nary-later@example.com": "450 greylisted c4nary",
    }
    databases.refuse(database_url, "verification_record", "session_id", "vs_unstorable")

    made.start("web", "worker", "clock")
    for name in names:
        made.deliver(_payload("created", name), SECRET)
        made.deliver(_payload("requires_input", name, NOON + 5, code="document_expired", report="vr_1"), SECRET)
        made.deliver(_payload("verified", name, NOON + 9, report="vr_2"), SECRET)
        made.deliver(_payload("verified", name, NOON + 9, report="vr_2"), SECRET)
    stripe.sessions["vs_waiting"] = _person("waiting") | {"status": "requires_input", "last_error": None}
    made.deliver(_payload("created", "waiting", int(time.time()) - 7200), SECRET)
    environment.setenv("REMINDER_HOURS", "1")
    databases.forget_process_state()
    wait_until(lambda: remind() or facts.actions("vs_waiting")[1:], made.logs)  # the schedule runs once a minute
    _deliver_what_is_refused(made)
    wait_until(_everything_was_tried, made.logs, patience=5 * PATIENCE)  # the last of many tries is far apart
    mailed = {("c4nary-good@example.com",), ("c4nary-waiting@example.com",)}
    wait_until(lambda: {tuple(mail.rcpt_tos) for mail in mailbox.mails} == mailed, made.logs)
    made.stop()

    redis_files = b"".join(path.read_bytes() for path in made.folder.joinpath("redis").rglob("*") if path.is_file())
    said_to_redis = (b"".join(commands) + redis_files).decode(errors="replace")
    assert "process_events" in said_to_redis
    logs, tables = made.logs(), databases.dump(database_url)
    reported = "".join(gzip.decompress(one.body).decode() for one in sentry.caught)
    assert "action.buried" in reported
    assert "vs_refused" in reported
    for mark in NOWHERE:
        assert _around(mark, logs) == []
        assert _around(mark, reported) == []
        assert _around(mark, tables) == []
        assert _around(mark, said_to_redis) == []
    assert _around(PERSONAL, logs) == []
    assert _around(PERSONAL, reported) == []
    assert _around(PERSONAL, said_to_redis) == []
    assert PERSONAL in tables
    for traced in (
        "IntegrityError",
        "the SMTP server answered 550",
        "the SMTP server answered 450",
        "Stripe answered 500",
    ):
        assert traced in logs


def _deliver_what_is_refused(made: Service) -> None:
    body = shapes.as_body(_payload("verified", "good"))
    broken = shapes.as_body({**_payload("verified", "good"), "created": "c4nary"})
    for content, signature in (
        (body, "t=c4nary,v1=c4nary"),
        (body, shapes.signature(body, "whsec_c4nary_other")),
        (body, shapes.signature(body, SECRET, at=1)),
        (broken, shapes.signature(broken, SECRET)),
        (b"c4nary", shapes.signature(b"c4nary", SECRET)),
        (b"\xff c4nary", shapes.signature(b"\xff c4nary", SECRET)),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=20)
        connection.request("POST", "/webhooks/stripe?c4nary=c4nary", content, {"Stripe-Signature": signature})
        answer = connection.getresponse()
        assert answer.status == 400
        assert b"c4nary" not in answer.read()
        connection.close()


def _everything_was_tried() -> bool:
    with transaction() as session:
        events, actions = session.exec(select(InboxEvent)).all(), session.exec(select(OutboxAction)).all()
    tried = all(event.attempts for event in events) and all(
        action.attempts or action.status == "skipped" for action in actions
    )
    return tried and len(events) == 16 and any(action.status == "dead" for action in actions)


def _around(mark: str, text: str) -> list[str]:
    return [line[:1000] for line in text.splitlines() if mark in line][:5]


# The application's half, against the local Stripe.

TOKEN = "c4nary-token-of-the-application-0"
NATIVE = {"integration": "native", "stripe_version": "2026-10-28.endive"}
WAYS: tuple[dict[str, str], ...] = ({}, {"integration": "modal"}, {"integration": "redirect"}, NATIVE)
ENTRANCES = (
    "_secret_",
    "/start/",
    "ek_test_",
    "/verify/",
)  # the parts of each secret, even of one that nobody was handed
FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500, "after": True},
    {"status": 403},
    {"status": 400},
    {"nonsense": "half"},
    {"nonsense": "an error with 200"},
)


def _opening(reference: str, **more: Any) -> dict[str, Any]:
    return {
        "client_reference_id": f"{PERSONAL}-{reference}",
        "type": "document",
        "provided_details": {"email": "c4nary@example.com", "phone": "+4930999888"},
        "metadata": {"plan": "c4nary"},
        "return_url": f"https://app.example/{PERSONAL}",
        **more,
    }


class _Asked:
    """Requests to web over HTTP, and all its answers: refusals, and entries."""

    def __init__(self, made: Service, simulator: Simulator) -> None:
        self._port, self._simulator = made.port, simulator
        self.fault: dict[str, Any] = {}  # at Stripe's first answer to each request
        self.routes: set[tuple[str, str]] = set()
        self.refusals: list[str] = []
        self.answers: list[str] = []

    def ask(self, method: str, route: str, body: Any = None, **of_path: str) -> Any:
        self.routes.add((method, route.partition("?")[0]))
        self._simulator.clear_faults()
        if self.fault:
            self._simulator.fault(**self.fault)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, route.format(**of_path), json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        (self.answers if answer.status < 300 else self.refusals).append(text)
        return json.loads(text) if answer.status < 500 else {}

    def visit(self, url: str) -> None:
        """Makes all requests that a person's browser may make by a link, and some that are refused."""
        path = urlsplit(url).path
        for method, below, headers in (
            ("GET", "", {}),
            ("GET", "?lang=c4nary", {"Accept-Language": "c4nary", "Referer": "https://c4nary.example"}),
            ("HEAD", "", {}),
            ("POST", "", {}),
            ("POST", "", {"Accept": "application/json"}),
            ("POST", "", {"Origin": "https://c4nary.example"}),
            ("PUT", "", {}),
            ("POST", "/link", {}),
            ("GET", "/status?after=c4nary", {}),
            ("GET", "/status", {"Accept": "application/json", "If-None-Match": "c4nary"}),
            ("GET", "x", {}),
        ):
            self._load(method, f"{path}{below}", headers)
        returning = urlsplit(return_url_of(read_token(path.rpartition("/")[2]).subject)).path
        for method, below in (("HEAD", ""), ("GET", ""), ("GET", "x")):
            self._load(method, f"{returning}{below}", {})
        self.answers.append(returning)

    def _load(self, method: str, path: str, headers: dict[str, str]) -> None:
        self._simulator.clear_faults()
        if self.fault:
            self._simulator.fault(**self.fault)
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            self.answers.append(f"{answer.headers['Location']} {text}")
        assert "c4nary" not in text
        assert answer.status in (200, 303, 403, 404, 405, 409, 410, 429, 503), (answer.status, text)

    def leave(self, body: bytes, length: int) -> None:
        """Leaves as a client that goes away, in the middle of its request or before the answer."""
        head = f"POST /verifications HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            connection.sendall(head.encode() + body)

    def every_route(self, reference: str, fault: dict[str, Any]) -> None:
        """Uses each route, also with refused requests, while Stripe fails; a session is open before."""
        self.fault = {}
        id_ = self.ask("POST", "/verifications", _opening(reference))["id"]
        self.fault = fault
        for way in WAYS:
            self.ask("POST", "/verifications", _opening(reference, **way))
            self.ask("POST", "/verifications/{id}/entry", way, id=id_)
        self.ask(
            "POST", "/verifications", _opening(reference, unknown="c4nary", metadata={"plan": "c4nary@example.com"})
        )
        self.ask("POST", "/verifications", ["c4nary"])
        self.ask("POST", "/verifications", _opening(reference, related_customer="cus_c4nary"))
        self.ask("GET", f"/verifications?client_reference_id={PERSONAL}-{reference}")
        self.ask("GET", "/verifications?purpose=%00c4nary")
        self.ask("GET", "/verifications/{id}", id=id_)
        self.ask("GET", "/verifications/{id}", id="c4nary")
        self.ask(
            "POST", "/static-links/{name}", {"client_reference_id": "c4nary", "email": "c4nary@example.com"}, name="age"
        )
        self.ask("POST", "/static-links/{name}", {"client_reference_id": "c4nary"}, name="c4nary")
        self.visit(self.ask("POST", "/verifications/{id}/link", id=id_)["url"])
        self.ask("POST", "/verifications/{id}/link", id="c4nary")
        self.ask("POST", "/verifications/{id}/cancel", id=id_)
        self.ask("POST", "/verifications", _opening(reference))
        self.ask("POST", "/verifications/{id}/redact", id=id_)


def _look_around(port: int) -> str:
    """The text of every page of the console but the one that shows a link, with mistakes in what is typed."""
    pages: list[str] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=PATIENCE) as client:

        def see(path: str, **sent: str) -> str:
            """Loads a page, or sends its form; the address of the answer."""
            answer = client.get(path)
            if sent:
                answer = client.post(sent.pop("to", path), data={**hidden_in(answer.text), **sent}, headers=OURS)
            pages.append(answer.text)
            return str(answer.url)

        see("/console/sign-in", name="c4nary", password=CONSOLE_PASSWORD)
        see("/console/sign-in", name="anna", password="c4nary")  # a wrong password
        assert see("/console/sign-in", name="anna", password=CONSOLE_PASSWORD).endswith("/console")
        for word in ("c4nary@example.com", "c4nary\0", f"{PERSONAL}-nobody"):
            see("/console", to="/console/find", word=word)
        there = see("/console", to="/console/find", word=f"{PERSONAL}-unstorable-not")
        person = see("/console", to="/console/find", word="1")
        assert (there.endswith("/find"), "/persons/vs_" in person) == (True, True)
        of = person.rpartition("/")[2]
        for number in range(1, 20):
            see(f"/console/mails/{number}")
        for span in ("hour", "c4nary"):
            see(f"/console?span={span}&live")
        for what in ("resend", "retry", "discard", "cancel", "redact"):
            see(f"/console/change/{what}/1?of={of}", reason="c4nary@example.com")
        see(f"/console/change/resend/1?of={of}", reason="told by phone")
        for name in LISTS:
            see(f"/console/lists/{name}?error=%00")
        see("/console/lists/dead-actions/retry", reason="c4nary@example.com")
        see("/console/audit")
        see("/console/checks", to="/console/checks")
        assert "OK stripe" in pages[-1]
    typed = 'value="c4nary@example.com"'  # a form shows its own mistakes again, to be mended
    return "".join(pages).replace(typed, "")


@pytest.mark.processes
def test_what_is_asked_and_answered_over_the_api_is_nowhere_else(
    tmp_path: Path,
    database_url: str,
    simulator: Simulator,
    environment: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = {
        "LOG_LEVEL": "debug",
        "STRIPE_API_KEY": "sk_test_c4nary0000",
        "STRIPE_API_BASE": simulator.base,
        "STRIPE_PUBLISHABLE_KEY": "pk_test_0123456789",
        "API_TOKENS": f"shop:{TOKEN}",
        "RETURN_ORIGINS": "https://app.example",
        "STATIC_LINKS": "age=https://verify.stripe.com/x",
        "OPENINGS_PER_DAY": "1000",
        "LINK_KEYS": "c4nary-key-of-the-links-0123456789",
        "CONSOLE_USERS": f"anna:mend:{hash_of(CONSOLE_PASSWORD)}",
        "CONSOLE_KEYS": "c4nary-key-of-the-console-0123456789",
    }
    environment.setenv("LINK_KEYS", given["LINK_KEYS"])
    databases.forget_process_state()
    databases.refuse(database_url, "verification", "client_reference_id", f"{PERSONAL}-unstorable")
    databases.refuse(database_url, "verification_record", "verification_flow", "vf_unstorable")
    with service(tmp_path / "service", database_url, **given) as made, _monitor(made) as commands:
        made.start("web")
        asked = _Asked(made, simulator)
        for number, fault in enumerate(({}, *FAULTS)):
            asked.every_route(f"user-{number}", fault)
        asked.fault = {}
        simulator.flow("vf_unstorable")
        asked.ask("POST", "/verifications", _opening("unstorable"))
        asked.ask("POST", "/verifications", _opening("half-way", type=None, verification_flow="vf_unstorable"))
        body = json.dumps(_opening("gone")).encode()
        asked.leave(body[:100], len(body))
        asked.leave(body, len(body))
        wait_until(lambda: "verification.opened" in made.log("web"), made.logs)
        console = _look_around(made.port)
        for name, value in {**given, "REDIS_URL": made.redis.url}.items():
            environment.setenv(name, value)
        databases.forget_process_state()
        _run_every_command(simulator)
        said = capfd.readouterr()
        linking = parser().parse_args(("link", asked.ask("POST", "/verifications", _opening("linked"))["id"]))
        assert linking.command.run(linking) == 0
        shown = capfd.readouterr()
        [mail] = ask_for_link(linking.id)
        perform(mail)
        mailed = "".join(map(_content, settings().var_dir.glob("mail/*.eml")))
        assert "/verify/" in mailed
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=20)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
        made.stop()
        logs = made.logs()

    assert asked.routes == {(method.upper(), path) for path, some in document()["paths"].items() for method in some}
    assert [mark for mark in ENTRANCES if mark not in "".join(asked.answers)] == []
    redis_files = b"".join(path.read_bytes() for path in made.folder.joinpath("redis").rglob("*") if path.is_file())
    elsewhere = {
        "logs": logs + "".join((*said, shown.err, *capfd.readouterr())),
        "Redis": (b"".join(commands) + redis_files).decode(errors="replace"),
        "refusals": "\n".join(asked.refusals),
        "metrics": metrics,
        "console": console,
    }
    assert "perform_actions" in elsewhere["Redis"]
    assert "identity_" in metrics
    for place, text in {**elsewhere, "tables": databases.dump(database_url)}.items():
        for mark in ("c4nary", "4930999888", *ENTRANCES):
            assert _around(mark, text) == [], place
    tokens = set(re.findall(r"/(?:verify|return)/([\w.-]+)", "".join([*asked.answers, shown.out, mailed])))
    assert len(tokens) > len(FAULTS)
    for place, text in {**elsewhere, "tables": databases.dump(database_url)}.items():
        assert [token for token in tokens if token.rpartition(".")[2] in text] == [], place
    for place, text in elsewhere.items():
        assert _around(PERSONAL, text) == [], place


def _content(path: Path) -> str:
    mail = message_from_bytes(path.read_bytes(), EmailMessage, policy=default)
    return "".join(part.get_content() for part in mail.iter_parts() if isinstance(part, EmailMessage))


def _run_every_command(simulator: Simulator) -> None:
    """Runs each command about verifications, in this process, and with Stripe's failures."""
    theirs = simulator.create(client_reference_id="user-9", email="c4nary@example.com")
    lines = (
        ("open", "user-8", "--type", "document"),
        ("open", "user-8", "--flow", "vf_c4nary"),
        ("open", "user-8", "--type", "document", "--purpose", "c4nary@example.com"),
        ("open", "user-8", "--type", "document", "--account", "c4nary@example.com"),
        ("open", "user-7", "--flow", "vf_unstorable"),
        ("adopt", theirs, "user-9"),
        ("verification", theirs),
        ("verification", theirs, "--json"),
        ("actions", "--json"),
        ("sessions",),
        ("session", theirs),
        ("session", "c4nary@example.com"),
        ("retry", "--all", "--reason", "a test"),
        ("resend", "1", "--reason", "a test"),
        ("pause", "calls", "--reason", "a test"),
        ("resume", "calls"),
        ("end-links", "--reason", "a test"),
        ("export", theirs, "--reason", "a test"),
        ("outputs", theirs, "--reason", "a test"),
        ("reencrypt",),
        ("audit", "--json"),
        ("cancel", theirs),
        ("redact", theirs),
    )
    for fault in ({}, *FAULTS):
        for line in lines:
            if fault:
                simulator.fault(**fault)
            arguments = parser().parse_args(line)
            arguments.command.run(arguments)
            simulator.clear_faults()
        for action_id in facts.due_actions():
            perform(action_id)
