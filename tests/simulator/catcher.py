"""A webhook endpoint for tests: keeps the deliveries that arrive, and answers as told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True)
class Caught:
    """One delivery. Header names are in lower case."""

    body: bytes
    headers: dict[str, str]
    at: float

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads(self.body)
        return event

    @property
    def signature(self) -> str:
        return self.headers["stripe-signature"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


@dataclass(slots=True)
class Catcher:
    """`answer` decides the status; by default everything is 200. `said` is the body of every answer."""

    answer: Callable[[Caught], int] = lambda _caught: 200
    said: bytes = b""
    caught: list[Caught] = field(default_factory=list)
    server: _Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/webhooks/stripe"

    def events(self) -> list[dict[str, Any]]:
        return [caught.event for caught in self.caught]

    def wait_for(self, count: int, timeout: float = 20.0) -> list[Caught]:
        """The deliveries, once that many have arrived; raises TimeoutError."""
        until = time.monotonic() + timeout
        while len(self.caught) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(self.caught)} of {count} deliveries after {timeout:g} s")
            time.sleep(0.01)
        return list(self.caught)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _handler(catcher: Catcher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            caught = Caught(body, headers, time.time())
            catcher.caught.append(caught)
            self.send_response(catcher.answer(caught))
            self.send_header("content-length", str(len(catcher.said)))
            self.end_headers()
            self.wfile.write(catcher.said)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    return Handler
