"""Deliveries accepted a second while hundreds of openings wait for a Stripe that takes its time."""

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench import load, store
from tests.bench.report import Report
from tests.bench.servers import House, answers
from tests.simulator.client import Simulator

_CONNECTIONS = 64
_EACH = 300  # openings of as many verifications, and as many of a single one
# For an answer of Stripe's: none comes while deliveries are counted; or some do, and each has work of its own to do.
_ALL_WAIT, _SOME_COME = 10.0, 2.0
_TOKEN = "t" * 32


def openings(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """Interleaved: in each round without them and with them, or the other way round."""
    for delay, target in ((_ALL_WAIT, 0.95), (_SOME_COME, None)):
        beside, without, waited = [], [], []
        with Simulator.start() as stripe:
            stripe.fault(count=None, delay=delay, path="verification_sessions")
            given = {"STRIPE_API_BASE": stripe.base, "STRIPE_API_KEY": stripe.api_key, "API_TOKENS": f"bench:{_TOKEN}"}
            for number in range(rounds):
                for are_waiting in (False, True) if number % 2 else (True, False):
                    tag = f"O{delay:.0f}{number}{'y' if are_waiting else 'n'}"
                    rate, left = _accepted(house, database, given, tag, seconds, _EACH if are_waiting else 0)
                    if are_waiting:
                        beside.append(rate)
                        waited.append(left)
                    else:
                        without.append(rate)
        report.keep(f"openings, {delay:.0f} s", {"beside": beside, "without": without, "still waiting": waited})
        pairs = [one / other for one, other in zip(beside, without, strict=True)]
        report.add(
            "accept, PostgreSQL",
            f"{_CONNECTIONS} connections, beside {2 * _EACH} openings, {min(waited)} of which wait to the end",
            f"{median(beside):,.0f}/s",
            beside=f"{median(without):,.0f}/s without them; pairs {min(pairs):.2f} to {max(pairs):.2f}",
            ratio=median(pairs),
            target=f"≥ {target}" if target else "",
            met=median(pairs) >= target if target else None,
        )


def _accepted(
    house: House, database: str, given: Mapping[str, str], tag: str, seconds: float, each: int
) -> tuple[float, int]:
    """Deliveries a second, by a web process of its own, and how many openings still wait after them."""
    store.empty(database)
    house.broker.flushall()
    with house.web(database, **given) as (port, web):
        load.post(port, load.write(house.folder / "requests", f"{tag}w", 20_000), _CONNECTIONS, 1.0)
        requests = load.write(house.folder / "requests", f"{tag}x", int(15_000 * seconds))
        with _waiting(port, web.popen.pid, tag, each) as clients:
            rate = load.post(port, requests, _CONNECTIONS, seconds).rate
            answered, _, _ = select.select(clients, (), (), 0)
        web.popen.kill()  # else it would do first what its clients have left
    return rate, len(clients) - len(answered)


@contextmanager
def _waiting(port: int, process: int, tag: str, each: int) -> Iterator[list[socket.socket]]:
    """Clients whose requests the process has taken in: what that costs is no waiting."""
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
    """Whether it uses more than a tenth of a processor."""
    before = _ticks(process)
    time.sleep(0.2)
    return _ticks(process) - before > 2


def _ticks(process: int) -> int:
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(times[11]) + int(times[12])  # hundredths of a second of its own, and of the kernel for it
