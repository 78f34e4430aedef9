"""The connections of a web process: bounds for their number, for their time, and for the bytes that each may send.

uvicorn's own limits count the wrong thing: docs/decisions/0021.
"""

import asyncio
import os
import resource
from collections import Counter, OrderedDict
from collections.abc import Iterator
from http import HTTPStatus
from itertools import chain
from typing import Any

import httptools
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from handlers.metrics import counting

log = structlog.stdlib.get_logger(__name__)

HEAD_BYTES = 16 * 1024  # of a request line and its headers: Node's bound; Stripe's have less than 1 KiB
HEADERS = 100  # lines of them, trailers too: each costs more than its bytes
MESSAGE_BYTES = 1024 * 1024  # of a body with the frames of its chunks: twice the most that a room here reads
LINE_BYTES = 150  # of memory for each line of a head, besides its bytes
UNFINISHED_BYTES = 8 * 1024 * 1024  # of all requests that are not whole yet: thousands of Stripe's
PIPELINED = 2  # requests behind one that is not answered: nobody needs any, and a head of many lines takes 12 KB
UNREAD_BYTES = 16 * 1024  # of answers that a client has not taken: beyond, no more are written for it
_LEAST = 10  # connections, however few files there are
MOST_CONNECTIONS = (
    1000  # connections, if there are files for them; each costs some 10 KB, and an answer takes milliseconds
)
_SPARE_FILES = 40  # for the database, Redis, and other files that are opened later
_WANTED_FILES = 4096  # the usual 1,024 are fewer than may be accepted in one go
_AT_ONCE = 1.0  # seconds within which a client with something to say has said it
_LOOK_SECONDS = 1.0  # between two looks for connections that take too long
# A smaller chunk with a whole request in it is not counted: it lives for one turn of the loop.
_UNCOUNTED = 16 * 1024

HEAD_SECONDS = 10.0  # from the connection, or the first byte of a later request, to the end of the headers
BODY_SECONDS = 10.0  # Stripe sends a body at once; nobody else deserves longer
ANSWER_SECONDS = 60.0  # a client that has not read its answer by then never will
KEEP_ALIVE = 95.0  # Heroku's router keeps its connections for 90 and must not find one closed under its hands
_FAREWELL_SECONDS = 5.0

_NO_REASON = ""  # no line in the log for these
_NOTHING, _HEAD, _BODY, _WHOLE = range(4)  # the part of the latest request that has come


class _Wait(OrderedDict["Connection", float]):
    """Connections that wait for the same thing, with the start of each wait, the longest first."""

    def __init__(self, seconds: float, reason: str, status: int = 0) -> None:
        super().__init__()
        self.seconds = seconds
        self.reason = reason
        self.status = status


class Connections:
    """All connections of a process. Too many, too slow or too large: those that have waited the longest make room."""

    def __init__(self) -> None:
        self.silent = _Wait(HEAD_SECONDS, "no request in time", 408)
        self.sending = _Wait(BODY_SECONDS, "no whole body in time", 408)
        self.waiting = _Wait(ANSWER_SECONDS, "the answer was not read")
        self.idle = _Wait(KEEP_ALIVE, _NO_REASON)
        self.leaving = _Wait(_FAREWELL_SECONDS, _NO_REASON)
        self.ended: Counter[str] = Counter()  # since the last look
        self._unfinished = 0
        self._looks = False
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        self._other_files = len(os.listdir("/dev/fd")) + _SPARE_FILES

    def let_in(self, newcomer: "Connection") -> None:
        """Admits a connection. At the bound, the connection that is the least likely to be at work is ended for it."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = (
            MOST_CONNECTIONS
            if files == resource.RLIM_INFINITY
            else min(MOST_CONNECTIONS, max(files - self._other_files, _LEAST))
        )
        # rule: connections are bounded, and the silent ones go first
        if sum(map(len, (self.silent, self.sending, self.waiting, self.idle))) >= room:
            late = chain(self._late(self.silent), self._late(self.sending), self._unread())
            next(chain(late, self.idle, self.silent, self.sending), newcomer).end("too many connections")
        newcomer.wait_in(self.silent)
        if not self._looks:
            self._looks = True
            newcomer.loop.call_later(_LOOK_SECONDS, self._look, newcomer.loop)

    def hold(self, connection: "Connection", size: int) -> None:
        """Counts so many more bytes of a request that is not whole."""
        connection.unfinished += size
        self._unfinished += size
        # rule: all requests that are not whole are bounded together
        while self._unfinished > UNFINISHED_BYTES:
            # A delivery is the least likely to be late, or to have half a head.
            late = chain(self._late(self.silent), self._late(self.sending), self._unread())
            unfinished = (one for one in chain(late, self.silent, self.sending) if one.unfinished)
            next(unfinished, connection).end("too many bytes at once", 503)

    def let_go(self, connection: "Connection", size: int) -> None:
        """Takes so many bytes off the count: nobody holds them any more."""
        size = min(size, connection.unfinished)
        connection.unfinished -= size
        self._unfinished -= size

    def _late(self, wait: _Wait) -> Iterator["Connection"]:
        """The connections of a wait that have waited for more than _AT_ONCE, the longest first."""
        return (one for one, since in wait.items() if one.loop.time() - since > _AT_ONCE)

    def _unread(self) -> Iterator["Connection"]:
        """The connections whose clients have not read an answer for more than _AT_ONCE, the longest first."""
        return (one for one in self._late(self.waiting) if one.transport.get_write_buffer_size())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the connections that take too long, again and again, as long as there are connections."""
        waits = (self.silent, self.sending, self.waiting, self.idle, self.leaving)
        self._looks = any(waits)
        if self._looks:
            loop.call_later(_LOOK_SECONDS, self._look, loop)
        for wait in waits:
            while wait and loop.time() - next(iter(wait.values())) > wait.seconds:
                next(iter(wait)).end(wait.reason, wait.status)
        if self.ended:  # one line, however many they are
            log.warning("connections.ended", reasons=dict(self.ended))
            self.ended.clear()


class Connection(HttpToolsProtocol):
    """One connection. uvicorn's protocol parses its requests and writes its answers."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.unfinished = 0  # its bytes in Connections' count of requests that are not whole
        self._all: Connections = app_state["connections"]
        self._wait: _Wait | None = None
        self._has = _NOTHING
        self._size = 0  # bytes of the head or body that is not whole, without those being fed
        self._fed = self._lines = 0  # bytes and header lines of what is being fed
        self._fault = (400, "not HTTP")
        self._in_work: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Lets a new connection in."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self._all.let_in(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes a lost connection off all counts."""
        self._let_down()
        super().connection_lost(exc)
        self.wait_in(None)
        self._all.let_go(self, self.unfinished)

    def wait_in(self, wait: _Wait | None) -> None:
        """Begins another wait of this connection; the same wait again keeps its start."""
        if wait is self._wait:
            return
        if self._wait is not None:
            del self._wait[self]
        self._wait = wait
        if wait is not None:
            wait[self] = self.loop.time()

    def end(self, reason: str, status: int = 0) -> None:
        """Closes the connection, after an answer of this status if a request waits for one and none is under way."""
        if reason:
            self._all.ended[reason] += 1
            counting.ENDED_CONNECTIONS.labels(reason=reason).inc()
        self._all.let_go(self, self.unfinished)
        if self.transport.is_closing():  # and the client does not take the bytes written
            self.wait_in(None)
            return self.transport.abort()
        cycle = self.cycle
        is_unanswered = not cycle.response_started if self._has == _BODY else self._has == _HEAD
        is_next = self._has == _BODY or cycle is None or cycle.response_complete
        if status and is_unanswered and is_next and not self.pipeline:
            phrase = HTTPStatus(status).phrase
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
        self._let_down()
        self.pipeline.clear()
        reads_nothing = self._wait is self._all.waiting and self.transport.get_write_buffer_size() and not status
        self.wait_in(self._all.leaving)
        return self.transport.abort() if reads_nothing else self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Feeds uvicorn's parser, which then shows the connection's wait, and the bytes that it has sent."""
        had, self._fed, self._lines = self._has, len(data), 0
        try:
            rest: bytes | None = data
            while rest is not None:
                rest = self._feed(rest)
        except httptools.HttpParserError:
            return self.end(self._fault[1], self._fault[0])
        if self._has == _WHOLE and self._fed <= _UNCOUNTED and not (self.unfinished or self.pipeline):
            if not self.cycle.response_complete:
                self.wait_in(self._all.waiting)
            return None
        return self._count(data, had)

    def on_message_begin(self) -> None:
        """Notes that a head has begun."""
        super().on_message_begin()
        self._has, self._size = _HEAD, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of a head, or behind a body: there a proxy that has seen to the head may have let anything through."""
        # rule: a trailer adds nothing to a head
        if self._has == _BODY:
            name = value = b""  # it counts among the lines
        self._lines += 1
        # rule: a head is bounded in lines
        if len(self.headers) >= HEADERS:
            self._fault = (431, "too long a head")
            raise httptools.HttpParserError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Checks a whole head: one that is too large reaches nobody."""
        # rule: a head is bounded in bytes
        if self._size + self._fed > HEAD_BYTES < self._head_bytes():
            self._fault = (431, "too long a head")
            raise httptools.HttpParserError
        if len(self.pipeline) >= PIPELINED:
            self._fault = (400, "too many requests in a row")
            raise httptools.HttpParserError
        super().on_headers_complete()  # it raises for a target without a path, and then this is still a head
        self._has, self._size = _BODY, 0

    def on_body(self, body: bytes) -> None:
        """Keeps a body until it is whole: the end of its connection then frees it at once, and no handler has parts."""
        if not self.cycle.response_complete:
            self.cycle.body += body
            if len(self.cycle.body) > MESSAGE_BYTES // 2:  # each handler refuses it
                self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Notes that a request is whole."""
        super().on_message_complete()
        self._has = _WHOLE

    def on_response_complete(self) -> None:
        """Does as uvicorn's, with one clock for all connections in place of one for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.cycle.body = bytearray()  # nobody has read it, nor ever will
        if self._has == _WHOLE:
            self._all.let_go(self, self.unfinished)
            self.wait_in(self._all.idle)
        elif self._has == _BODY and self.expect_100_continue:  # it may never send the body that was refused
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._in_work = cycle
        super()._start_asgi_task(cycle, app)

    def _let_down(self) -> None:
        """Tells each request at work that its client has gone; uvicorn tells only the latest one."""
        for cycle in (self._in_work, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.body = bytearray()
                cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Keeps uvicorn from taking up an offer of another protocol: its parser stops there, and _feed goes on."""
        return True

    def _feed(self, data: bytes) -> bytes | None:
        """Returns the bytes left to feed: RFC 9110, 7.8 lets a server ignore an offer, and httptools drops the body."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._has = _HEAD  # though the parser took the offer for the end
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            if method == b"CONNECT":
                raise httptools.HttpParserError from None
            kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(kept))
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            # rule: an offer of another protocol takes nothing of its request
            return head + data[offer.args[0] :]
        return None

    def _count(self, data: bytes, had: int) -> None:
        """Counts the bytes of a request that is not whole, or large, or behind another one."""
        if self.transport.is_closing():
            return
        is_body = self._has == _BODY
        if self._has == _WHOLE:
            self.wait_in(self._all.idle if self.cycle.response_complete else self._all.waiting)
        else:
            self.wait_in(self._all.sending if is_body else self._all.silent)
        size = len(data) + self._lines * LINE_BYTES
        self._all.hold(self, size)  # a client that has just sent a whole head is not silent
        if self._has == _WHOLE and not self.pipeline:  # the reader's turn comes first
            self.loop.call_soon(self._all.let_go, self, self.unfinished)
        if self._has == _WHOLE or self.transport.is_closing():
            return
        # A head that began in here begins after the last empty line, at the earliest; before any there is but junk.
        began_before = is_body or had == _HEAD or self._has == _NOTHING
        self._size += len(data) if began_before else len(data) - (data.rfind(b"\r\n\r\n") + 1)
        if self._size > (MESSAGE_BYTES if is_body else HEAD_BYTES):
            self.end("too long a body" if is_body else "too long a head", 413 if is_body else 431)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
