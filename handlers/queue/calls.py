"""One call to the outside by HTTP: in bounded time, of bounded size, and none while the other side wants quiet."""

import http.client
import io
import ipaddress
import random
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError, InvalidHeader, ProtocolError
from urllib3.util import make_headers
from urllib3.util.ssl_ import create_urllib3_context

from config import names
from config.database import true_now
from handlers.metrics import counting, outside
from handlers.queue.failures import AwayError, UnreadableError, why_unreached

_CONNECT_SECONDS = 3.0
_SILENT_SECONDS = 5.0  # about as long as a try without an answer: half of the time is left for other work
_LONGEST_QUIET = 3600.0  # a side that asks for more is asked again each hour
_LONGEST_GUESS = 60.0  # of a quiet whose length nobody named
_LIMITS = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_NONSENSE = (InvalidHeader, DecodeError, ValueError, AttributeError)  # some of it breaks the libraries
_HEADER_BYTES = 64 * 1024  # Stripe's are below two thousand
_UNWANTED_SECONDS = 0.05  # for a body that nobody wants: less than a new connection takes by TLS, across a country
_PIECE_BYTES = 16 * 1024  # a compressed answer unpacks to no more at a time
_READ_BYTES = 8 * 1024  # at once of a socket; Python 3.14's own, 128 KiB, are more than a whole answer may have
_USUAL = {
    "User-Agent": "identity-events",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
}


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Quiet:
    """The time for which another side wants to be asked nothing."""

    until: float = 0.0  # on the monotonic clock
    why: str = ""
    refusals: int = 0  # in a row

    def wanted(self, seconds: float, why: str) -> AwayError:
        self.until, self.why = max(self.until, time.monotonic() + seconds), why
        return AwayError(why, seconds)


class Line:
    """The line to one other side, for all threads of this process: quiet for as long as that side asks for.

    A call may be in somebody's name. Its refusal makes the line quiet for this name alone, or for all names if another
    one is quiet already.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        trusted: str = "",
        is_of_one: Callable[[WholeAnswer], bool] = lambda _: False,
    ) -> None:
        self.name = name  # in the stored errors and the metrics
        self._seconds = seconds  # for a whole call
        self._timeout = Timeout(connect=_CONNECT_SECONDS, read=seconds)
        self._trusted = trusted  # the file of the certificates to trust; "" for the usual ones
        self._is_of_one = is_of_one  # true if a limit is about the asked thing alone
        self._ways = threading.local()
        self._quiet = _Quiet()
        self._quiet_of: dict[str, _Quiet] = {}  # by the name of the calls

    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        *,
        most: int,
        only_pages: bool = False,
        in_name_of: str = "",
    ) -> WholeAnswer:
        """The answer of any status, with a body of `most` bytes at most, unpacked.

        With `only_pages` the body is the beginning of an HTML page, and any other body is not read.
        Raises AwayError if no answer comes or quiet is wanted, UnreadableError if it breaks off or is too large.
        """
        for quiet in (self._quiet, self._quiet_of.get(in_name_of, self._quiet)):
            # rule: a side that wants quiet is asked nothing by any thread
            if (left := quiet.until - time.monotonic()) > 0:
                raise AwayError(quiet.why, left)
        began = time.monotonic()
        try:
            with outside.asking(self.name):
                answer = self._exchange(method, url, headers, body, most, only_pages)
        except _NONSENSE as error:
            counting.NO_ANSWERS.labels(of=self.name, why="unreadable").inc()
            outside.note_refusal(
                self.name, "breaks off its answers, or sends too much", seconds=time.monotonic() - began
            )
            raise UnreadableError(f"{self.name}'s answer broke off: {type(error).__name__}") from None
        except HTTPError as error:
            counting.NO_ANSWERS.labels(of=self.name, why="unreached").inc()
            word = f"was not reached: {why_unreached(error)}"
            outside.note_refusal(self.name, word, seconds=time.monotonic() - began)
            raise self._quiet.wanted(_SILENT_SECONDS, f"{self.name} {word}") from None
        wanted = asked_pause(answer.headers)
        is_limit = answer.status == HTTPStatus.TOO_MANY_REQUESTS or (answer.status in _LIMITS and wanted)
        # rule: a limit of one thing leaves all others alone
        if is_limit and not self._is_of_one(answer):
            counting.NO_ANSWERS.labels(of=self.name, why="wants quiet").inc()
            outside.note_refusal(self.name, f"answered {answer.status}, and wants to be left alone")
            quiet = self._whose(in_name_of)
            quiet.refusals += time.monotonic() > quiet.until  # refusals of calls under way together count as one
            guess = min(_LONGEST_GUESS, 2.0 ** min(quiet.refusals, 10))
            raise quiet.wanted(wanted or random.uniform(guess / 2, guess), f"{self.name} answered {answer.status}")
        self._quiet.refusals = 0
        self._quiet_of.pop(in_name_of, None)
        return answer

    def _whose(self, in_name_of: str) -> _Quiet:
        """The quiet that a refusal asks for: that of the name, or of all names if another one is quiet already."""
        others = (one.until for name, one in list(self._quiet_of.items()) if name != in_name_of)
        if not in_name_of or any(until > time.monotonic() for until in others):
            return self._quiet
        return self._quiet_of.setdefault(in_name_of, _Quiet())

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, most: int, only_pages: bool
    ) -> WholeAnswer:
        # rule: a call has an end, however slowly its answer drips
        _bounds.ends_at = time.monotonic() + self._seconds
        _bounds.most = most + _HEADER_BYTES
        parts = urlsplit(url)
        way = self._way(parts)
        response = way.pool.urlopen(
            method.upper(),
            f"{way.before}{parts.path or '/'}{parts.query and f'?{parts.query}'}",
            body,
            {**_USUAL, **headers, **way.headers},
            retries=False,
            # A signature and a key are for one address alone.
            redirect=False,  # rule: no redirect is followed
            assert_same_host=False,  # of a proxy, where addresses are whole
            timeout=self._timeout,
            preload_content=False,
        )
        try:
            return WholeAnswer(response.status, response.headers, _body(response, most, only_pages))
        finally:
            response.close()
            response.release_conn()

    def _way(self, parts: SplitResult) -> "_Way":
        """This thread's way to the other side."""
        ways: dict[str, _Way] = self._ways.__dict__
        to = f"{parts.scheme}://{parts.netloc}"
        if to not in ways:
            proxy = proxy_for(parts)
            is_secret = parts.scheme == "https" or proxy.startswith("https:")
            ways[to] = _way(parts, proxy, self._certificates if is_secret else None)
        return ways[to]

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        """The certificates to trust: reading them takes longer than a call."""
        context = create_urllib3_context()
        context.load_verify_locations(self._trusted or certifi.where())
        if not self._trusted:
            context.load_default_certs()  # the machine's, or those of SSL_CERT_FILE
        return context


def looked_at(url: str, seconds: float) -> WholeAnswer | str:
    """The answer to a GET, without its body; or why none came, in our words. Nothing is noted."""
    try:
        return Line("", seconds)._exchange("GET", url, {}, None, 0, only_pages=True)
    except _NONSENSE:
        return "it breaks off"
    except HTTPError as error:
        return why_unreached(error)


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After asks for, or those until the moment that it names; None if it names none."""
    wanted = headers.get("Retry-After", "")
    try:
        seconds = float(wanted.split(",")[0])  # a proxy may add its own
    except ValueError:
        until, now = moment_in(wanted), moment_in(headers.get("Date", "")) or true_now()
        if until is None:
            return None
        seconds = (until - now).total_seconds()
    return min(seconds, _LONGEST_QUIET) if seconds > 0 else None


def moment_in(text: str) -> datetime | None:
    """The moment that a header names, in UTC; None if it names none."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _body(response: BaseHTTPResponse, most: int, only_pages: bool) -> bytes:
    """The answer's body, unpacked. Raises DecodeError if it breaks off or is too large, HTTPError if it is late."""
    if only_pages and "html" not in response.headers.get("Content-Type", "").lower():
        # The connection can be kept if the body is read: in most answers it has come along.
        _bounds.ends_at = min(_bounds.ends_at, time.monotonic() + _UNWANTED_SECONDS)
        with suppress(HTTPError, *_NONSENSE):
            deque(response.stream(_PIECE_BYTES, decode_content=False), 0)
        return b""
    content = bytearray()
    try:
        for piece in response.stream(_PIECE_BYTES, decode_content=True):
            content += piece
            # rule: an answer is bounded after unpacking, too
            if len(content) > most:
                if only_pages:
                    break
                raise DecodeError("too large")
    except (HTTPError, *_NONSENSE) as error:
        if response.status in _LIMITS:  # a limit holds without its body, too
            return b""
        if isinstance(error, ProtocolError):
            raise DecodeError("it breaks off") from error
        raise
    return bytes(content)


@dataclass(frozen=True, slots=True)
class _Way:
    """One thread's connections to another side: straight, or by a proxy that the environment names."""

    pool: HTTPConnectionPool
    before: str  # each path: a proxy is told whole addresses, if it may read along
    headers: Mapping[str, str]  # for the name and the password in an address


def _way(parts: SplitResult, proxy: str, trusted: ssl.SSLContext | None) -> _Way:
    host = parts.netloc.rpartition("@")[2]
    manager = PoolManager(ssl_context=trusted)
    if proxy:
        known = _credentials("Proxy-Authorization", urlsplit(proxy))
        manager = ProxyManager(proxy, proxy_headers=known, proxy_ssl_context=trusted, ssl_context=trusted)
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    before = f"http://{host}" if proxy and parts.scheme == "http" else ""
    pool = manager.connection_from_url(f"{parts.scheme}://{host}")
    return _Way(pool, before, _credentials("Authorization", parts))


def _credentials(header: str, parts: SplitResult) -> dict[str, str]:
    """The header that tells an address's name and password, if it has any."""
    if not parts.username:
        return {}
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: make_headers(basic_auth=words)["authorization"]}


def proxy_for(parts: SplitResult) -> str:
    """The proxy on the way to an address, as HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names it; "" for none."""
    proxies = {} if _is_near(parts) else getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all", "")
    return named if not named or "://" in named else f"http://{named}"


def _is_near(parts: SplitResult) -> bool:
    """Whether NO_PROXY names a host: itself, a domain above it, or its network."""
    host = parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(proxy_bypass(f"{host}:{parts.port}" if parts.port else host))
    for one in getproxies().get("no", "").replace(" ", "").split(","):
        with suppress(ValueError):
            if address in ipaddress.ip_network(one, strict=False):
                return True
    return bool(proxy_bypass(host))


# The time and the bytes left for this thread's call: the library passes nothing on to the code that reads an answer.
_bounds = threading.local()


class _Wire(io.RawIOBase):
    """The bytes of a socket, until the call's time or bytes are used up: the library's timeout is for each read."""

    def __init__(self, sock: Any, raw: Any) -> None:
        self._sock, self._raw = sock, raw
        self._left = _bounds.most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if (seconds := _bounds.ends_at - time.monotonic()) <= 0:
            raise TimeoutError("the call has taken too long")
        self._sock.settimeout(seconds)
        count: int = self._raw.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException("the answer is too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Wire(sock, self.fp.detach()), _READ_BYTES)

    def _read_status(self) -> tuple[str, int, str]:
        """Passes over what comes before an answer: the library takes all but 100 for the answer, and leaves the true
        one to the next call.
        """
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # its own, as in each Python
            if status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("another protocol")
            # rule: an informational answer is not the answer
            if not HTTPStatus.PROCESSING <= status < HTTPStatus.OK:
                return version, status, reason
            http.client.parse_headers(self.fp)


def _connect(connection: HTTPConnection) -> socket.socket:
    """Does as urllib3, whose time begins anew with each address, and leaves out the look-up of the name."""
    one = names.connect(connection._dns_host.strip("[]"), connection.port, _bounds.ends_at, _CONNECT_SECONDS)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


class _Http(HTTPConnection):
    response_class = _Response
    _new_conn = _connect


class _Https(HTTPSConnection):
    response_class = _Response
    _new_conn = _connect


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https
