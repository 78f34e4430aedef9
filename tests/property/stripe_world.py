"""A Stripe for the state machine: the truth about each session, told by events and by dated answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from handlers.record.events import VerificationEvent
from tests.property.lifecycles import START, LifeCycle
from tests.property.model import told_of
from tests.support import shapes


@dataclass
class Story:
    """One session: its events so far, its whole life cycle, and its own clock."""

    session_id: str
    life_cycle: LifeCycle
    now: datetime = START
    happened: list[VerificationEvent] = field(default_factory=list)
    is_told_in_full: bool = True  # every change by a snapshot; else some states may have passed unheard

    @property
    def is_over(self) -> bool:
        """Whether all its events have happened."""
        return len(self.happened) == len(self.life_cycle.events)

    @property
    def verification_id(self) -> str:
        """The verification that its metadata names."""
        return f"idv_{int(self.session_id.removeprefix('vs_')):032x}"

    def happen(self, seconds: int) -> VerificationEvent:
        """Makes the next change happen, so many seconds after the last one."""
        self.now += timedelta(seconds=seconds)
        told = told_of(self.session_id, self.life_cycle)[len(self.happened)]
        if told.state and told.kind != "redacted":
            told = replace(told, state=replace(told.state, verification_id=self.verification_id, generation=1))
        self.happened.append(replace(told, created_at=self.now))
        return self.happened[-1]


@dataclass
class StripeWorld:
    """All sessions; while `fails_with` is a status, no question is answered."""

    stories: dict[str, Story] = field(default_factory=dict)
    fails_with: int | None = None
    url: str = ""

    def reset(self) -> None:
        """Forgets all sessions."""
        self.stories.clear()
        self.fails_with = None

    def answer(self, session_id: str) -> tuple[int, str, dict[str, Any]]:
        """The status, Date and body of a retrieve's answer."""
        story = self.stories[session_id]
        date = format_datetime(story.now, usegmt=True)
        if self.fails_with:
            return self.fails_with, date, {"error": {"message": "not now"}}
        return 200, date, _as_retrieved(story)


@contextmanager
def answering(world: StripeWorld) -> Iterator[None]:
    """Listens until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, date, content = world.answer(self.path.partition("?")[0].rpartition("/")[2])
            self._send(status, date, content)

        def do_POST(self) -> None:  # a cancellation: the proofs end no person's session
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            gone = {"type": "invalid_request_error", "code": "resource_missing", "message": "there is no such session"}
            self._send(404, format_datetime(START, usegmt=True), {"error": gone})

        def _send(self, status: int, date: str, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response_only(status)
            self.send_header("Date", date)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    world.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _as_retrieved(story: Story) -> dict[str, Any]:
    told = next(event for event in reversed(story.happened) if event.kind != "redacted")
    state = told.state
    assert state is not None
    assert state.status is not None
    is_redacted = story.happened[-1].kind == "redacted"
    session = shapes.session(
        story.session_id,
        state.status,
        code=state.error_code,
        report=state.report_id,
        reference=None if is_redacted else state.client_reference_id,
        user=None if is_redacted else state.user_id,
        metadata={} if is_redacted else {"idv_id": story.verification_id, "idv_generation": "1"},
        **({"redaction": "redacted"} if is_redacted else {}),
    )
    if session["last_error"]:
        session["last_error"]["reason"] = "[redacted]" if is_redacted else state.error_reason
    return session
