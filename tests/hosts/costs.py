"""The cost of an event and of an action for web, worker, clock, PostgreSQL and Redis, each on a host of its own.

Nothing fails here. Each host's own seconds of processor, less what it takes while nothing comes, and the bytes on its
wire; other load on the machine disturbs both less than a rate.
"""

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread

import psycopg

from tests.bench import load, store
from tests.bench.beside import CONNECTIONS, add, in_turn
from tests.bench.flow import MAILING, UNDONE, UNPROCESSED, parts
from tests.bench.report import Report
from tests.bench.servers import cpu, environment, family
from tests.chaos.course import answers
from tests.chaos.outside import MailServer
from tests.chaos.services import ROOT, Platform, wait_until
from tests.chaos.stores import Place, Postgres
from tests.hosts import network
from tests.hosts.dynos import PORT, dyno
from tests.hosts.network import Network
from tests.hosts.servers import REDIS_PORT
from tests.support.redises import OtherRedis

_OURS = ("web", "worker", "clock")
_HOSTS = (*_OURS, "db", "redis")
_HERE = ("people", "mail")  # of this process
_OWES_NOTHING = ("created", "processing")
_EVENTS_ALONE, _ALONE_EACH = 300, 0.05
_IDLE_SECONDS = 10.0
_GLANCE = 0.25
_ROUNDS = 3  # of deliveries without a purge and beside one
_ENDS_WITHIN = 3600.0  # seconds, even if something hangs
_BY_HOST = """
SELECT host(client_addr), count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL GROUP BY 1"""
_TABLES = ("inbox_event", "verification_record", "verification_submission", "outbox_action")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The moment, the seconds of processor and the bytes on the wire so far, by host; and PostgreSQL's bytes of WAL."""

    at: float
    seconds: Mapping[str, float]
    wire: Mapping[str, int]
    wal: int


@dataclass(frozen=True, slots=True)
class _Spent:
    """One event's share: seconds and bytes by host, and bytes of WAL."""

    seconds: Mapping[str, float]
    wire: Mapping[str, float]
    wal: float


@dataclass(frozen=True, slots=True)
class _Service:
    """The service on its hosts, ready."""

    net: Network
    database: str
    variables: Mapping[str, str]
    roots: Mapping[str, int]  # the first process of each host
    folder: Path

    def read(self) -> _Reading:
        """Reads all of it, from the start until now."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            (wal,) = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone() or (0,)
        spent = {name: _processor(pid) for name, pid in self.roots.items()}
        return _Reading(time.monotonic(), spent, self.net.carried(), int(wal))

    def spent(self, act: Callable[[], object], idle: Mapping[str, float]) -> _Spent:
        """An event's share of this act until all is done, less the `idle` seconds that each host takes in a second."""
        events, before = store.count(self.database, "inbox_event"), self.read()
        act()
        for what in (UNPROCESSED, UNDONE):
            while store.count(self.database, *what):
                time.sleep(_GLANCE)
        after, events = self.read(), store.count(self.database, "inbox_event") - events
        took = after.at - before.at
        return _Spent(
            {one: (after.seconds[one] - before.seconds[one] - took * idle[one]) / events for one in _HOSTS},
            {one: (after.wire[one] - before.wire[one]) / events for one in _HOSTS},
            (after.wal - before.wal) / events,
        )

    def burst(self, tag: str, seconds: float, story: tuple[str, ...]) -> float:
        """Posts for so long as fast as web takes it; returns the deliveries a second."""
        requests = load.write(self.folder / "requests", tag, int(15_000 * seconds), story=story)
        return load.post(int(PORT), requests, CONNECTIONS, seconds, self.net.addresses["web"]).rate

    def one_by_one(self, tag: str) -> None:
        """Posts some events, twenty a second."""
        client = http.client.HTTPConnection(self.net.addresses["web"], int(PORT))
        for _, body, headers in parts(tag, _EVENTS_ALONE, _OWES_NOTHING):
            client.request("POST", load.PATH, body, headers)
            client.getresponse().read()
            time.sleep(_ALONE_EACH)

    @contextmanager
    def watched(self) -> Iterator[dict[str, int]]:
        """The most connections to PostgreSQL that each host was seen to have, so far."""
        names = {address: name for name, address in self.net.addresses.items()}
        most, ended = dict.fromkeys(_OURS, 0), Event()

        def look() -> None:
            with psycopg.connect(self.database, autocommit=True) as connection:
                while not ended.wait(_GLANCE):
                    for address, count in connection.execute(_BY_HOST):
                        most[names[address]] = max(most[names[address]], count)

        thread = Thread(target=look)
        thread.start()
        try:
            yield most
        finally:
            ended.set()
            thread.join()


def main() -> int:
    """Prints what each costs. Returns 0 also if no hosts can be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.costs", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="events there (default: 10000000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each burst (default: 5)")
    parser.add_argument("--json", type=Path, default=Path("var/costs.json"), metavar="FILE")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _run(options)
    if why := network.why_not():
        sys.stdout.write(f"could not: no hosts can be made here: {why}\n")
        return 0
    network.go_inside([sys.executable, "-m", "tests.hosts.costs", "--inside", *sys.argv[1:]], _ENDS_WITHIN)
    return 1


def _run(options: argparse.Namespace) -> int:
    report = Report(command=f"make costs, {options.rows:,} events")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, _service(report, options.rows, Path(folder)) as service:
        _measure(report, service, options.seconds)
        _beside_a_purge(report, service, options.seconds)
    report.show()
    report.write(options.json)
    return 0


@contextmanager
def _service(report: Report, rows: int, folder: Path) -> Iterator[_Service]:
    with ExitStack() as stack:
        net = Network(_HOSTS, _HERE)
        mail = MailServer(1, net.addresses["mail"])
        stack.callback(mail.stop)
        # Not in memory: the rows fill some gigabytes.
        postgres = Postgres(places=(Place(net.on("db"), net.addresses["db"]), Place()), under="/var/tmp")
        stack.callback(postgres.end)
        options = {"protected-mode": "no"}
        redis = OtherRedis(folder / "redis", options, REDIS_PORT, net.addresses["redis"], net.on("redis"))
        redis.start()
        stack.callback(redis.stop)
        variables = environment() | {
            "DATABASE_URL": f"postgresql://postgres@{net.addresses['db']}/postgres",
            "REDIS_URL": f"redis://{redis.host}:{redis.port}/0",
            "SMTP_URL": f"smtp://{mail.host}:{mail.port}",
            "MAIL_FROM": "id@example.com",
            "STRIPE_WEBHOOK_SECRET": load.SECRET,
            "LOG_FORMAT": "json",
            **MAILING,
        }
        subprocess.run(
            [sys.executable, "-m", "worker", "migrate"], env=variables, cwd=ROOT, check=True, capture_output=True
        )
        began = time.monotonic()
        store.fill(postgres.url, rows, rows * 3 // 10)
        report.say(f"{rows:,} events, filled in {time.monotonic() - began:.0f} s, {store.size(postgres.url)}")
        platform = Platform([dyno(net, name, variables, folder) for name in _OURS])
        stack.callback(platform.end)
        platform.start()
        assert wait_until(lambda: answers(f"{net.addresses['web']}:{PORT}"), 60), "web did not start"
        ours = {name: one.process.pid for name, one in platform.dynos.items() if one.process}
        assert redis.process
        roots = {**ours, "db": postgres.postmaster(), "redis": redis.process.pid}
        yield _Service(net, postgres.url, variables, roots, folder)


def _measure(report: Report, service: _Service, seconds: float) -> None:
    nothing = dict.fromkeys(_HOSTS, 0.0)
    with service.watched() as most:
        service.spent(lambda: service.burst("Warm", 1.0, load.STORY), nothing)
        before = service.read()
        time.sleep(_IDLE_SECONDS)
        after = service.read()
        idle = {one: (after.seconds[one] - before.seconds[one]) / (after.at - before.at) for one in _HOSTS}
        plain = service.spent(lambda: service.burst("Plain", seconds, _OWES_NOTHING), idle)
        mailed = service.spent(lambda: service.burst("Mailed", seconds, load.STORY), idle)
        alone = service.spent(lambda: service.one_by_one("Alone"), idle)
    report.keep("costs", {name: asdict(one) for name, one in (("plain", plain), ("mailed", mailed), ("alone", alone))})
    for host in _HOSTS:
        together, by_itself = 1000 * plain.seconds[host], 1000 * alone.seconds[host]
        report.add("an event", f"{host}: processor", f"{together:.3f} ms", beside=f"{by_itself:.2f} ms alone")
        bytes_alone = f"{alone.wire[host]:,.0f} B alone"
        report.add("an event", f"{host}: on its wire", f"{plain.wire[host]:,.0f} B", beside=bytes_alone)
    report.add("an event", "WAL", f"{plain.wal:,.0f} B", beside=f"{alone.wal:,.0f} B alone")
    for host in _HOSTS:  # one in three events owes one
        report.add("an action", f"{host}: processor", f"{3000 * (mailed.seconds[host] - plain.seconds[host]):.2f} ms")
    report.add("an action", "WAL", f"{3 * (mailed.wal - plain.wal):,.0f} B")
    for host in _HOSTS:
        report.add("a second of nothing", f"{host}: processor", f"{1000 * idle[host]:.1f} ms")
    for host, count in most.items():
        report.add("PostgreSQL", f"the most connections of {host}", str(count))
    with psycopg.connect(service.database) as connection:
        for table in _TABLES:
            size = f"SELECT pg_total_relation_size('{table}')::float / count(*) FROM {table}"  # noqa: S608  # our own names
            (each,) = connection.execute(size).fetchone() or (0.0,)
            report.add("PostgreSQL", f"the disk: a row of {table}", f"{each:.0f} B")


def _beside_a_purge(report: Report, service: _Service, seconds: float) -> None:
    waited = {True: 0, False: 0}

    def measure(number: int, is_there: bool) -> tuple[float, float]:
        began, before = time.monotonic(), store.deleted(service.database)
        with ExitStack() as stack:
            seen = stack.enter_context(store.lock_waits(service.database))
            if is_there:
                command = [*service.net.on("worker"), sys.executable, "-m", "worker", "purge"]
                purge = subprocess.Popen(command, env=service.variables, cwd=ROOT, stdout=subprocess.DEVNULL)
                stack.callback(purge.wait)
                stack.callback(purge.terminate)
            rate = service.burst(f"P{number}{is_there:d}x", seconds, load.STORY)
        waited[is_there] += len(seen)
        return rate, (store.deleted(service.database) - before) / (time.monotonic() - began)

    found = in_turn(_ROUNDS, measure)
    report.keep("purge", found)
    add(report, f"a purge of {median(found['seen']):,.0f} rows/s", found, None)
    looks = f"{waited[False]} without it"  # the worker's threads wait for each other's records, too
    report.add("purge", "looks that saw somebody wait for a lock", str(waited[True]), beside=looks)


def _processor(pid: int) -> float:
    """The seconds of a process, its descendants, and those of its children that have ended."""
    ended = sum(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[at]) for at in (13, 14))
    seconds = ended / os.sysconf("SC_CLK_TCK")
    for one in family(pid):
        with suppress(OSError):  # it ends between the two looks
            seconds += cpu(one)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
