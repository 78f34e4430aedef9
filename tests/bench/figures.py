"""The time in which web shows figures and pages of the console, with many waiting rows and with none."""

import re
import time
from statistics import median

import httpx2 as httpx

from handlers.operator.console_users import hash_of
from tests.bench import store
from tests.bench.report import Report, judged, ratios
from tests.bench.servers import House

_PASSWORD = "measured by the bench"
_GOOD_FOR = 1.1  # seconds: one look at the tables answers all requests within a second
_FOR_MONITORS, _FOR_PERSONS = 20.0, 100.0  # milliseconds
_PATHS = {
    "/health/backlog": _FOR_MONITORS,
    "/metrics": _FOR_MONITORS,
    "/console": _FOR_PERSONS,
    "/console/lists/waiting-events": _FOR_PERSONS,
    "/console/lists/dead-actions": _FOR_PERSONS,
    "/console/lists/dead-actions?error=of+none": _FOR_PERSONS,
    "/console/persons/vs_1Wait1": _FOR_PERSONS,
}


def figures(report: Report, house: House, *, rows: int, rounds: int) -> None:
    """Measures each page once a round, with no waiting rows and with so many waiting events and actions, and a third as
    many dead; beside the time in which PostgreSQL counts the waiting rows.
    """
    calm, full = house.database("calm"), house.database("waiting")
    store.fill_undone(calm, 1)
    store.fill_undone(full, rows)
    users = {"CONSOLE_USERS": f"anna:look:{hash_of(_PASSWORD)}", "CONSOLE_KEYS": "c" * 32}
    seen: dict[str, dict[str, list[float]]] = {calm: {}, full: {}}
    with house.web(calm, **users) as (calm_port, _), house.web(full, **users) as (full_port, _):
        visitors = {calm: _visitor(calm_port), full: _visitor(full_port)}
        for _ in range(rounds + 1):  # the first round connects, and compiles
            time.sleep(_GOOD_FOR)
            for path in _PATHS:
                for database, visitor in visitors.items():
                    seen[database].setdefault(path, []).append(_milliseconds(visitor, path))
    counted = median(store.seconds_to_count(full) for _ in range(rounds)) * 1000
    report.keep("figures", {"calm": seen[calm], "full": seen[full], "counted": counted})
    for path, limit in _PATHS.items():
        ours, theirs = seen[full][path][1:], seen[calm][path][1:]
        report.add(
            f"figures: {rows:,} events and actions wait",
            f"GET {path}",
            f"{median(ours):.1f} ms",
            beside=f"{median(theirs):.1f} ms where none do; to count them {counted:.0f} ms",
            pairs=ratios(ours, theirs),
            target=f"≤ {limit:.0f} ms",
            met=judged(ours, most=limit),
        )


def _visitor(port: int) -> httpx.Client:
    """A visitor who is signed in."""
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
    token = re.search(r'name="token" value="([\w-]+)"', client.get("/console/sign-in").text)
    sent = {"name": "anna", "password": _PASSWORD, "token": token[1] if token else ""}
    client.post("/console/sign-in", data=sent)
    return client


def _milliseconds(visitor: httpx.Client, path: str) -> float:
    begun = time.perf_counter()
    answer = visitor.get(path)
    taken = (time.perf_counter() - begun) * 1000
    if answer.status_code not in (200, 503):  # /health/backlog answers 503, since rows have waited for long
        raise RuntimeError(f"{path}: {answer.status_code}")
    return taken
