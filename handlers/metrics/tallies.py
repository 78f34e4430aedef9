"""What counters have grown by in spans of time: ten minutes for a day or two, hours for a month."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, select
from sqlmodel import col

from config.database import now, statement, true_now
from config.inserts import insert_or
from handlers.tables.models import Tally

SHORT, LONG = 600, 3600  # seconds
_KEPT = {SHORT: timedelta(days=2), LONG: timedelta(days=32)}
# As handlers/metrics/counting.py writes it; no text of ours has a quote in it.
LABEL = re.compile(r'(\w+)="([^"]*)"')
_ADDED = "(seconds, since, name, labels) DO UPDATE SET value = identity_tally.value + excluded.value"


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was not taken, or not done."""

    what: str
    why: str
    last_hour: int
    last_day: int


def add(connection: Connection, grown: Sequence[dict[str, Any]]) -> None:
    """By how much each counter has grown: names, labels and values, in the order of their keys."""
    at = true_now().timestamp()
    for seconds in (SHORT, LONG):
        since = datetime.fromtimestamp(at - at % seconds, UTC)
        rows = [{"seconds": seconds, "since": since, **row} for row in grown]
        insert_or(connection, Tally, rows, on_conflict=_ADDED, returning="name")


def counted(name: str, within: timedelta) -> list[tuple[dict[str, str], float]]:
    """What a counter has grown by lately, by its labels; the span that goes on is in it."""
    grown = (
        select(col(Tally.labels), func.sum(col(Tally.value)).label("value"))
        .where(col(Tally.seconds) == SHORT, col(Tally.since) > now(-within), col(Tally.name) == name)
        .group_by(col(Tally.labels))
    )
    with statement() as connection:
        return [(dict(LABEL.findall(row.labels)), row.value) for row in connection.execute(grown)]


def deliveries(within: timedelta) -> dict[tuple[str, str], float]:
    """How many there were lately, by outcome and reason."""
    found = counted("identity_deliveries_total", within)
    return defaultdict(float, {(labels["outcome"], labels["reason"]): count for labels, count in found})


def counts() -> list[Count]:
    """What was refused, ignored or skipped in the last day, by reason; the most frequent first."""
    hourly, daily = _not_done(timedelta(hours=1)), _not_done(timedelta(days=1))
    found = [Count(what, why, round(hourly[what, why]), round(count)) for (what, why), count in daily.items()]
    return sorted(found, key=lambda one: (-one.last_day, one.what, one.why))


def _not_done(within: timedelta) -> dict[tuple[str, str], float]:
    found = defaultdict[tuple[str, str], float](float)
    for (outcome, reason), count in deliveries(within).items():
        if reason:
            found[f"deliveries {outcome}", reason] += count
    for labels, count in counted("identity_skipped_actions_total", within):
        found[f"{labels['name']} skipped", labels["reason"]] += count
    return found


def forget_old() -> None:
    """What no picture shows any more."""
    for seconds, kept in _KEPT.items():
        with statement() as connection:
            old = delete(Tally).where(col(Tally.seconds) == seconds, col(Tally.since) < now(-kept))
            connection.execute(old)
