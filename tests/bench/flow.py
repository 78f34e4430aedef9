"""From a delivery to the committed record: the rate, the latency, and the drain of a backlog."""

import http.client
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median, quantiles

import psycopg

from tests.bench import load, noop, store
from tests.bench.report import STORY, Report, beside_noops, judged, ratios
from tests.bench.servers import House, Process, procfile

_CONNECTIONS = 64
MAILING = {"EMAIL_LOOKUP": "tests.support.lookups:everybody"}  # without addresses each mail is skipped
UNPROCESSED = ("inbox_event", "status = 'received'")
UNDONE = ("outbox_action", "status = 'pending'")
_NOTIFY = """
CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_notify('processed', NEW.id); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER tell AFTER UPDATE ON inbox_event FOR EACH ROW
  WHEN (NEW.status = 'processed') EXECUTE FUNCTION tell()"""


def end_to_end(report: Report, house: House, database: str, *, rounds: int, seconds: float, tasks: int) -> None:
    """Measures the default Procfile under full load, beside Celery's own rate for as many tasks that do nothing."""
    store.empty(database)
    rates, noops, acted, spent, noops_spent = [], [], [], list[float](), []
    for number in range(rounds):
        noops.append(noop_rate(house, tasks))
        first, last = map(float, house.broker.lrange(noop.SPENT, 0, -1))
        noops_spent.append((last - first) / (tasks - 1))
        with posted(house, database, f"E{number}x", seconds, spent) as rate_until:
            rates.append(rate_until(*UNPROCESSED))
            acted.append(rate_until(*UNDONE))
    report.keep("end to end", {"events a second": rates, "with actions": acted, "no-op tasks a second": noops})
    report.add(
        "end to end",
        "POST to committed record and owed actions",
        **beside_noops(rates, "events", noops),
        target="≥ 1.5",
        met=judged(ratios(rates, noops), least=1.5),
    )
    report.add(
        "end to end",
        "until the mails are written to files, too",
        **beside_noops(acted, "events", noops),
        target="≥ 1.5",
        met=judged(ratios(acted, noops), least=1.5),
    )
    report.keep("processor time", {"an event and its part of a mail": spent, "a no-op task": noops_spent})
    report.add(
        "end to end",
        "the worker's processor for an event and its third of a mail",
        f"{1000 * median(spent):.2f} ms",
        beside=f"{1000 * median(noops_spent):.2f} ms a no-op task",
        pairs=ratios(spent, noops_spent),
    )
    report.story = STORY.format(events=median(acted), tasks=median(noops))
    report.say(report.story)


@contextmanager
def posted(
    house: House,
    database: str,
    tag: str,
    seconds: float,
    spent: list[float] | None = None,
    /,
    *,
    webs: int = 1,
    workers: int = 1,
    clocks: int = 1,
) -> Iterator[Callable[[str, str], float]]:
    """Posts as many deliveries as the service accepts in this time. Yields a function that waits until no row of this
    table meets a condition, and returns the events a second from the first POST until then. At the end `spent` gets the
    seconds of processor that the workers used for an event.
    """
    house.broker.flushall()
    before = store.count(database, "inbox_event")
    requests = load.write(house.folder / "requests", tag, int(15_000 * seconds))
    running = procfile_running(house, database, webs=webs, workers=workers, clocks=clocks, variables=MAILING)
    with running as (port, processes):
        started, spent_before = time.monotonic(), sum(one.cpu() for one in processes["worker"])
        load.post(port, requests, _CONNECTIONS, seconds)
        events = store.count(database, "inbox_event") - before

        def rate_until(table: str, condition: str) -> float:
            wait_for_none(database, table, condition)
            return events / (time.monotonic() - started)

        yield rate_until
        if spent is not None:
            spent.append((sum(one.cpu() for one in processes["worker"]) - spent_before) / events)


def noop_rate(house: House, tasks: int) -> float:
    """The tasks a second of a Celery worker as in the Procfile that finds its queue full: its best case."""
    house.broker.flushall()
    with noop.app.producer_or_acquire() as producer:
        for _ in range(tasks):
            noop.noop.apply_async(producer=producer)
    with _noop_worker(house, NOOP_TASKS=str(tasks)):
        while not house.broker.exists(noop.ENDED):
            time.sleep(0.05)
        started, ended = (float(house.broker.get(name)) for name in (noop.STARTED, noop.ENDED))
    return (tasks - 1) / (ended - started)


def latency(report: Report, house: House, database: str, *, seconds: float, rounds: int) -> None:
    """Measures twenty events a second, and between them the round trips of Celery tasks that do nothing: from the call
    of `delay` to the result in hand, by Redis alone. Each of so many parts is judged by itself.
    """
    house.broker.flushall()
    store.empty(database)
    events, trips = [], []
    with (
        procfile_running(house, database) as (port, _),
        _noop_worker(house),
        _Committed(database) as committed,
    ):
        client = http.client.HTTPConnection("127.0.0.1", port)
        for number, (event_id, body, headers) in enumerate(parts("L", int(20 * seconds))):
            due = time.monotonic() + 0.05
            posted = time.monotonic()
            client.request("POST", load.PATH, body, headers)
            client.getresponse().read()
            events.append(committed.at(event_id) - posted)
            began = time.monotonic()
            noop.answer.delay().get(timeout=10)
            trips.append(time.monotonic() - began)
            if number < 20:  # warming up
                events.clear()
                trips.clear()
            time.sleep(max(0.0, due - time.monotonic()) * random.uniform(0.8, 1.2))
    report.keep("latency", {"events": events, "no-op round trips": trips})
    p50, p99, trip = median(events), _p99(events), median(trips)
    beside = f"no-op round trip p50 {trip * 1000:.1f} ms, p99 {_p99(trips) * 1000:.1f} ms"
    parts_of = [(events[start::rounds], median(trips[start::rounds])) for start in range(rounds)]
    for what, value, most, of in (("p50", p50, 1.5, median), ("p99", p99, 4.0, _p99)):
        pairs = [of(some) / trip_ for some, trip_ in parts_of]
        report.add(
            "latency at 20/s",
            f"POST to committed record, {what}",
            f"{value * 1000:.1f} ms",
            beside=beside,
            ratio=value / trip,
            pairs=pairs,
            target=f"< {most} × the median",
            met=judged(pairs, most=most),
        )


def backlog(report: Report, house: House, database: str, *, events: int, rounds: int) -> None:
    """Drains events that were accepted while no worker ran: does the rate hold, does the memory?"""
    drains = [_drain(house, database, f"B{number}x", events) for number in range(rounds)]
    report.keep("backlog", drains)
    _add_backlog(report, drains)


def _drain(house: House, database: str, tag: str, events: int) -> list[dict[str, float]]:
    house.broker.flushall()
    store.empty(database)
    with ExitStack() as running:
        port, web = running.enter_context(house.web(database))
        clock = running.enter_context(house.clock(database))
        posts = 0
        while (missing := events - store.count(database, "inbox_event")) > 0:
            posts += 1
            requests = load.write(house.folder / "requests", f"{tag}{posts}x", missing)
            load.post(port, requests, _CONNECTIONS, max(1, missing // 12_000))
        store.settle(database, "inbox_event")  # a real backlog lies for a while
        worker = running.enter_context(house.worker(database))
        return _drained(database, {"web": web, "worker": worker, "clock": clock})


@contextmanager
def procfile_running(
    house: House,
    database: str,
    *,
    webs: int = 1,
    workers: int = 1,
    clocks: int = 1,
    variables: Mapping[str, str] = {},
) -> Iterator[tuple[int, dict[str, list[Process]]]]:
    """The Procfile's processes, as many as asked for, all ready: the web's port, and the processes by name."""
    with ExitStack() as running:
        all_workers = [running.enter_context(house.worker(database, **variables)) for _ in range(workers)]
        all_clocks = [running.enter_context(house.clock(database)) for _ in range(clocks)]
        port, web = running.enter_context(house.web(database, WEB_CONCURRENCY=str(webs)))
        yield port, {"web": [web], "worker": all_workers, "clock": all_clocks}


def wait_for_none(database: str, table: str, condition: str) -> None:
    """Waits until no row meets the condition any more."""
    while store.count(database, table, condition):
        time.sleep(0.02)


def _drained(database: str, processes: dict[str, Process]) -> list[dict[str, float]]:
    samples: list[dict[str, float]] = []
    started = time.monotonic()
    while not samples or samples[-1]["left"]:
        left = store.count(database, *UNPROCESSED)
        memory = {name: process.rss() for name, process in processes.items()}
        samples.append({"seconds": time.monotonic() - started, "left": left, **memory})
        time.sleep(0.25)
    return samples


def _add_backlog(report: Report, drains: list[list[dict[str, float]]]) -> None:
    rates = [median(_rate(_third(samples, part)) for samples in drains) for part in range(3)]
    # The spread of the medians, and of each drain: if one is outside, the next run's medians may be, too.
    each = [[_rate(_third(samples, part)) for part in range(3)] for samples in drains]
    spread, *spreads = [max(some) / min(some) for some in (rates, *each)]
    report.add(
        "backlog",
        f"{drains[0][0]['left']:,.0f} events drained: start, middle, end",
        ", ".join(f"{rate:,.0f}/s" for rate in rates),
        ratio=spread,
        pairs=spreads,
        target="within 10 %",
        met=judged([spread, *spreads], most=1.1) if len(drains) > 1 else None,
    )
    # The first tasks load the modules that every process loads once.
    tails = [samples[len(samples) // 6 :] for samples in drains]
    for name in ("web", "worker", "clock"):
        growth = max(max(one[name] for one in tail) - tail[0][name] for tail in tails)
        words = f"{tails[0][0][name]:.0f} MB, then +{growth:.1f} MB"
        report.add("backlog", f"memory of {name}", words, target="flat: < 5 MB more", met=growth < 5)


def _third(samples: list[dict[str, float]], part: int) -> list[dict[str, float]]:
    total = samples[0]["left"]
    high, low = total * (3 - part) / 3, total * (2 - part) / 3
    first = next(i for i, one in enumerate(samples) if one["left"] <= high)
    last = next(i for i, one in enumerate(samples) if one["left"] <= low)
    return samples[first : max(last, first + 1) + 1]


def _rate(samples: list[dict[str, float]]) -> float:
    start, end = samples[0], samples[-1]
    return (start["left"] - end["left"]) / (end["seconds"] - start["seconds"])


def parts(tag: str, count: int, story: tuple[str, ...] = load.STORY) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """The event ids, bodies and headers of deliveries, for a client that makes its own requests of them."""
    for event_id, request in load.deliveries(tag, count, story=story):
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")[1:]
        yield event_id, body, dict(line.split(": ", 1) for line in lines if not line.startswith("Host"))


class _Committed:
    """Hears from PostgreSQL of each processed event, at the moment of the commit."""

    def __init__(self, database: str) -> None:
        self._connection = psycopg.connect(database, autocommit=True)
        self._times: dict[str, float] = {}
        self._heard = threading.Condition()

    def __enter__(self) -> "_Committed":
        self._connection.execute(_NOTIFY)
        self._connection.execute("LISTEN processed")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with psycopg.connect(self._connection.info.dsn, autocommit=True) as connection:
            connection.execute("NOTIFY processed, 'end'")
        self._thread.join()
        self._connection.execute("DROP TRIGGER tell ON inbox_event")
        self._connection.close()

    def at(self, event_id: str) -> float:
        """Waits for an event's commit; returns the monotonic time."""
        with self._heard:
            if not self._heard.wait_for(lambda: event_id in self._times, timeout=30):
                raise TimeoutError(f"{event_id} was not processed")
        return self._times[event_id]

    def _listen(self) -> None:
        for notice in self._connection.notifies():
            with self._heard:
                self._times[notice.payload] = time.monotonic()
                self._heard.notify_all()
            if notice.payload == "end":
                return


@contextmanager
def _noop_worker(house: House, **variables: str) -> Iterator[None]:
    celery = [sys.executable, "-m", "celery", "-q", "--app", "tests.bench.noop", "worker", "--loglevel", "WARNING"]
    _, *concurrency = procfile("worker")[-3:]
    flags = ["--pool", "threads", "--without-gossip", "--without-mingle", "--without-heartbeat", *concurrency]
    with house.running("noop", [*celery, *flags], {"REDIS_URL": house.redis, **variables}) as process:
        if not variables:  # with tasks to count, the count shows that it works
            process.wait(lambda: bool(noop.answer.delay().get(timeout=30) is None))
        yield


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]
