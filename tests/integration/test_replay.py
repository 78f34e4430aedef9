"""A capture of the Stripe CLI's, replayed into a service without any Stripe: the application knows the addresses."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.payloads.expected import DELIVERIES, SESSIONS, Outcome
from tests.support.service import ROOT, Service
from worker.commands.replay import read, replay

CAPTURE = ROOT / "tests" / "payloads" / "capture.txt"
PAUSE_SECONDS = 3600  # events of the capture that lie further apart were made on different days
PREFIX = "vs_1Demo"


@pytest.mark.processes
def test_a_replayed_capture_comes_to_the_records_and_mails_of_its_stories(tmp_path: Path) -> None:
    events = read(CAPTURE.read_text())
    with Service(tmp_path, EMAIL_LOOKUP="tests.payloads.addresses:lookup") as service:
        service.wait_ready()
        secret = (tmp_path / "var" / "webhook_secret").read_text().strip()
        said: Counter[str] = Counter()
        for part in _parts(events):
            said += replay(part, service.url, secret)
            service.wait_until(service.is_quiet)
        said += replay(events[:1], service.url, "whsec_somebody_else")
        assert said == DELIVERIES
        assert _outcomes(service) == SESSIONS
        done = [action for outcome in SESSIONS.values() for action in outcome.actions if action.endswith(" done")]
        assert len(service.mails()) == len(done)
        assert service.mails("mia@example.com") == []
        files = [service.log, *(tmp_path / "var").glob("identity.db*")]
        assert not any(
            b"c4nary" in file.read_bytes() for file in files
        )  # the values of the capture's client_secret and url


class Receiver(BaseHTTPRequestHandler):
    """Answers each event by its id, as told; None closes the connection."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, bytes | None]] = {}

    def do_POST(self) -> None:
        event_id = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
        body = self.answers.get(event_id, b'{"outcome": "accepted"}')
        if body is None:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    """The URL of a running receiver."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/webhooks/stripe"
    Receiver.answers.clear()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "answer",
    [None, b"", b"<html>", b"null", b'{"outcome": ', b'{"event": "evt_1"}', b" " * 100_000],
    ids=["closed", "nothing", "a page", "null", "half", "no outcome", "too long"],
)
def test_an_event_that_gets_no_answer_keeps_no_other_from_being_replayed(receiver: str, answer: bytes | None) -> None:
    Receiver.answers["evt_1"] = answer
    events = [{"id": f"evt_{n}", "type": "x"} for n in range(4)]
    assert replay(events, receiver, "whsec_made_up") == {"accepted": 3, "unanswered": 1}


def test_a_receiver_that_answers_nothing_ends_the_replay(receiver: str) -> None:
    events = [{"id": f"evt_{n}", "type": "x"} for n in range(40)]
    Receiver.answers |= dict.fromkeys((event["id"] for event in events), b"<html>")
    with pytest.raises(HTTPException):
        replay(events, receiver, "whsec_made_up")


def _parts(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cuts events where a day begins, and before late ones: whether a prompt was sent must not depend on speed."""
    starts = [0]
    for place, (before, after) in enumerate(pairwise(events), start=1):
        if not 0 <= after["created"] - before["created"] <= PAUSE_SECONDS:
            starts.append(place)
    for start, end in pairwise([*starts, len(events)]):
        yield events[start:end]


def _outcomes(service: Service) -> dict[str, Outcome]:
    return {
        record["session_id"].removeprefix(PREFIX): Outcome(
            record["status"],
            record["submissions"],
            record["last_error_code"],
            tuple(service.actions(record["session_id"])),
            record["redacted_at"] is not None,
        )
        for record in service.rows("SELECT * FROM verification_record")
    }
