"""The bounds of requests before their signature is checked, and the answers beyond them, over real sockets."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from receiver import connections
from receiver.webhooks import delivery
from tests.support import databases, facts, shapes
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until

POST = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n"

ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = ASK.replace(b"Host: x", b"Host: x\r\nConnection: close")


def _plausible() -> bytes:
    return b"Stripe-Signature: t=%d,v1=%s\r\n" % (time.time(), b"0" * 64)


def _answer(connection: socket.socket) -> bytes:
    """All bytes until the other side closes."""
    answer = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.fixture
def port(database_url: str, environment: pytest.MonkeyPatch) -> Iterator[int]:
    """Runs a receiver in this process; its port."""
    assert database_url
    environment.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)
    environment.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    databases.forget_process_state()
    with running_receiver() as port:
        yield port


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.1)
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "ANSWER_SECONDS", "KEEP_ALIVE", "_FAREWELL_SECONDS"):
        monkeypatch.setattr(connections, name, 1.0)


@pytest.fixture
def hasty_port(_hasty: None, port: int) -> int:
    """The port of the same receiver with little patience."""
    return port


def _ended_by_itself(port: int, said: bytes, then: bytes = b"") -> bytes:
    """The answer to these bytes, followed by `then` again and again, slowly, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        closed = threading.Event()

        def go_on() -> None:
            with suppress(OSError):
                connection.sendall(said)
                while then and not closed.wait(0.05):
                    connection.sendall(then)

        sender = threading.Thread(target=go_on)
        sender.start()
        answer = _answer(connection)
        closed.set()
        sender.join()
    return answer


def test_who_says_nothing_is_let_go(hasty_port: int) -> None:
    assert _ended_by_itself(hasty_port, b"") == b""


@pytest.mark.parametrize(("said", "then"), [(POST, b"X: y\r\n"), (POST[:10], b"y"), (b"", b"\r\n")])
def test_a_head_has_its_time_however_it_drips(hasty_port: int, said: bytes, then: bytes) -> None:
    assert _ended_by_itself(hasty_port, said, then)[:12] in (b"HTTP/1.1 408", b"")


@pytest.mark.parametrize("path", [b"/webhooks/stripe", b"/healthz"])
def test_a_body_has_its_time_however_it_drips(hasty_port: int, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + _plausible() + b"Content-Length: 300000\r\n\r\n"
    assert _ended_by_itself(hasty_port, head, b"x")[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 405")


def test_an_idle_connection_is_let_go_after_its_answer(hasty_port: int) -> None:
    assert _ended_by_itself(hasty_port, ASK).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_that_goes_on_with_half_a_request_is_let_go(hasty_port: int) -> None:
    answer = _ended_by_itself(hasty_port, ASK + b"GET /", b"x")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_whoever_does_not_read_is_let_go(hasty_port: int) -> None:
    with socket.create_connection(("127.0.0.1", hasty_port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def is_closed() -> bool:
            try:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            except OSError:
                return True
            return False

        wait_until(is_closed)


def test_where_all_together_have_sent_too_much_the_oldest_goes(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNFINISHED_BYTES", 270_000)
    half = POST + _plausible() + b"Content-Length: 150000\r\n\r\n" + b"x" * 100_000
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as oldest,
        socket.create_connection(("127.0.0.1", port), timeout=20) as second,
    ):
        for connection in (oldest, second):
            connection.sendall(half)
            assert _ended_by_itself(port, LAST)  # the receiver has read all earlier bytes by then
        with socket.create_connection(("127.0.0.1", port), timeout=20) as third:
            third.sendall(half)
            assert _answer(oldest).startswith(b"HTTP/1.1 503")
        body = shapes.as_body(facts.payload("verified"))
        second.sendall(b"x" * 50_000 + _signed(body, b"Connection: close", b"Content-Length: %d" % len(body)) + body)
        answer = _answer(second)
        assert (answer[:12], answer.count(b'"accepted"')) == (b"HTTP/1.1 400", 1)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 3600.0)


@pytest.mark.usefixtures("_patient")
def test_where_too_many_are_connected_who_says_nothing_goes_first(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "_AT_ONCE", -1.0)
    with ExitStack() as open_:
        idle, silent, other = (
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(3)
        )
        for connection in (idle, other):
            connection.sendall(ASK)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as newcomer:
            newcomer.sendall(ASK)
            assert newcomer.recv(4096).startswith(b"HTTP/1.1 200")
            assert silent.recv(4096) == b""
            other.sendall(ASK)
            assert other.recv(4096).startswith(b"HTTP/1.1 200")


def _signed(body: bytes, *headers: bytes) -> bytes:
    signature = b"Stripe-Signature: " + shapes.signature(body).encode()
    return POST + b"\r\n".join((signature, *headers)) + b"\r\n\r\n"


UPGRADES = {
    "h2c": [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
    "websocket": [b"Upgrade: websocket", b"Connection: upgrade"],
    "several": [b"Upgrade: h2c, foo/2", b"upgrade: bar", b"Connection: keep-alive, Upgrade"],
    "TLS": [b"Connection: Upgrade", b"Upgrade: TLS/1.2"],
}


@pytest.mark.parametrize("offer", UPGRADES)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_offer_to_upgrade_is_ignored_and_its_request_is_not(port: int, offer: str, chunked: bool, size: int) -> None:
    """RFC 9110, 7.8. Java's HttpClient makes one with each first request."""
    events = [facts.payload("verified", session_id=f"vs_{number}") for number in range(2)]
    raw = b""
    for payload in events:  # the second request behind the first
        body = shapes.as_body(payload)
        if chunked:
            raw += _signed(body, *UPGRADES[offer], b"Transfer-Encoding: chunked")
            raw += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            raw += _signed(body, *UPGRADES[offer], b"Content-Length: %d" % len(body)) + body
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(raw), size):
            connection.sendall(raw[start : start + size])
        answer = b""
        while answer.count(b'"outcome"') < 2:
            answer += connection.recv(65536)
            assert answer
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b'"outcome":"accepted"') == 2
    assert b"101" not in answer.split(b"\r\n\r\n")[0]
    assert [len(facts.event_rows(f"vs_{number}")) for number in range(2)] == [1, 1]


@pytest.mark.parametrize("method", [b"CONNECT x:1", b"CONNECT /webhooks/stripe"])
def test_a_tunnel_is_refused(port: int, method: bytes) -> None:
    said = method + b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert _ended_by_itself(port, said).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("target", [b"http://x", b"http://x?y=z", b"https://[::1]"])
def test_a_target_without_a_path_is_refused_as_any_other_that_cannot_be_read(
    port: int, target: bytes, is_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        if not is_first:
            connection.sendall(ASK)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert _answer(connection).startswith(b"HTTP/1.1 400")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("offer", [b"Connection: close", b"Connection: close, Upgrade\r\nUpgrade: h2c"])
def test_what_comes_behind_the_last_request_takes_nothing_of_it(port: int, offer: bytes) -> None:
    body = shapes.as_body(facts.payload("verified"))
    raw = _signed(body, offer, b"Content-Length: %d" % len(body)) + body + ASK
    assert b'"outcome":"accepted"' in _ended_by_itself(port, raw)


def test_a_slash_at_the_end_makes_no_difference(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    raw = _signed(body, b"Connection: close", b"Content-Length: %d" % len(body)).replace(b"/stripe ", b"/stripe/ ")
    assert b'"outcome":"accepted"' in _ended_by_itself(port, raw + body)
    for path, status in ((b"/healthz/", b"200"), (b"/healthz//", b"404"), (b"/", b"404"), (b"//evil/", b"404")):
        answer = _ended_by_itself(port, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"", b"400"),
        (b"Stripe-Signature: t=1,v1=00\r\n", b"400"),
        (b"Stripe-Signature: v1=00\r\n", b"400"),
        (b"Stripe-Signature: t=9999999999999999999999,v1=00\r\n", b"400"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_before_its_body_is_sent(
    hasty_port: int, header: bytes, status: bytes
) -> None:
    answer = _ended_by_itself(hasty_port, POST + header + b"Content-Length: 100\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing more, when the body has not come in time


def test_spaces_around_a_signature_are_no_part_of_it(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    head = POST + b"Stripe-Signature:\t %s \t\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    assert b'"accepted"' in _ended_by_itself(port, head % (shapes.signature(body).encode(), len(body)) + body)


def test_a_space_before_an_old_time_and_a_young_one_behind_it_fool_nobody(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    old = int(time.time()) - 3600
    header = f"t= {old},v1={shapes.digest(body, shapes.SECRET, old)},t={int(time.time())}".encode()
    said = POST + b"Stripe-Signature: " + header + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    assert _ended_by_itself(port, said + body).startswith(b"HTTP/1.1 400")


def test_who_asks_whether_to_go_on_is_told_so_only_where_it_is_worth_it(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    asking = [b"Expect: 100-continue", b"Connection: close", b"Content-Length: %d" % len(body)]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(_signed(body, *asking))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b'"accepted"' in _answer(connection)
    refused = _ended_by_itself(port, POST + b"\r\n".join(asking) + b"\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 400")


def test_a_refused_request_whose_body_comes_all_the_same_spoils_the_next_one_not(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        connection.sendall(b"x" * 100_000)
        connection.sendall(_signed(body, b"Connection: close", b"Content-Length: %d" % len(body)) + body)
        assert b'"accepted"' in _answer(connection)


def test_a_body_of_zeros_in_its_length_is_no_fault_of_ours(port: int) -> None:
    said = POST + _plausible() + b"Content-Length: " + b"0" * 5000 + b"5\r\nConnection: close\r\n\r\nhello"
    assert _ended_by_itself(port, said)[9:12] in (b"400", b"413")


def test_what_comes_behind_a_body_adds_nothing_to_its_head(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\nStripe-Signature: %s\r\n\r\n"
    trailers = b"Stripe-Signature: t=1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head % shapes.signature(body).encode() + b"%x\r\n%s\r\n0\r\n" % (len(body), body) + trailers)
        assert _answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("lines", [connections.HEADERS - 5, connections.HEADERS + 5])
def test_header_lines_are_counted(port: int, lines: int) -> None:
    said = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"a: b\r\n" * (lines - 2) + b"\r\n"
    assert _ended_by_itself(port, said)[9:12] == (b"200" if lines < connections.HEADERS else b"431")


@pytest.mark.parametrize("size", [connections.HEAD_BYTES - 100, connections.HEAD_BYTES + 100])
def test_header_bytes_are_counted(port: int, size: int) -> None:
    said = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"y" * (size - 55) + b"\r\n\r\n"
    assert _ended_by_itself(port, said)[9:12] == (b"200" if size < connections.HEAD_BYTES else b"431")


def test_a_body_behind_a_long_pipeline_is_read(port: int) -> None:
    body = shapes.as_body({**facts.payload("verified"), "padding": "x" * (delivery.MAX_BODY_BYTES - 5000)})
    raw = _signed(body, b"Content-Length: %d" % len(body)) + body
    raw += b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"
    answer = _ended_by_itself(port, raw)
    assert b'"accepted"' in answer
    assert answer.count(b"HTTP/1.1 200") == 2
