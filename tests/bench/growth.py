"""make growth: the service on a database that has grown, beside a young one and one with a tenth of the rows.

Measures each step's processor time, the server's and the process's own, which other load on the machine disturbs
least, in a process of its own for each database and round, in turn; and deliveries to web, by wrk.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench import growth_steps, plans, store
from tests.bench.beside import add, in_turn
from tests.bench.report import Report, judged, ratios
from tests.bench.servers import House, house
from tests.bench.size import accepted
from tests.simulator.client import Simulator

_YOUNG = 2000  # events: enough for each page to have rows to show
_RECORDS, _WAITING = 0.3, 0.1  # of the events
_PURGED = 10_000  # events, and as many actions
_LEAST = 0.9
_KEEPS = {"RETENTION_DAYS": "365"}  # the rows for the purge are older, and all others are not

Seconds = dict[str, float]


def main() -> None:
    """Fills three databases, measures in each, and prints the plans of the hot statements."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 events and one round: a minute")
    parser.add_argument("--rows", type=int, help="events in the inbox (default: 10000000)")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--json", type=Path, default=Path("var/growth.json"), metavar="FILE")
    arguments = parser.parse_args()
    rows = arguments.rows or (50_000 if arguments.quick else 10_000_000)
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    report, began = Report(command=f"make growth, {rows:,} events"), time.monotonic()
    with house() as ours:
        try:
            _measure(report, ours, rows, rounds)
        finally:  # an interrupted run has measured something, too
            report.show()
            report.show_plans()
            report.write(arguments.json)
            report.say(f"{(time.monotonic() - began) / 60:.1f} minutes in all")


def _measure(report: Report, house: House, rows: int, rounds: int) -> None:
    young, tenth, grown = databases = [
        _filled(report, house, name, events)
        for name, events in (("young", _YOUNG), ("tenth", rows // 10), ("grown", rows))
    ]
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        report.say(f"round {number + 1} of {rounds}")
        for database in databases:
            for what, seconds in _steps(house, database).items():
                found.setdefault(what, {one: [] for one in databases})[database].append(seconds)
        for database in databases:
            rate = accepted(house, database, f"G{number}x", 2.0)
            found.setdefault("a delivery, 64 connections", {one: [] for one in databases})[database].append(1 / rate)
    for what, seconds_of in found.items():
        report.keep(what, dict(zip(("young", "tenth", "grown"), seconds_of.values(), strict=True)))
        _add(report, what, seconds_of[young], seconds_of[tenth], seconds_of[grown])
    for database in databases:
        store.forget_undone(database)
    _beside_a_purge(report, house, grown, rounds)
    report.plans |= plans.explain(house, grown)
    scans = sorted(name for name, plan in report.plans.items() if plans.scanned(plan))
    report.add(
        "plans", "statements on an event's way that scan a whole table", ", ".join(scans) or "none", met=not scans
    )


def _filled(report: Report, house: House, name: str, events: int) -> str:
    started = time.monotonic()
    database = house.database(name)
    store.empty(database)
    store.alone(database)
    store.fill(database, events, int(events * _RECORDS))
    store.add_waiting(database, int(events * _WAITING / 2))
    report.say(f"{name}: {events:,} events, filled in {time.monotonic() - started:.0f} s, {store.size(database)}")
    return database


def _add(report: Report, what: str, young: list[float], tenth: list[float], grown: list[float]) -> None:
    """Adds the ratios to the times in the young database, and to those with a tenth of the rows: medians of rounds."""
    as_young, as_tenth = ratios(young, grown), ratios(tenth, grown)
    report.add(
        "growth",
        what,
        _milliseconds(grown),
        beside=f"young {_milliseconds(young)}; a tenth {_milliseconds(tenth)}, {median(as_tenth):.2f}",
        pairs=as_young,
        target=f"≥ {_LEAST} of both",
        met=judged([*map(min, as_young, as_tenth)], least=_LEAST),
    )


def _beside_a_purge(report: Report, house: House, database: str, rounds: int) -> None:
    """Measures deliveries, in turn without and beside a purge that may delete half of the inbox; and the lock waits."""
    waited: list[int] = []

    def measure(number: int, is_there: bool) -> tuple[float, float]:
        tag = f"P{number}{is_there:d}x"
        if not is_there:
            return accepted(house, database, tag, 2.0), 0.0
        started, before = time.monotonic(), store.deleted(database)
        purge = [sys.executable, "-m", "worker", "purge"]
        with house.running("purge", purge, house.variables(database)), store.lock_waits(database) as seen:
            rate = accepted(house, database, tag, 2.0)
        waited.append(len(seen))
        return rate, (store.deleted(database) - before) / (time.monotonic() - started)

    found = in_turn(rounds, measure)
    report.keep("purge", found)
    add(report, f"a purge of {median(found['seen']):,.0f} rows/s", found, None)
    report.add("purge", "looks that saw somebody wait for a lock", str(sum(waited)), target="none", met=not sum(waited))


def _milliseconds(seconds: list[float]) -> str:
    return f"{median(seconds) * 1000:.3g} ms"


def _steps(house: House, database: str) -> Seconds:
    """The seconds of each step, by processes of their own: only one of them has a key, and so asks Stripe."""
    store.add_old(database, _PURGED)
    found: Seconds = {}
    with Simulator.start() as stripe:
        key = {"STRIPE_API_BASE": stripe.base, "STRIPE_API_KEY": stripe.api_key}
        for steps in growth_steps.STEPS:
            variables = {**house.variables(database), **_KEEPS, **(key if steps == "upkeep" else {})}
            step = [sys.executable, "-m", "tests.bench.growth_steps", steps]
            with (house.folder / f"{steps}.log").open("wb") as log:
                output = subprocess.run(step, env=variables, stdout=subprocess.PIPE, stderr=log, check=True).stdout
            found |= json.loads(output)
    return found


if __name__ == "__main__":
    main()
