"""What anybody can do before a signature is looked at, over real sockets and against a real process."""

import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from receiver import connections
from receiver.webhooks import delivery
from tests.support import databases, facts, shapes
from tests.support.processes import Service, service
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory in /proc")

MOST_MEMORY = 150 * 1024  # KiB
SECRET = shapes.SECRET


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The web process alone, for all tests: none of them may harm the next."""
    folder = tmp_path_factory.mktemp("web")
    with databases.fresh_database(folder) as url, service(folder, url) as running:
        running.start("web")
        yield running


@pytest.fixture(autouse=True)
def _delivers_afterwards(web: Service) -> Iterator[None]:
    yield
    _deliver(web)
    assert _memory(web) < MOST_MEMORY


def _pid(web: Service) -> int:
    return web._processes["web"].pid


def _memory(web: Service) -> int:
    """The most that was resident, KiB."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{_pid(web)}/status").read_text())[0])


_numbers = iter(range(10**9))


def _deliver(web: Service) -> None:
    assert web.deliver(facts.payload("verified", session_id=f"vs_{next(_numbers)}")) == "accepted"


def _connected(web: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=20)


def _send(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """How many bytes were taken before the other side closed."""
    sent = 0
    with suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def _answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    answer = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


POST = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n"


def _plausible() -> bytes:
    return b"Stripe-Signature: t=%d,v1=%s\r\n" % (time.time(), b"0" * 64)


def _repeated(piece: bytes, total: int) -> Iterator[bytes]:
    yield from (piece for _ in range(total // len(piece)))


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "many header lines": (POST, b"X-Header: y\r\n" * 5000),
    "header lines of a letter": (POST, b"a:\r\n" * 16000),
    "one header": (POST + b"X: ", b"y" * 65536),
    "one name": (POST, b"y" * 65536),
    "one path": (b"GET /", b"y" * 65536),
    "one method": (b"", b"G" * 65536),
    "empty lines": (b"", b"\r\n" * 32768),
    "a trailer": (POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Header: y\r\n" * 5000),
    "one trailer": (POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y" * 65536),
    "a chunk's extension": (POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n1;", b"y" * 65536),
    "chunks of one byte": (POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10000),
    "a chunked body": (
        POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"x" * 65536 + b"\r\n",
    ),
    "an unsigned body": (POST + b"Content-Length: 9999999999\r\n\r\n", b"x" * 65536),
    "a body for another path": (
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
        b"x" * 65536,
    ),
    "requests in a row": (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3000),
    "unsigned deliveries in a row": (b"", (POST + b"Content-Length: 1\r\n\r\nx") * 2000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_connection_that_sends_without_end_is_ended_and_no_memory_is_lost_over_it(web: Service, kind: str) -> None:
    head, piece = FLOODS[kind]
    with _connected(web) as connection:
        connection.sendall(head)
        assert _send(connection, _repeated(piece, 300_000_000)) < 100_000_000


@contextmanager
def _many(web: Service, number: int, said: Callable[[], bytes]) -> Iterator[list[socket.socket]]:
    """So many connections, each of which says this and then nothing."""

    def say(_: int) -> socket.socket:
        connection = _connected(web)
        with suppress(OSError):
            connection.sendall(said())
        return connection

    with ExitStack() as open_, ThreadPoolExecutor(32) as pool:
        yield [open_.enter_context(connection) for connection in pool.map(say, range(number))]


CROWDS: dict[str, Callable[[], bytes]] = {
    "silent": lambda: b"",
    "half a head": lambda: POST + b"X: " + b"y" * 30_000,
    "half a head of many lines": lambda: POST + b"a: b\r\n" * 90,
    "a whole chunk of half a head": lambda: POST + b"X: " + b"y" * 250_000,
    "an unsigned body": lambda: POST + b"Content-Length: 1048576\r\n\r\n" + b"x" * 1_048_575,
    "a body that seems signed": lambda: POST + _plausible() + b"Content-Length: 524288\r\n\r\n" + b"x" * 524_287,
    "a whole body that is not signed": lambda: POST + _plausible() + b"Content-Length: 524288\r\n\r\n" + b"x" * 524_288,
    "a chunked body": lambda: (
        POST + _plausible() + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 120
    ),
    "an unread answer": lambda: b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    "a large request behind another": lambda: (
        b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\nPOST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 262144\r\n\r\n"
        + b"x" * 262_144
    ),
    "Expect": lambda: POST + _plausible() + b"Content-Length: 400000\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.parametrize("kind", CROWDS)
def test_six_hundred_connections_take_no_memory_and_no_delivery_from_us(web: Service, kind: str) -> None:
    with _many(web, 600, CROWDS[kind]):
        for _ in range(5):
            _deliver(web)


@pytest.mark.parametrize("kind", ["silent", "half a head of many lines", "a body that seems signed", "idle"])
def test_with_few_files_a_crowd_makes_room_for_deliveries(web: Service, kind: str) -> None:
    said = {**CROWDS, "idle": lambda: b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"}[kind]
    before = resource.prlimit(_pid(web), resource.RLIMIT_NOFILE)
    resource.prlimit(_pid(web), resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        with _many(web, 300, said) as crowd:
            for _ in range(5):
                _deliver(web)
            assert len(list(Path(f"/proc/{_pid(web)}/fd").iterdir())) < 100
            first, last = crowd[0], crowd[-1]
            assert first.recv(65536) is not None  # closed
            del last
    finally:
        resource.prlimit(_pid(web), resource.RLIMIT_NOFILE, before)


def test_more_connections_than_are_let_in_take_turns(web: Service) -> None:
    with _many(web, connections.MOST + 200, lambda: b""):
        for _ in range(5):
            _deliver(web)
        assert len(list(Path(f"/proc/{_pid(web)}/fd").iterdir())) < connections.MOST + 100


@pytest.fixture
def port(database_url: str, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A receiver in this process, with little patience."""
    assert database_url
    environment.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    environment.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    databases.forget_process_state()
    for name in ("_LOOK_SECONDS", "HEAD_SECONDS", "BODY_SECONDS", "ANSWER_SECONDS", "KEEP_ALIVE", "_FAREWELL_SECONDS"):
        monkeypatch.setattr(connections, name, 0.1 if name == "_LOOK_SECONDS" else 1.0)
    with running_receiver() as port:
        yield port


def _ended_by_itself(port: int, said: bytes, then: bytes = b"") -> bytes:
    """What is answered to who says this, and then this again and again, slowly, until the connection is closed."""
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


def test_who_says_nothing_is_let_go(port: int) -> None:
    assert _ended_by_itself(port, b"") == b""


@pytest.mark.parametrize(("said", "then"), [(POST, b"X: y\r\n"), (POST[:10], b"y"), (b"", b"\r\n")])
def test_a_head_has_its_time_however_it_drips(port: int, said: bytes, then: bytes) -> None:
    assert _ended_by_itself(port, said, then)[:12] in (b"HTTP/1.1 408", b"")


@pytest.mark.parametrize("path", [b"/webhooks/stripe", b"/healthz"])
def test_a_body_has_its_time_however_it_drips(port: int, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + _plausible() + b"Content-Length: 300000\r\n\r\n"
    assert _ended_by_itself(port, head, b"x")[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 405")


def test_an_idle_connection_is_let_go_after_its_answer(port: int) -> None:
    assert _ended_by_itself(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_an_idle_connection_that_goes_on_with_half_a_request_is_let_go(port: int) -> None:
    answer = _ended_by_itself(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /", b"x")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_whoever_does_not_read_is_let_go(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

        def is_closed() -> bool:
            try:
                connection.sendall(ask)
            except OSError:
                return True
            return False

        wait_until(is_closed)


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
    for payload in events:  # the second behind the first
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
        answer = _answer(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b'"outcome":"accepted"') == 2
    assert b"101" not in answer.split(b"\r\n\r\n")[0]
    assert [len(facts.event_rows(f"vs_{number}")) for number in range(2)] == [1, 1]


@pytest.mark.parametrize("method", [b"CONNECT x:1", b"CONNECT /webhooks/stripe"])
def test_a_tunnel_is_refused(port: int, method: bytes) -> None:
    said = method + b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert _ended_by_itself(port, said).startswith(b"HTTP/1.1 400")


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
    port: int, header: bytes, status: bytes
) -> None:
    answer = _ended_by_itself(port, POST + header + b"Content-Length: 100\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"100 Continue" not in answer


def test_a_space_before_an_old_time_and_a_young_one_behind_it_fool_nobody(port: int) -> None:
    body = shapes.as_body(facts.payload("verified"))
    old = int(time.time()) - 3600
    header = f"t= {old},v1={shapes.digest(body, SECRET, old)},t={int(time.time())}".encode()
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
