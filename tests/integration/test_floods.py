"""Floods before the signature take neither web's memory nor its deliveries: a real process."""

import re
import resource
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn

from receiver import connections
from receiver.__main__ import SERVER_OPTIONS, application
from tests.support import databases, facts, shapes
from tests.support.processes import Service, service
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory in /proc")

MOST_MEMORY = 150 * 1024  # KiB, on every Python that is promised


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One web process for all tests: none of them may harm the next."""
    folder = tmp_path_factory.mktemp("web")
    rooms = {"API_TOKENS": f"shop:{'a' * 32}", "STRIPE_API_KEY": "sk_test_1", "LINK_KEYS": "k" * 32}
    rooms |= {"CONSOLE_USERS": f"anna:look:{'-' * 64}", "CONSOLE_KEYS": "k" * 32}
    with databases.fresh_database(folder) as url, service(folder, url, **rooms) as running:
        running.start("web")
        for path in ("/verify/x", "/console", "/openapi.json", "/metrics", "/health/backlog"):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{running.port}{path}").close()
            except urllib.error.HTTPError as refused:
                refused.close()
        yield running


@pytest.fixture(autouse=True)
def _delivers_afterwards(web: Service) -> Iterator[None]:
    yield
    _deliver(web)
    assert _memory(web) < MOST_MEMORY


def _pid(web: Service) -> int:
    return web._processes["web"].pid


def _memory(web: Service) -> int:
    """The most resident memory so far, in KiB."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{_pid(web)}/status").read_text())[0])


_numbers = iter(range(10**9))


def _deliver(web: Service) -> None:
    assert web.deliver(facts.payload("verified", session_id=f"vs_{next(_numbers)}")) == "accepted"


def _connected(web: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=PATIENCE)


def _send(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """The number of bytes taken before the other side closed."""
    sent = 0
    with suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    return sent


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
    "half a body behind many lines": lambda: (
        POST + _plausible() + b"a:\r\n" * 95 + b"Content-Length: 8000\r\n\r\n" + b"x" * 7000
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
        with _many(web, 300, said):
            for _ in range(5):
                _deliver(web)
            assert len(list(Path(f"/proc/{_pid(web)}/fd").iterdir())) < 100
    finally:
        resource.prlimit(_pid(web), resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("kind", ["silent", "half a body behind many lines"])
def test_more_connections_than_are_let_in_take_turns(web: Service, kind: str) -> None:
    with _many(web, connections.MOST_CONNECTIONS + 200, CROWDS[kind]):
        for _ in range(5):
            _deliver(web)
        assert len(list(Path(f"/proc/{_pid(web)}/fd").iterdir())) < connections.MOST_CONNECTIONS + 100


def test_half_heads_push_out_no_body_that_is_on_its_way(web: Service) -> None:
    body = shapes.as_body(facts.payload("verified", session_id=f"vs_{next(_numbers)}"))
    head = POST + b"Stripe-Signature: %s\r\nContent-Length: %d\r\n\r\n" % (shapes.signature(body).encode(), len(body))

    def half() -> bytes:
        return POST + b"X: " + b"y" * 15_500

    with _many(web, 600, half), _connected(web) as connection:
        connection.sendall(head)
        time.sleep(0.1)
        with _many(web, 10, half):
            time.sleep(0.1)
            connection.sendall(body)
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_empty_lines_push_out_no_head_that_is_on_its_way(web: Service) -> None:
    with _connected(web) as first, _connected(web) as second:
        first.sendall(b"GET /healthz HTTP/1.1\r\n")
        time.sleep(0.1)
        _send(second, _repeated(b"\r\n" * 2048, 12_000_000))
        first.sendall(b"Host: x\r\n\r\n")
        assert first.recv(12) == b"HTTP/1.1 200"


@contextmanager
def _with_small_buffers() -> Iterator[tuple[int, connections.Connections]]:
    """Web in this process, on connections for which the kernel keeps no answer, as with a far client; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = uvicorn.Server(uvicorn.Config(application, factory=True, **SERVER_OPTIONS))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, str)
        yield listener.getsockname()[1], server.lifespan.state["connections"]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _who_reads_nothing(port: int, all_: connections.Connections) -> tuple[socket.socket, connections.Connection]:
    """A client that asks until no more answers are written for it, and its connection."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", port))
    wait_until(lambda: any(one.client == client.getsockname() for one in [*all_.silent]))
    one = next(one for one in all_.silent if one.client == client.getsockname())
    asked = one.server_state.total_requests
    while not one.flow.write_paused:
        client.sendall(ASK + b"\r\n")
        asked += 1
        wait_until(lambda: one.flow.write_paused or one.server_state.total_requests == asked)  # noqa: B023  # now
    return client, one


ASK = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.usefixtures("database_url")
def test_whoever_reads_no_answer_makes_room_for_deliveries(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(connections, "MOST_CONNECTIONS", 20)
    environment.setattr(connections, "_AT_ONCE", 0.0)
    with _with_small_buffers() as (port, all_), ExitStack() as open_:
        for _ in range(connections.MOST_CONNECTIONS):
            open_.enter_context(_who_reads_nothing(port, all_)[0])
        for _ in range(5):
            body = shapes.as_body(facts.payload("verified", session_id=f"vs_{next(_numbers)}"))
            request = urllib.request.Request(f"http://127.0.0.1:{port}/webhooks/stripe", body)
            request.add_header("Stripe-Signature", shapes.signature(body))
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert answer.status == 200


@pytest.mark.usefixtures("database_url")
def test_a_body_that_is_not_whole_is_its_connections_alone_so_that_the_end_of_that_frees_it() -> None:
    with _with_small_buffers() as (port, all_), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(POST + _plausible() + b"Content-Length: 300000\r\n\r\n" + b"x" * 200_000)
        wait_until(lambda: any(one.unfinished > 200_000 for one in [*all_.sending]))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE):
            pass  # so that each handler has had its turn
        (one,) = all_.sending
        assert len(one.cycle.body) == 200_000


@pytest.mark.usefixtures("database_url")
def test_the_heads_behind_unread_answers_leave_web_below_its_bound_however_many_lines_they_have() -> None:
    with _with_small_buffers() as (port, all_), ExitStack() as open_:
        client, one = _who_reads_nothing(port, all_)
        open_.enter_context(client)
        client.sendall((ASK + b"a:\r\n" * (connections.HEADERS - 1) + b"\r\n") * connections.PIPELINED)
        wait_until(lambda: len(one.pipeline) >= connections.PIPELINED - 1)  # the first may be in work
        cycles = [one.cycle, one._in_work, *(cycle for cycle, _ in one.pipeline)]
        heads = {id(cycle): cycle.scope["headers"] for cycle in cycles if cycle}
        lines = [line for head in heads.values() for line in head]
        held = sum(sys.getsizeof(part) for line in lines for part in (line, *line))
        wait_until(lambda: one.unfinished >= held)  # counted, so that all of them together are bounded
    assert len(lines) >= connections.HEADERS * connections.PIPELINED
    assert held * connections.MOST_CONNECTIONS < 40_000_000  # web itself has 110
