"""A server that sends any bytes that a test wants, and keeps the requests."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass
class Wire:
    """The answer to each request, in pieces with `pause` seconds between two."""

    says: Callable[[bytes], Iterator[bytes]] = lambda _: iter([OK + b"Content-Length: 2\r\n\r\n{}"])
    pause: float = 0.0
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: int = 0
    url: str = ""
    tls: ssl.SSLContext | None = None
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def saying(
    says: Callable[[bytes], Iterator[bytes]] | None = None, pause: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[Wire]:
    """Listens until the block ends."""
    wire = Wire(pause=pause, tls=tls)
    if says:
        wire.says = says
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire.url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        threads = [threading.Thread(target=_accept, args=(server, wire))]
        threads[0].start()
        try:
            yield wire
        finally:
            wire.ended.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            threads[0].join()


def _accept(server: socket.socket, wire: Wire) -> None:
    threads = []
    with suppress(OSError):
        while True:
            one, _ = server.accept()
            wire.connections += 1
            threads.append(threading.Thread(target=_talk, args=(one, wire)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _talk(plain: socket.socket, wire: Wire) -> None:
    try:
        with (
            suppress(ssl.SSLError, ConnectionError),
            wire.tls.wrap_socket(plain, server_side=True) if wire.tls else plain as one,
        ):
            _answer(one, wire)
    finally:
        wire.closed += 1


def _answer(one: socket.socket, wire: Wire) -> None:
    one.settimeout(0.05)
    while not wire.ended.is_set():
        with suppress(TimeoutError):
            request = one.recv(65536)
            if not request:
                return
            wire.asked.append(request)
            one.settimeout(5)
            for piece in wire.says(request):
                one.sendall(piece)
                if wire.ended.wait(wire.pause):
                    return
            one.settimeout(0.05)
