"""Deliveries accepted a second while hundreds of openings wait for a slow Stripe."""

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.bench import load, store
from tests.bench.beside import CONNECTIONS, add, in_turn
from tests.bench.report import Report
from tests.bench.servers import House, answers
from tests.simulator.client import Simulator

_EACH = 300  # openings of as many verifications, and as many of a single one
# Seconds until Stripe answers: no answer comes while deliveries are counted; or some come, and each makes work.
_ALL_WAIT, _SOME_COME = 10.0, 2.0
_TOKEN = "t" * 32


def openings(
    report: Report, house: House, database: str, *, rounds: int, seconds: float, some_come: bool = True
) -> None:
    """Measures in turn without openings and with them."""
    _beside(report, house, database, _ALL_WAIT, rounds, seconds, target=0.95)
    if some_come:
        _beside(report, house, database, _SOME_COME, rounds, seconds)


def _beside(
    report: Report,
    house: House,
    database: str,
    delay: float,
    rounds: int,
    seconds: float,
    *,
    target: float | None = None,
) -> None:
    with Simulator.start() as stripe:
        stripe.fault(count=None, delay=delay, path="verification_sessions")
        given = {"STRIPE_API_BASE": stripe.base, "STRIPE_API_KEY": stripe.api_key, "API_TOKENS": f"bench:{_TOKEN}"}

        def measure(number: int, is_there: bool) -> tuple[float, int]:
            tag = f"O{delay:.0f}{number}{'y' if is_there else 'n'}"
            return _accepted(house, database, given, tag, seconds, _EACH if is_there else 0)

        found = in_turn(rounds, measure)
    report.keep(f"openings, {delay:.0f} s", found)
    add(report, f"{2 * _EACH} openings, {min(found['seen']):.0f} of which wait to the end", found, target)


def _accepted(
    house: House, database: str, given: Mapping[str, str], tag: str, seconds: float, each: int
) -> tuple[float, int]:
    """The deliveries a second of a web process of its own, and the number of openings that still wait after them."""
    store.empty(database)
    house.broker.flushall()
    with house.web(database, **given) as (port, web):
        load.post(port, load.write(house.folder / "requests", f"{tag}w", 20_000), CONNECTIONS, 1.0)
        requests = load.write(house.folder / "requests", f"{tag}x", int(15_000 * seconds))
        with _waiting(port, web.popen.pid, tag, each) as clients:
            rate = load.post(port, requests, CONNECTIONS, seconds).rate
            answered, _, _ = select.select(clients, (), (), 0)
        web.popen.kill()  # else it would first do the work that its clients have left
    return rate, len(clients) - len(answered)


@contextmanager
def _waiting(port: int, process: int, tag: str, each: int) -> Iterator[list[socket.socket]]:
    """Clients whose requests the process has taken in before the count begins: taking them in is no waiting."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * each)]
    for number, client in enumerate(clients):
        reference = f"{tag}{number}" if number < each else tag
        body = json.dumps({"client_reference_id": reference, "type": "document", "integration": "redirect"})
        head = (
            f"POST /verifications HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {_TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(f"{head}{body}".encode())
    while not answers(port, "/healthz") or _is_busy(process):
        pass
    yield clients
    for client in clients:
        client.close()


def _is_busy(process: int) -> bool:
    """Whether the process uses more than a tenth of a processor."""
    before = _ticks(process)
    time.sleep(0.2)
    return _ticks(process) - before > 2


def _ticks(process: int) -> int:
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(times[11]) + int(times[12])  # hundredths of a second of its own, and of the kernel for it
