"""The same figures with years of rows in the database, and the query plans behind them."""

from statistics import median

from tests.bench import load, plans, store
from tests.bench.flow import UNPROCESSED, posted
from tests.bench.report import Report, judged, ratios
from tests.bench.servers import House


def size(report: Report, house: House, *, events: int, records: int, rounds: int, seconds: float) -> None:
    """Measures in turn: in each round the empty database and the full one."""
    full, empty = house.database("old"), house.database("young")
    for database in (full, empty):
        store.empty(database)
    store.fill(full, events, records)
    received: dict[str, list[float]] = {full: [], empty: []}
    processed: dict[str, list[float]] = {full: [], empty: []}
    for number in range(rounds):
        for database in (empty, full):
            received[database].append(accepted(house, database, f"S{number}x", seconds))
            store.forget_undone(database)  # it would be a backlog for the next stage
        for database in (empty, full):
            with posted(house, database, f"T{number}x", seconds) as rate_until:
                processed[database].append(rate_until(*UNPROCESSED))
            store.forget_undone(database)
    for what, rates in (("accepted, 64 connections", received), ("processed, end to end", processed)):
        report.keep(f"size {what}", {"full": rates[full], "empty": rates[empty]})
        times = ratios(rates[full], rates[empty])
        report.add(
            f"size: {events:,} events",
            what,
            f"{median(rates[full]):,.0f}/s",
            beside=f"{median(rates[empty]):,.0f}/s when empty",
            pairs=times,
            target="≥ 0.9",
            met=judged(times, least=0.9),
        )
    found = plans.explain(house, full)
    scans = sorted({name for name, plan in found.items() if plans.scanned(plan)})
    report.plans |= found
    report.add(
        f"size: {events:,} events",
        "statements that scan a whole table",
        ", ".join(scans) or f"none of {len(found)}",
        target="none",
        met=not scans,
    )


def accepted(house: House, database: str, tag: str, seconds: float) -> float:
    """The deliveries a second over 64 connections, by a web process of its own that has taken some before."""
    house.broker.flushall()
    with house.web(database) as (port, _):
        load.post(port, load.write(house.folder / "requests", f"{tag}w", 10_000), 64, 1)
        return load.post(port, load.write(house.folder / "requests", tag, int(15_000 * seconds)), 64, seconds).rate
