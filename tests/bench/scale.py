"""Two web processes, several workers, several clocks: as correct, and as much faster as two cores allow."""

import sys
from statistics import median

from tests.bench import store
from tests.bench.flow import UNDONE, UNPROCESSED, posted
from tests.bench.report import Report, ratios
from tests.bench.servers import House

_HOUSES = (
    ("2 web, 1 worker, 1 clock", {"webs": 2}),
    ("1 web, 2 workers, 1 clock", {"workers": 2}),
    ("2 web, 2 workers, 2 clocks", {"webs": 2, "workers": 2, "clocks": 2}),
)


def scale(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """Measures in turn: in each round every number of processes."""
    store.empty(database)
    alone: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name, _ in _HOUSES}
    for number in range(rounds):
        alone.append(_rate(house, database, f"X{number}x", seconds))
        for place, (name, processes) in enumerate(_HOUSES):
            rates[name].append(_rate(house, database, f"X{number}y{place}x", seconds, **processes))
    report.keep("scale", {"1 web, 1 worker, 1 clock": alone, **rates})
    for name, some in rates.items():
        beside = f"{median(alone):,.0f}/s with one of each"
        report.add("scale out", name, f"{median(some):,.0f} events/s", beside=beside, pairs=ratios(some, alone))
    _check(database)


def _rate(house: House, database: str, tag: str, seconds: float, **processes: int) -> float:
    with posted(house, database, tag, seconds, **processes) as rate_until:
        rate = rate_until(*UNPROCESSED)
        rate_until(*UNDONE)
    return rate


def _check(database: str) -> None:
    """Checks every event once, every record verified, every action owed once."""
    sessions = store.count(database, "verification_record")
    complete = {
        "verified records": store.count(database, "verification_record", "status = 'verified'"),
        "submissions": store.count(database, "verification_submission"),
        "actions": store.count(database, "outbox_action", "status IN ('done', 'skipped')"),
    }
    # The last sessions of a run may be incomplete, since its time was over.
    wrong = {name: number for name, number in complete.items() if not sessions - 64 * 100 <= number <= sessions}
    if wrong or store.count(database, "inbox_event", "status <> 'processed'"):
        sys.exit(f"of {sessions} sessions: {wrong}")
