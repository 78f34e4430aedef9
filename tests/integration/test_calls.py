"""A call to the outside ends in time and takes a bounded number of bytes, whatever the other side does."""

import gzip
import random
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from config import names
from handlers.queue import calls
from handlers.queue.calls import Line, asked_pause
from handlers.queue.failures import AwayError, NotNowError, UnreadableError
from tests.support.waiting import PATIENCE, wait_until
from tests.support.wire import OK, saying

_MOST = 1000
_BOMB = gzip.compress(bytes(50_000_000))
_FOREVER = 100  # pieces: they outlast the time of a call, and end a call without a bound


def _as_body(content: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(content) + content


_BOMBED = b"Content-Encoding: gzip\r\n" + _as_body(_BOMB)


def _line(seconds: float = 0.5) -> Line:
    return Line("Stripe", seconds)


def _ask(line: Line, url: str, *, only_pages: bool = False) -> calls.WholeAnswer:
    return line.call("GET", url, {}, None, most=_MOST, only_pages=only_pages)


def _dripping(*parts: bytes) -> Callable[[bytes], Iterator[bytes]]:
    whole = b"".join(parts)
    return lambda _: (whole[place : place + 1] for place in range(len(whole)))


def _flooding(begin: bytes, piece: bytes, megabytes: int = 40) -> Callable[[bytes], Iterator[bytes]]:
    def flood(_: bytes) -> Iterator[bytes]:
        yield begin
        yield from repeat(piece, megabytes * 1_000_000 // len(piece))

    return flood


@pytest.mark.parametrize(
    "says",
    [
        _dripping(b"HTTP/1.1 200 " + b"O" * _FOREVER, b"\r\nContent-Length: 0\r\n\r\n"),
        _dripping(b"HTTP/1.1 200 OK\r\nX: " + b"x" * _FOREVER, b"\r\nContent-Length: 0\r\n\r\n"),
        _dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 5, OK, b"Content-Length: 0\r\n\r\n"),
        _dripping(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5, OK, b"Content-Length: 0\r\n\r\n"),
        _dripping(OK + b"Content-Length: %d\r\n\r\n" % _FOREVER, b" " * _FOREVER),
        _dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * _FOREVER, b"0\r\n\r\n"),
    ],
    ids=["status", "headers", "continue", "hints", "body", "chunks"],
)
def test_an_answer_that_drips_is_waited_for_no_longer_than_a_whole_one(
    says: Callable[[bytes], Iterator[bytes]],
) -> None:
    with saying(says, pause=0.02) as wire, pytest.raises(AwayError, match="Stripe was not reached"):
        _ask(_line(), wire.url)


@pytest.mark.parametrize(
    "says",
    [
        _flooding(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 60_000 + b"\r\n\r\n"),
        _flooding(OK, b"X: " + b"x" * 60_000 + b"\r\n"),
        _flooding(OK + b"\r\n", b"x" * 60_000),
        _flooding(OK + b"Content-Length: 40000000\r\n\r\n", b"x" * 60_000),
        _flooding(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 60_000),
        _flooding(OK + b"Transfer-Encoding: chunked\r\n\r\n1; ", b"x" * 60_000),
        _flooding(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n" * 10_000),
        lambda _: iter([OK + _BOMBED]),
        lambda _: iter([OK + b"Content-Encoding: gzip, gzip\r\n" + _as_body(gzip.compress(_BOMB))]),
        lambda _: iter([b"HTTP/1.1 302 Found\r\nLocation: /\r\n" + _BOMBED]),
        lambda _: iter([b"HTTP/1.1 500 No\r\n" + _BOMBED]),
    ],
    ids=["continue", "headers", "body", "length", "size", "extension", "trailers", "bomb", "twice", "302", "500"],
)
def test_an_answer_takes_a_bounded_number_of_bytes(says: Callable[[bytes], Iterator[bytes]]) -> None:
    with saying(says) as wire:
        tracemalloc.start()
        try:
            with pytest.raises(NotNowError):
                _ask(_line(30), wire.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2_000_000


def test_a_body_that_nobody_wants_takes_no_memory() -> None:
    with saying(lambda _: iter([OK + _BOMBED])) as wire:
        tracemalloc.start()
        try:
            assert _ask(_line(30), wire.url, only_pages=True).status == 200
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2_000_000


def test_an_answer_by_a_proxy_has_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    with saying(_dripping(OK + b"Content-Length: %d\r\n\r\n" % _FOREVER, b" " * _FOREVER), pause=0.02) as wire:
        monkeypatch.setenv("http_proxy", wire.url)
        with pytest.raises(AwayError, match="Stripe was not reached"):
            _ask(_line(), "http://stripe.invalid/")
        assert wire.asked[0].startswith(b"GET http://stripe.invalid/ ")


@pytest.mark.parametrize(
    ("variable", "begin"), [("HTTP_PROXY", "http://us%40er:p%3Aw@"), ("http_proxy", ""), ("ALL_PROXY", "http://")]
)
def test_a_proxy_of_the_environment_is_told_the_whole_address(
    monkeypatch: pytest.MonkeyPatch, variable: str, begin: str
) -> None:
    with saying() as wire:
        monkeypatch.setenv(variable, wire.url.replace("http://", begin))
        _ask(_line(30), "http://someone:c4nary@stripe.invalid/a?b=c#d")
    asked = wire.asked[0]
    assert asked.startswith(b"GET http://stripe.invalid/a?b=c HTTP/1.1\r\nHost: stripe.invalid\r\n")
    assert (b"\r\nProxy-Authorization: Basic dXNAZXI6cDp3\r\n" in asked) == ("us%40er" in begin)


def test_a_proxy_of_the_environment_hears_of_a_secret_call_only_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with saying() as wire:
        monkeypatch.setenv("HTTPS_PROXY", wire.url.replace("http://", "http://us%40er:p%3Aw@"))
        with pytest.raises(AwayError, match="Stripe was not reached: no TLS comes about"):
            _line(30).call("GET", "https://stripe.invalid/a", {"Authorization": "Bearer c4nary"}, None, most=_MOST)
    assert wire.asked[0].startswith(b"CONNECT stripe.invalid:443 HTTP/1.")  # .0 by Python 3.11
    assert b"\r\nProxy-Authorization: Basic dXNAZXI6cDp3\r\n" in wire.asked[0]
    assert b"c4nary" not in b"".join(wire.asked)


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("x, 127.0.0.1", "127.0.0.1"),
        ("*", "127.0.0.1"),
        ("x,localhost", "localhost"),
        ("localhost:{port}", "localhost"),
        (".example.com", "stripe.example.com"),
        ("example.com", "stripe.example.com"),
    ],
)
def test_whoever_no_proxy_names_is_asked_straight(monkeypatch: pytest.MonkeyPatch, named: str, host: str) -> None:
    with saying() as wire:
        port = int(wire.url.rstrip("/").rpartition(":")[2])
        here = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
        monkeypatch.setattr(names, "_libc", lambda *_: here)
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
        monkeypatch.setenv("NO_PROXY", named.format(port=port))
        _ask(_line(30), f"http://{host}:{port}/")
    assert wire.asked[0].startswith(b"GET / ")


@pytest.mark.parametrize(
    ("named", "host"), [("ample.com", "example.com"), ("10.0.0.0/8,x/y", "127.0.0.2"), ("localhost:1", "localhost")]
)
def test_whoever_no_proxy_does_not_name_is_asked_by_the_proxy(
    monkeypatch: pytest.MonkeyPatch, named: str, host: str
) -> None:
    with saying() as wire:
        monkeypatch.setenv("HTTP_PROXY", wire.url)
        monkeypatch.setenv("NO_PROXY", named)
        _ask(_line(30), f"http://{host}/")
    assert wire.asked[0].startswith(f"GET http://{host}/ ".encode())


def test_a_request_says_who_asks_and_what_may_come_back() -> None:
    with saying() as wire:
        line = _line(30)
        line.call("get", f"{wire.url}a b/ü?x=%2F&y=a b#c", {}, None, most=_MOST)
        line.call("post", wire.url, {"User-Agent": "Stripe/v1", "Content-Type": "text/plain"}, "ü=b", most=_MOST)
        line.call("POST", wire.url.replace("//", "//us%40er:p%3Aw@"), {}, None, most=_MOST)
    host = wire.url.removeprefix("http://").rstrip("/")
    said = b"".join(wire.asked).decode().split("\r\n\r\n")
    usual = ["Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive"]
    assert [one.split("\r\n") for one in said] == [
        ["GET /a%20b/%C3%BC?x=%2F&y=a%20b HTTP/1.1", f"Host: {host}", "User-Agent: identity-events", *usual],
        [
            *("POST / HTTP/1.1", f"Host: {host}", "Content-Length: 4", "User-Agent: Stripe/v1", *usual),
            "Content-Type: text/plain",
        ],
        [
            *("ü=bPOST / HTTP/1.1", f"Host: {host}", "Content-Length: 0", "User-Agent: identity-events", *usual),
            "Authorization: Basic dXNAZXI6cDp3",
        ],
        [""],
    ]


@pytest.mark.parametrize(
    ("trusts", "host", "says"),
    [
        ("SSL_CERT_FILE", "localhost", None),
        ("the line", "localhost", None),
        ("nobody", "localhost", "its certificate is signed by nobody that we know"),
        ("SSL_CERT_FILE", "127.0.0.1", "its certificate is of another host"),
        ("the line", "127.0.0.1", "its certificate is of another host"),
    ],
)
def test_a_certificate_is_trusted_by_its_signer_and_its_host(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusts: str, host: str, says: str | None
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if trusts == "SSL_CERT_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    line = Line("Stripe", 30, str(certificate[0])) if trusts == "the line" else _line(30)
    with saying(tls=context) as wire:
        url = f"https://{host}:{wire.url.rstrip('/').rpartition(':')[2]}/"
        if says:
            with pytest.raises(AwayError, match=f"Stripe was not reached: {says}"):
                _ask(line, url)
        else:
            assert [_ask(line, url).body for _ in range(2)] == [b"{}"] * 2
            assert wire.connections == 1


def test_a_name_that_is_not_found_in_time_uses_up_the_calls_time(monkeypatch: pytest.MonkeyPatch) -> None:
    back = threading.Event()

    def look_up(*arguments: Any) -> list[Any]:
        if arguments[-1] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        back.wait(PATIENCE)
        return []

    monkeypatch.setattr(names, "_libc", look_up)
    try:
        with pytest.raises(AwayError, match="Stripe was not reached: its name was not found in time"):
            _ask(_line(), "https://stripe.example/")
    finally:
        back.set()
        wait_until(lambda: not names._waiting)
        names._asked.clear()


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with saying() as wire, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        addresses = (nobody.getsockname(), ("127.0.0.1", int(wire.url.rstrip("/").rpartition(":")[2])))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        monkeypatch.setattr(names, "_libc", lambda *_: found)
        assert _ask(_line(30), "http://stripe.example/").status == 200
        monkeypatch.setattr(names, "_libc", lambda *_: found[:1])
        with pytest.raises(AwayError, match="nobody listens there"):
            _ask(_line(30), "http://other.example/")


@pytest.mark.parametrize(
    "says",
    [
        lambda _: iter([OK + b"Content-Length: 1000\r\n\r\n"]),
        _dripping(OK + b"Content-Length: %d\r\n\r\n" % _FOREVER, b" " * _FOREVER),
        _flooding(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 10_000),
        lambda _: iter([OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}"]),
    ],
    ids=["silent", "dripping", "flooding", "nonsense"],
)
def test_a_body_that_nobody_wants_is_not_waited_for(says: Callable[[bytes], Iterator[bytes]]) -> None:
    with saying(says, pause=0.02) as wire:
        line = _line(30)
        assert [_ask(line, wire.url, only_pages=True) for _ in range(2)]
        assert wire.connections == 2


def test_a_body_that_nobody_wants_leaves_the_connection_for_the_next_call() -> None:
    def in_two(_: bytes) -> Iterator[bytes]:
        yield OK + b"Content-Length: 2\r\n\r\n"
        yield b"{}"

    with saying(in_two) as wire:
        line = _line(30)
        assert [_ask(line, wire.url, only_pages=True).body for _ in range(3)] == [b""] * 3
        assert wire.connections == 1


def test_what_fits_is_taken_and_the_connection_kept() -> None:
    with saying() as wire:
        line = _line(30)
        assert [_ask(line, wire.url).body for _ in range(3)] == [b"{}"] * 3
        assert wire.connections == 1


def test_a_kept_connection_that_the_other_side_has_closed_is_made_anew() -> None:
    def last(_: bytes) -> Iterator[bytes]:
        yield OK + b"Content-Length: 2\r\n\r\n{}"
        raise ConnectionError  # the server closes

    with saying(last) as wire:
        line = _line(30)
        for number in range(1, 4):
            assert _ask(line, wire.url).body == b"{}"
            assert wire.connections == number
            wait_until(lambda: wire.closed == number)  # noqa: B023  # now


def test_half_an_answer_is_none() -> None:
    def half(_: bytes) -> Iterator[bytes]:
        yield OK + b"Content-Length: 10\r\n\r\n{}"
        raise ConnectionError

    with saying(half) as wire, pytest.raises(UnreadableError, match="Stripe's answer broke off"):
        _ask(_line(30), wire.url)


def test_what_comes_before_an_answer_is_passed_over_and_no_call_gets_the_answer_to_another() -> None:
    def says(request: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 102 Processing\r\n\r\n"
        yield b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        yield OK + _as_body(request.split()[1])

    with saying(says, pause=0.05) as wire:
        line = _line(PATIENCE)
        for path in (b"/a", b"/b"):
            answer = _ask(line, wire.url.rstrip("/") + path.decode())
            assert (answer.status, answer.body) == (200, path)
        assert wire.connections == 1


def test_another_protocol_that_nobody_asked_for_is_no_answer() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"
    with saying(lambda _: iter([switched])) as wire, pytest.raises(AwayError, match="Stripe was not reached"):
        _ask(_line(PATIENCE), wire.url)


def test_an_answer_that_breaks_the_library_is_none() -> None:
    says = OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}"
    with saying(lambda _: iter([says])) as wire, pytest.raises(UnreadableError):
        _ask(_line(), wire.url)


def test_no_cookie_is_sent_back() -> None:
    with saying(lambda _: iter([OK + b"Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}"])) as wire:
        line = _line(30)
        for _ in range(2):
            _ask(line, wire.url)
        assert b"a=b" not in wire.asked[1]


@pytest.mark.parametrize("status", [429, 503])
def test_whoever_wants_quiet_is_asked_nothing_by_the_whole_process(status: int) -> None:
    says = b"HTTP/1.1 %d No\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n" % status
    with saying(lambda _: iter([says])) as wire:
        line = _line(30)
        for _ in range(5):
            with pytest.raises(AwayError, match=f"Stripe answered {status}") as quiet:
                _ask(line, wire.url)
            assert 25 < quiet.value.again_after <= 30
        assert len(wire.asked) == 1
        _ask_of_another(wire.url)
        assert len(wire.asked) == 2


def test_a_limit_in_anothers_name_is_that_ones_alone_until_a_second_one_has_it() -> None:
    asked: list[str] = []

    def ask(name: str) -> None:
        with suppress(AwayError):
            line.call("GET", wire.url, {}, None, most=100, in_name_of=name)
            asked.append(name)

    with saying(lambda _: iter([b"HTTP/1.1 429 No\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"])) as wire:
        line = _line(30)
        ask("acct_1")
        wire.says = lambda _: iter([OK + b"Content-Length: 2\r\n\r\n{}"])
        for name in ("acct_1", "acct_2", ""):
            ask(name)
        assert asked == ["acct_2", ""]
        wire.says = lambda _: iter([b"HTTP/1.1 429 No\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"])
        ask("acct_3")
        wire.says = lambda _: iter([OK + b"Content-Length: 2\r\n\r\n{}"])
        for name in ("acct_1", "acct_2", ""):
            ask(name)
        assert asked == ["acct_2", ""]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("length", [10, 10_000_000])
def test_a_limit_holds_whatever_its_words(length: int, status: int) -> None:
    def broken(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 %d No\r\nRetry-After: 30, 60\r\nContent-Length: %d\r\n\r\n{}" % (status, length)
        raise ConnectionError

    with saying(broken) as wire:
        line = _line(30)
        for _ in range(3):
            with pytest.raises(AwayError) as quiet:
                _ask(line, wire.url)
            assert 25 < quiet.value.again_after <= 30
        assert len(wire.asked) == 1


def _ask_of_another(url: str) -> None:
    with pytest.raises(AwayError):
        _ask(Line("the application", 30), url)


def test_a_limit_that_says_nothing_is_guessed_and_each_time_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    limit = b"HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n"
    with saying(lambda _: iter([limit])) as wire:
        line = _line(30)
        assert [_quiet_wanted(line, wire.url) for _ in range(8)] == [2, 4, 8, 16, 32, 60, 60, 60]
        wire.says = lambda _: iter([OK + b"Content-Length: 2\r\n\r\n{}"])
        _ask(line, wire.url)
        wire.says = lambda _: iter([limit])
        assert _quiet_wanted(line, wire.url) == 2


def _quiet_wanted(line: Line, url: str) -> float:
    """The quiet after a call; its time then passes at once."""
    with pytest.raises(AwayError) as quiet:
        _ask(line, url)
    line._quiet.until = 0.0
    return quiet.value.again_after


_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("0", None),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("86400", 3600),
        ("9" * 500, 3600),
        (format_datetime(_AT + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(_AT - timedelta(seconds=90), usegmt=True), None),
        ("Fri, 31 Dec 9999 23:59:59 -0000", 3600),
        ("Mon, 01 Jan 0001 00:00:00 +1200", None),
    ],
)
def test_how_long_quiet_is_asked_for(text: str, seconds: float | None) -> None:
    dated = format_datetime(_AT, usegmt=True)  # the time of their clock, from which they count
    assert asked_pause({"Retry-After": text, "Date": dated}) == seconds
