"""Deliveries without something and beside it, in turn: what that costs them."""

from collections.abc import Callable
from statistics import median

from tests.bench.report import Report, judged, ratios

CONNECTIONS = 64


def in_turn(rounds: int, measure: Callable[[int, bool], tuple[float, float]]) -> dict[str, list[float]]:
    """Of each round a measurement without it and one with it, or the other way round.

    `measure` takes the round's number and whether it is there, and gives deliveries a second and how much was seen of
    it. Returns the rates `beside` and `without` it, and what was `seen`.
    """
    found: dict[str, list[float]] = {"beside": [], "without": [], "seen": []}
    for number in range(rounds):
        for is_there in (False, True) if number % 2 else (True, False):
            rate, seen = measure(number, is_there)
            found["beside" if is_there else "without"].append(rate)
            if is_there:
                found["seen"].append(seen)
    return found


def add(report: Report, what: str, found: dict[str, list[float]], target: float | None) -> None:
    """A line of the table: the ratio is the median of the rounds' own."""
    pairs = ratios(found["beside"], found["without"])
    report.add(
        "accept, PostgreSQL",
        f"{CONNECTIONS} connections, beside {what}",
        f"{median(found['beside']):,.0f}/s",
        beside=f"{median(found['without']):,.0f}/s without them",
        pairs=pairs,
        target=f"≥ {target}" if target else "",
        met=judged(pairs, least=target) if target else None,
    )
