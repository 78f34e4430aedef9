"""The world the service acts on: a mail server and the main application, both with bad days."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

_GLANCE = 0.1


@dataclass(frozen=True, slots=True)
class Accepted:
    """A mail that the server has accepted, and when; late: its sender may have heard nothing of it."""

    message_id: str
    recipient: str
    subject: str
    at: float
    late: bool


class MailServer:
    """A real SMTP server. Its mood decides what it does to each mail; see MOODS."""

    MOODS = (
        "well",
        "slow",  # takes each mail after one to four seconds
        "busy",  # 451 to every mail
        "picky",  # 450 to every second recipient
        "strict",  # 550 to some recipients, for ever
        "hanging",  # reads each mail and never answers
        "late",  # takes each mail at once and answers long after
        "mute",  # takes each mail and hangs up without a word
        "away",  # refuses connections
    )

    def __init__(self, seed: int, host: str = "127.0.0.1") -> None:
        self.mood = "well"
        self.accepted: list[Accepted] = []
        self.at_next_acceptance: Callable[[], object] | None = None
        self.refused_for_ever: set[str] = set()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mail", daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self.host, self.port = host, 0
        self._do(self._listen())

    def set_mood(self, mood: str) -> None:
        """Sets the mood from now on."""
        assert mood in self.MOODS
        was, self.mood = self.mood, mood
        if mood == "away":
            self._do(self._close())
        elif was == "away":
            self._do(self._listen())

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Takes or refuses a recipient."""
        if self.mood == "picky" and self._random.random() < 0.5:
            return "450 mailbox busy"
        if self.mood == "strict" and self._random.random() < 0.2:
            self.refused_for_ever.add(address)
        if address in self.refused_for_ever:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Takes or refuses a mail."""
        mood = self.mood
        if mood == "busy":
            return "451 try again later"
        if mood == "slow":
            await asyncio.sleep(self._random.uniform(1, 4))
        if mood == "hanging":
            await self._hang("hanging")
            return "421 closing"
        message = message_from_bytes(envelope.content if isinstance(envelope.content, bytes) else b"")
        recipient, subject = envelope.rcpt_tos[0], str(message["Subject"])
        self.accepted.append(
            Accepted(str(message["Message-ID"]), str(recipient), subject, time.time(), late=mood in ("late", "mute"))
        )
        if self.at_next_acceptance is not None:
            happens, self.at_next_acceptance = self.at_next_acceptance, None
            await asyncio.to_thread(happens)
        if mood == "late":
            await self._hang("late")
        if mood == "mute" and server.transport:
            server.transport.close()
        return "250 OK"

    def stop(self) -> None:
        """Stops the server and ends its connections."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _hang(self, mood: str) -> None:
        for _ in range(600):
            if self.mood != mood:
                return
            await asyncio.sleep(_GLANCE)

    def _do(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: SMTP(self, hostname="mail.test", loop=self._loop), self.host, self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Application:
    """The main application's side of notify_app: the changes that it was told, in order."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.told: dict[str, list[tuple[int, str | None]]] = {}  # by session: change number and status
        self.numbers: dict[str, list[int]] = {}  # by verification, or else by session, in the order of arrival
        self.status = 200
        self.delay = 0.0
        self._server = ThreadingHTTPServer((host, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_address[1]}/changes"

    def stop(self) -> None:
        """Stops the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(application: Application) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
            time.sleep(application.delay)
            if application.status == 200:
                told = application.told.setdefault(change["session_id"], [])
                told.append((change["change_number"], change["status"]))
                whose = change.get("verification_id") or change["session_id"]
                application.numbers.setdefault(whose, []).append(change["change_number"])
            self.send_response(application.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    return Handler
