"""Secrets and personal data planted everywhere reach no log line, no table and no Redis key, also when things fail."""

import base64
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from sqlmodel import select

from config.database import transaction
from handlers.tables.models import InboxEvent, OutboxAction
from tests.support import databases, facts, shapes
from tests.support.facts import NOON
from tests.support.processes import Service, service
from tests.support.servers import FakeStripe, Mailbox, fake_stripe, mail_server
from tests.support.waiting import wait_until

SECRET = "whsec_c4nary_webhook"
# Two more that are made of base64, where no word of ours fits in.
CALLBACK_KEY = base64.b64encode(bytes(range(64, 88))).decode()
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
def monitored(tmp_path: Path, database_url: str) -> Iterator[tuple[Service, FakeStripe, Mailbox, list[bytes]]]:
    mailbox = Mailbox()
    with (
        fake_stripe() as stripe,
        mail_server(mailbox, auth_require_tls=False, authenticator=_let_in) as smtp_port,
        service(tmp_path / "service", database_url, **_settings(stripe, smtp_port)) as made,
        _monitor(made) as commands,
    ):
        yield made, stripe, mailbox, commands


@contextmanager
def _monitor(made: Service) -> Iterator[list[bytes]]:
    """Everything that is ever said to Redis."""
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


def test_what_must_stay_secret_is_nowhere(
    monitored: tuple[Service, FakeStripe, Mailbox, list[bytes]], database_url: str
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
    _deliver_what_is_refused(made)
    wait_until(_everything_was_tried, made.logs)
    made.stop()

    assert [mail.rcpt_tos for mail in mailbox.mails] == [["c4nary-good@example.com"]] * len(mailbox.mails)
    assert mailbox.mails
    redis_files = b"".join(path.read_bytes() for path in made.folder.joinpath("redis").rglob("*") if path.is_file())
    said_to_redis = (b"".join(commands) + redis_files).decode(errors="replace")
    assert "process_events" in said_to_redis
    logs, tables = made.logs(), databases.dump(database_url)
    for mark in NOWHERE:
        assert _around(mark, logs) == []
        assert _around(mark, tables) == []
        assert _around(mark, said_to_redis) == []
    assert _around(PERSONAL, logs) == []
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
    return tried and len(events) == 15 and any(action.status == "dead" for action in actions)


def _around(mark: str, text: str) -> list[str]:
    return [line[:1000] for line in text.splitlines() if mark in line][:5]
