"""Servers that the tests or the service talk to: our receiver, a Stripe that answers retrieves, a mail server."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session

from receiver.__main__ import SERVER_OPTIONS
from tests.support import shapes
from tests.support.waiting import wait_until


class FakeStripe:
    """Answers retrieves of verification sessions, or fails as it is told to."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.fail_with: int | None = None
        self.failing: set[str] = set()  # these sessions only, with a 500
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.url = ""

    def answer(self, session_id: str) -> tuple[int, dict[str, Any]]:
        """The status and the body of its answer."""
        self.asked.append(session_id)
        if self.fail_with or session_id in self.failing:
            return self.fail_with or 500, {
                "error": {"message": f"c4nary {session_id}", "param": "c4nary", "code": "c4nary"}
            }
        if session_id not in self.sessions:
            return 404, {"error": {"message": f"No such session: {session_id}", "code": "resource_missing"}}
        return 200, shapes.session(session_id, "requires_input") | self.sessions[session_id]


@contextmanager
def fake_stripe() -> Iterator[FakeStripe]:
    """Listens until the block ends."""
    stripe = FakeStripe()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stripe.keys.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
            status, content = stripe.answer(self.path.partition("?")[0].rpartition("/")[2])
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    stripe.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stripe
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running_receiver() -> Iterator[int]:
    """Runs our application under uvicorn, set up as receiver/__main__.py does; its port."""
    config = uvicorn.Config("receiver.app:app", port=0, **SERVER_OPTIONS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started, "the receiver did not start"
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


class Mailbox:
    """A mail server's behaviour: its answer at each step, and the mails that it took."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.sender_answer = "250 OK"
        self.recipients: list[str] = []
        self.recipient_answer = "250 OK"
        self.recipient_answers: dict[str, str] = {}  # answers to some recipients alone
        self.mail_answer = "250 OK"
        self.hangs = False
        self.hanging = 0
        self.at_recipient: Callable[[], object] = lambda: None  # in a thread, before the answer
        self.mail_delay = 0.0  # seconds between a mail and its answer
        self.peers: list[Any] = []  # one for each mail: mails of one connection have the same
        self.quits = 0

    async def handle_MAIL(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Takes or refuses a sender."""
        if self.sender_answer.startswith("250"):
            envelope.mail_from = address
        return self.sender_answer

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Takes or refuses a recipient; quotes the address, as servers do."""
        self.recipients.append(address)
        await asyncio.to_thread(self.at_recipient)
        answer = self.recipient_answers.get(address, self.recipient_answer)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return f"{answer} <{address}>"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Takes or refuses a mail."""
        if self.hangs:
            self.hanging += 1
            try:
                await asyncio.sleep(3600)
            finally:
                self.hanging -= 1
        if self.mail_answer.startswith("250"):
            self.mails.append(envelope)
            self.peers.append(session.peer)
        await asyncio.sleep(self.mail_delay)
        return self.mail_answer

    async def handle_QUIT(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        """Says goodbye."""
        self.quits += 1
        return "221 bye"


@contextmanager
def mail_server(mailbox: Mailbox, ssl: SSLContext | None = None, port: int = 0, **options: Any) -> Iterator[int]:
    """Runs a real SMTP server, over TLS from the start if it gets a context for that; its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    conversations: list[SMTP] = []

    def begin() -> SMTP:
        conversations.append(SMTP(mailbox, hostname="mail.test", **options))
        return conversations[-1]

    async def start() -> asyncio.Server:
        return await loop.create_server(begin, "127.0.0.1", port, ssl=ssl)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for one in conversations:
            if isinstance(one.transport, asyncio.Transport):
                with suppress(AttributeError):  # Python 3.11 raises it for a connection whose TLS has ended
                    one.transport.abort()  # a client may be about to use it again
        await loop.shutdown_asyncgens()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
