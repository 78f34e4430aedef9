"""Deliveries accepted a second while persons load pages, wait for news and press the button."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import median
from urllib.parse import urlsplit

from tests.bench import load, store
from tests.bench.beside import CONNECTIONS, add, in_turn
from tests.bench.report import Report, judged, ratios
from tests.bench.servers import House, Process
from tests.simulator.client import Simulator

_LINKS = 40  # a person who presses once in 20 seconds is not told to wait
_VISITS = 20  # a second: some 150 persons who wait for news, and some who come
_POLLS_OF = 5  # one visit in so many loads a page, the others ask for news
_PRESSING = 4  # as many as web has threads for presses, one after the other: all of these wait for Stripe
_STRIPE_SECONDS = 2.0
_TOKEN = "t" * 32
_ELSEWHERE = "while they visit another web"
_POLL = {"Accept": "application/json"}


def pages(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """Measures beside persons, and in turn while they visit another web process, so that their browsers and Stripe
    take as much of this machine: first a steady stream, then one that begins with all presses.
    """
    with Simulator.start() as stripe:
        given = {
            "STRIPE_API_BASE": stripe.base,
            "STRIPE_API_KEY": stripe.api_key,
            "API_TOKENS": f"bench:{_TOKEN}",
            "LINK_KEYS": _TOKEN,
            "TRUSTED_PROXIES": "1",
        }
        store.empty(database)
        house.broker.flushall()
        with house.web(database, **given) as (port, web), house.web(database, **given) as (elsewhere, other):
            paths = [_link(port, f"P{number}") for number in range(_LINKS)]
            stripe.fault(count=None, delay=_STRIPE_SECONDS, path="verification_sessions")
            # Many short pairs: longer ones differ by more than the measured cost. A burst needs time to be over.
            _beside(report, house, web, (port, elsewhere), paths, _PRESSING, int(rounds * 2 * seconds), 1.0)
            _beside(report, house, web, (port, elsewhere), paths, _LINKS, rounds, seconds)
            for one in (web, other):
                one.popen.kill()  # else it would first do the work that its clients have left


def _beside(
    report: Report,
    house: House,
    web: Process,
    ports: tuple[int, int],
    paths: list[str],
    pressing: int,
    rounds: int,
    seconds: float,
) -> None:
    is_steady = pressing == _PRESSING
    waited: list[float] = []
    of_its_own: dict[bool, list[float]] = {True: [], False: []}

    def measure(number: int, is_there: bool) -> tuple[float, float]:
        tag = f"P{pressing}x{number + 1}{'y' if is_there else 'n'}"
        requests = load.write(house.folder / "requests", tag, int(15_000 * seconds))
        with _people(ports[not is_there], paths, pressing, again=is_steady) as visits:
            used = web.cpu()
            answers = load.post(ports[0], requests, CONNECTIONS, seconds)
            of_its_own[is_there].append(answers.requests / (web.cpu() - used))
            waited.extend(visits if is_there else [])
            return answers.rate, len(visits) / seconds

    measure(-1, True)  # warms up
    found = in_turn(rounds, measure)
    visits = f"{median(found['seen']):.0f} visits of pages a second, {pressing} press {'' if is_steady else 'at once'}"
    add(report, visits, found, 0.95 if is_steady else None, without=_ELSEWHERE)
    alone, beside = of_its_own[False], of_its_own[True][1:]
    report.add(
        "accept, PostgreSQL",
        "the same, for each second of web's own processor",
        f"{median(beside):,.0f}",
        beside=f"{median(alone):,.0f} {_ELSEWHERE}",
        pairs=ratios(beside, alone),
        target="≥ 0.95" if is_steady else "",
        met=judged(ratios(beside, alone), least=0.95) if is_steady else None,
    )
    report.add(
        "accept, PostgreSQL",
        "a visit meanwhile",
        f"p50 {median(waited) * 1000:.0f} ms",
        beside=f"{max(waited) * 1000:.0f} ms the longest of {len(waited)}",
    )
    report.keep(f"pages, {pressing} pressing", found | {"of its own": [alone, beside], "waited": waited})


def _link(port: int, reference: str) -> str:
    body = json.dumps({"client_reference_id": reference, "type": "document"})
    headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/verifications", body, headers)
        url: str = json.load(connection.getresponse())["entry"]["url"]
    return urlsplit(url).path


@contextmanager
def _people(port: int, paths: list[str], pressing: int, *, again: bool) -> Iterator[list[float]]:
    """Visits and presses until the block ends; the seconds of each visit."""
    visits: list[float] = []
    end = threading.Event()

    def visit() -> None:
        begun = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            for number in range(1_000_000):
                if end.wait(max(0.0, begun + number / _VISITS - time.monotonic())):
                    return
                path, is_poll = paths[number % len(paths)], bool(number % _POLLS_OF)
                asked = time.monotonic()
                _ask(connection, "GET", f"{path}/status" if is_poll else path, number, _POLL if is_poll else {})
                visits.append(time.monotonic() - asked)

    def press(first: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            for number in range(first, 1_000_000, pressing):
                _ask(connection, "POST", paths[number % len(paths)], number, {})
                if end.is_set() or not again:
                    return

    callers: list[Callable[[], None]] = [visit, *(lambda first=first: press(first) for first in range(pressing))]
    threads = [threading.Thread(target=one) for one in callers]
    for thread in threads:
        thread.start()
    yield visits
    end.set()
    for thread in threads:
        thread.join()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, number: int, headers: dict[str, str]) -> None:
    connection.request(method, path, headers={"X-Forwarded-For": f"192.0.2.{number % 250}", **headers})
    connection.getresponse().read()
