"""Deliveries without a load and beside it, in turn, to show its cost."""

from collections.abc import Callable
from statistics import median

from tests.bench.report import Report, judged, ratios

CONNECTIONS = 64


def in_turn(rounds: int, measure: Callable[[int, bool], tuple[float, float]]) -> dict[str, list[float]]:
    """Measures each round once without the load and once with it; which comes first changes with each round.

    `measure` takes the round's number and whether the load is there, and gives deliveries a second and the amount of
    the load. Returns the rates `beside` and `without` it, and the amounts `seen`.
    """
    found: dict[str, list[float]] = {"beside": [], "without": [], "seen": []}
    for number in range(rounds):
        for is_there in (False, True) if number % 2 else (True, False):
            rate, seen = measure(number, is_there)
            found["beside" if is_there else "without"].append(rate)
            if is_there:
                found["seen"].append(seen)
    return found


def add(
    report: Report, what: str, found: dict[str, list[float]], target: float | None, without: str = "without them"
) -> None:
    """Adds a line of the table: the ratio is the median of the rounds' own ratios."""
    pairs = ratios(found["beside"], found["without"])
    report.add(
        "accept, PostgreSQL",
        f"{CONNECTIONS} connections, beside {what}",
        f"{median(found['beside']):,.0f}/s",
        beside=f"{median(found['without']):,.0f}/s {without}",
        pairs=pairs,
        target=f"≥ {target}" if target else "",
        met=judged(pairs, least=target) if target else None,
    )
