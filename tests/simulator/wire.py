"""One webhook request over HTTP/1.1 with connections kept open: small and fast, it follows no redirect."""

import asyncio
import ssl
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

import httptools

IDLE = 2.0  # seconds; uvicorn closes an idle connection after five, and a race with that would look like a failure


class Answer(NamedTuple):
    """An endpoint's answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One socket, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.answer: asyncio.Future[Answer] | None = None
        self.body = b""
        self.used_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    async def exchange(self, request: bytes) -> Answer:
        """Sends a request, returns its answer."""
        assert self.transport is not None
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._settle(error=ConnectionError(f"not HTTP: {error}"))
            self.close()

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_result(Answer(self.parser.get_status_code(), self.body))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._settle(error=ConnectionError("the connection was closed before an answer"))

    def _settle(self, error: Exception) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(error)

    def close(self) -> None:
        if self.transport:
            self.transport.close()

    @property
    def reusable(self) -> bool:
        return (
            self.transport is not None
            and not self.transport.is_closing()
            and self.parser.should_keep_alive()
            and time.monotonic() - self.used_at < IDLE
        )


@dataclass(slots=True)
class Wire:
    """The idle connections of each host, newest last."""

    idle: dict[tuple[str, str], list[Connection]] = field(default_factory=lambda: defaultdict(list))

    async def post(self, url: str, headers: dict[str, str], body: bytes, timeout: float) -> Answer:
        """Posts a body, and returns the answer. Raises OSError or TimeoutError."""
        parts = urlsplit(url)
        request = _request(parts, headers, body)
        async with asyncio.timeout(timeout):
            return await self._exchange(parts, request)

    async def _exchange(self, parts: SplitResult, request: bytes) -> Answer:
        connection = self._idle(parts) or await _connect(parts)
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        self._keep(parts, connection)
        return answer

    def _idle(self, parts: SplitResult) -> Connection | None:
        waiting = self.idle[parts.scheme, parts.netloc]
        while waiting:
            connection = waiting.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _keep(self, parts: SplitResult, connection: Connection) -> None:
        connection.used_at = time.monotonic()
        if connection.reusable:
            self.idle[parts.scheme, parts.netloc].append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for waiting in self.idle.values():
            for connection in waiting:
                connection.close()
        self.idle.clear()


async def _connect(parts: SplitResult) -> Connection:
    secure = parts.scheme == "https"
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection,
        parts.hostname or "",
        parts.port or (443 if secure else 80),
        ssl=ssl.create_default_context() if secure else None,
    )
    return connection


def _request(parts: SplitResult, headers: dict[str, str], body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
