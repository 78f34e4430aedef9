"""Deliveries accepted a second while persons load pages, wait for news and press the button."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from tests.bench import load, store
from tests.bench.beside import CONNECTIONS, add, in_turn
from tests.bench.report import Report
from tests.bench.servers import House
from tests.simulator.client import Simulator

_LINKS = 40  # of each, somebody waits for Stripe, too
_VISITS = 20  # a second: some 150 persons who wait for news, and some who come
_POLLS_OF = 5  # of so many visits all but one ask for news
_STRIPE_SECONDS = 2.0
_TOKEN = "t" * 32
_POLL = {"Accept": "application/json"}


def pages(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """In turn without them and with them."""
    with Simulator.start() as stripe:
        given = {
            "STRIPE_API_BASE": stripe.base,
            "STRIPE_API_KEY": stripe.api_key,
            "API_TOKENS": f"bench:{_TOKEN}",
            "LINK_KEYS": _TOKEN,
            "TRUSTED_PROXIES": "1",
        }

        def measure(number: int, is_there: bool) -> tuple[float, float]:
            stripe.clear_faults()
            tag = f"P{number}{'y' if is_there else 'n'}"
            rate, visits = _accepted(house, database, stripe, given, tag, seconds, are_there=is_there)
            return rate, visits / seconds

        found = in_turn(rounds, measure)
    report.keep("pages", found)
    add(report, f"{min(found['seen']):.0f} visits of pages a second, {_LINKS} waiting for Stripe", found, 0.95)


def _accepted(
    house: House,
    database: str,
    stripe: Simulator,
    given: Mapping[str, str],
    tag: str,
    seconds: float,
    *,
    are_there: bool,
) -> tuple[float, int]:
    """Deliveries a second, by a web process of its own, and how many visits it has answered meanwhile."""
    store.empty(database)
    house.broker.flushall()
    with house.web(database, **given) as (port, web):
        paths = [_link(port, f"{tag}{number}") for number in range(_LINKS)]
        stripe.fault(count=None, delay=_STRIPE_SECONDS, path="verification_sessions")
        load.post(port, load.write(house.folder / "requests", f"{tag}w", 20_000), CONNECTIONS, 1.0)
        requests = load.write(house.folder / "requests", f"{tag}x", int(15_000 * seconds))
        with _visited(port, paths if are_there else []) as seen:
            rate = load.post(port, requests, CONNECTIONS, seconds).rate
            count = len(seen)
        web.popen.kill()  # else it would do first what its clients have left
    return rate, count


def _link(port: int, reference: str) -> str:
    body = json.dumps({"client_reference_id": reference, "type": "document"})
    headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/verifications", body, headers)
        url: str = json.load(connection.getresponse())["entry"]["url"]
    return urlsplit(url).path


@contextmanager
def _visited(port: int, paths: list[str]) -> Iterator[list[int]]:
    """Whoever visits: the statuses that they have got so far."""
    seen: list[int] = []
    end = threading.Event()
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in paths]
    for client, path in zip(waiting, paths, strict=True):
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())

    def visit() -> None:
        begun = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            for number in range(1_000_000):
                if end.wait(max(0.0, begun + number / _VISITS - time.monotonic())):
                    return
                path, is_poll = paths[number % len(paths)], bool(number % _POLLS_OF)
                sender = {"X-Forwarded-For": f"192.0.2.{number % 250}"}
                connection.request(
                    "GET", f"{path}/status" if is_poll else path, headers=sender | (_POLL if is_poll else {})
                )
                answer = connection.getresponse()
                answer.read()
                seen.append(answer.status)

    visitor = threading.Thread(target=visit)
    if paths:
        visitor.start()
    yield seen
    end.set()
    if paths:
        visitor.join()
    for client in waiting:
        client.close()
