"""Deliveries accepted a second, beside the same server only verifying, and beside one INSERT and commit a request."""

from contextlib import ExitStack
from statistics import median

from tests.bench import load, store
from tests.bench.load import Answers
from tests.bench.report import Report, judged, ratios
from tests.bench.servers import House

# Requests a second that no server here reaches: so many are signed for each second.
_FASTEST = 45_000
_FASTEST_ALONE = 15_000  # at one connection


def accept(report: Report, house: House, database: str, *, connections: list[int], rounds: int, seconds: float) -> None:
    """Measures in turn: in each round every server gets the same requests, one server after the other."""
    kind = "SQLite" if database.startswith("sqlite") else "PostgreSQL"
    store.empty(database)
    with ExitStack() as running:
        ports = {
            "service": running.enter_context(house.web(database))[0],
            "verify only": running.enter_context(house.baseline("verify")),
            "usual": running.enter_context(house.baseline("usual", database)),
        }
        for count in connections:
            fastest = _FASTEST_ALONE if count == 1 else _FASTEST
            measured: dict[str, list[Answers]] = {name: [] for name in ports}
            for number in range(rounds + 1):
                length = seconds if number else 1.0  # the first round warms up, and does not count
                requests = load.write(house.folder / "requests", f"A{count}x{number}x", int(fastest * length))
                for name, port in ports.items():
                    store.empty(database)
                    house.broker.flushall()
                    answers = load.post(port, requests, count, length)
                    if number:
                        measured[name].append(answers)
            _add(report, kind, count, measured)


def _add(report: Report, kind: str, connections: int, measured: dict[str, list[Answers]]) -> None:
    rates = {name: [one.rate for one in all_] for name, all_ in measured.items()}
    report.keep(f"accept {kind} {connections}", {name: [one.rate for one in all_] for name, all_ in measured.items()})
    at = "1 connection" if connections == 1 else f"{connections} connections"
    stage = f"accept, {kind}"
    to_limit, to_usual = (ratios(rates["service"], rates[name]) for name in ("verify only", "usual"))
    bound = kind == "PostgreSQL" and connections == 64
    report.add(
        stage,
        f"{at}, beside verify only",
        _words(measured["service"]),
        beside=_words(measured["verify only"]),
        pairs=to_limit,
        target="≥ 0.65" if bound else "",
        met=judged(to_limit, least=0.65) if bound else None,
    )
    least = {1: 0.9, 64: 1.8}.get(connections) if kind == "PostgreSQL" else None
    report.add(
        stage,
        f"{at}, beside one INSERT and commit each",
        _words(measured["service"]),
        beside=_words(measured["usual"]),
        pairs=to_usual,
        target=f"≥ {least}" if least else "",
        met=judged(to_usual, least=least) if least else None,
    )


def _words(all_: list[Answers]) -> str:
    rate, p50, p99 = (median(values) for values in zip(*((a.rate, a.p50, a.p99) for a in all_), strict=True))
    return f"{rate:,.0f}/s, p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms"
