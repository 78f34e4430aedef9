"""The cost of each promise: the service beside itself without that promise, in short pairs, now one and now the
other first. The shortcuts that break the promises are in tests/bench/shortcuts.py.
"""

import json
import subprocess
import sys
from statistics import median

import psycopg

from tests.bench import load, store
from tests.bench.beside import in_turn
from tests.bench.report import Report, ratios
from tests.bench.servers import House, environment
from tests.bench.shortcuts import ENDS, UNSTORED, UNSYNCED

_FASTEST = 20_000  # deliveries a second
_ACTIONS = 10  # as many as a worker does under one claim


def promises(report: Report, house: House, database: str, *, connections: list[int], pairs: int) -> None:
    """Measures deliveries a second, in pairs of a second; and mails, in pairs of ten."""
    keyless = house.database("keyless")
    with psycopg.connect(keyless, autocommit=True) as connection:
        connection.execute("ALTER TABLE inbox_event DROP CONSTRAINT inbox_event_pkey")
    with (
        house.web(database) as (kept, _),
        house.web(keyless) as (unkeyed, _),
        house.web(database, shortcut=UNSYNCED) as (unsynced, _),
        house.web(database, shortcut=UNSTORED) as (unstored, _),
    ):
        for count in connections:
            for what, port in (
                ("the disk has it before the answer, beside synchronous_commit=off", unsynced),
                ("it is committed before the answer, beside an answer before the INSERT", unstored),
                ("an event's id is a key, beside no key", unkeyed),
            ):

                def measure(number: int, is_kept: bool, count: int = count, other: int = port) -> tuple[float, float]:
                    house.broker.flushall()
                    for one in (database, keyless):
                        store.empty(one)
                    requests = load.write(house.folder / "requests", f"P{count}x{number}x", _FASTEST)
                    return load.post(kept if is_kept else other, requests, count, 1).rate, 0.0

                found = in_turn(pairs + 1, measure)  # the first round warms up
                at = "1 connection" if count == 1 else f"{count} connections"
                _add(report, f"{at}: {what}", found["beside"][1:], found["without"][1:], "/s")
    store.empty(database)
    took = _mailed(house, database, 6 * pairs)
    _add(report, "each mail's end is committed by itself, beside ten at once", took["kept"], took["left out"], " ms")


def _mailed(house: House, database: str, batches: int) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "tests.bench.shortcuts", ENDS, str(_ACTIONS), str(batches)]
    variables = house.variables(database, EMAIL_LOOKUP="tests.support.lookups:everybody")
    ended = subprocess.run(command, env=environment() | variables, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(ended.stderr[-3000:])
    took: dict[str, list[float]] = json.loads(ended.stdout)
    return took


def _add(report: Report, what: str, kept: list[float], left_out: list[float], unit: str) -> None:
    pairs = ratios(kept, left_out)
    report.keep(f"promises: {what}", {"kept": kept, "left out": left_out})
    ours, theirs = (f"{median(some):,.{2 if unit == ' ms' else 0}f}{unit}" for some in (kept, left_out))
    report.add(
        "promises",
        what,
        ours,
        beside=f"{theirs} without; {len(pairs)} pairs",
        pairs=pairs,
    )
