"""The growth of counters in spans of time: a minute for some hours, ten for a day or two, hours for a month."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, select
from sqlmodel import col

from config.database import now, statement, true_now
from config.inserts import insert_or
from handlers.tables.models import Tally

MINUTE, SHORT, LONG = 60, 600, 3600  # seconds
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TEN_MINUTES, TWENTY_MINUTES = timedelta(minutes=10), timedelta(minutes=20)
SPANS = (TEN_MINUTES, TWENTY_MINUTES, HOUR, DAY)
_DELIVERIES, _SKIPPED = "identity_deliveries_total", "identity_skipped_actions_total"
_IGNORED, _UNKNOWN = "identity_ignored_events_total", "identity_unknown_senders_total"
_REQUESTS, _ACTIONS = "identity_api_requests_total", "identity_actions_total"
_READ = (_DELIVERIES, _SKIPPED, _IGNORED, _UNKNOWN, _REQUESTS, _ACTIONS)
_ENDED = {
    "deliveries_answered": _DELIVERIES,
    "events_ended": "identity_events_total",
    "actions_ended": _ACTIONS,
}
_KEPT = {MINUTE: timedelta(hours=3), SHORT: timedelta(days=2), LONG: timedelta(days=32)}
# A label as handlers/metrics/counting.py writes it; no text of ours has a quote in it.
LABEL = re.compile(r'(\w+)="([^"]*)"')
_ADDED = "(seconds, since, name, labels) DO UPDATE SET value = identity_tally.value + excluded.value"


@dataclass(frozen=True, slots=True)
class Count:
    """The numbers of deliveries refused, events ignored or actions skipped, for one reason."""

    what: str
    why: str
    last_hour: int
    last_day: int


def add(connection: Connection, grown: Sequence[dict[str, Any]]) -> None:
    """Adds the growth of each counter to its tallies: names, labels and values, in the order of their keys."""
    at = true_now().timestamp()
    spans = [{"seconds": seconds, "since": datetime.fromtimestamp(at - at % seconds, UTC)} for seconds in _KEPT]
    rows = [span | row for span in spans for row in grown]
    insert_or(connection, Tally, rows, on_conflict=_ADDED, returning="name")


class Lately:
    """The counts of deliveries, ignored events, ended actions, requests and unknown senders in each of SPANS.

    Each span includes the current ten minutes.
    """

    def __init__(self, rows: Iterable[Row[Any]]) -> None:
        self._grown: list[tuple[str, dict[str, str], dict[timedelta, float]]] = [
            (row.name, dict(LABEL.findall(row.labels)), dict(zip(SPANS, row[2:], strict=True))) for row in rows
        ]

    def deliveries(self, within: timedelta) -> dict[tuple[str, str], float]:
        """The number of deliveries, by outcome and reason."""
        found = self._counted(_DELIVERIES, within)
        return defaultdict(float, {(labels["outcome"], labels["reason"]): count for labels, count in found})

    def skipped(self, within: timedelta) -> dict[tuple[str, str], float]:
        """The number of skipped actions, by name and reason."""
        found = self._counted(_SKIPPED, within)
        return defaultdict(float, {(labels["name"], labels["reason"]): count for labels, count in found})

    def done(self, within: timedelta) -> set[str]:
        """The names of actions of which at least one was done."""
        return {labels["name"] for labels, _ in self._counted(_ACTIONS, within) if labels["status"] == "done"}

    def requests(self, within: timedelta) -> dict[str, float]:
        """The number of the application's requests, by whether their token was accepted or refused."""
        return defaultdict(float, {labels["outcome"]: count for labels, count in self._counted(_REQUESTS, within)})

    def unknown_senders(self, within: timedelta) -> float:
        """The number of visits whose sender nobody knows."""
        return sum(count for _, count in self._counted(_UNKNOWN, within))

    def counts(self) -> list[Count]:
        """The counts of the last day by reason (refused, ignored, skipped), the most frequent first."""
        hourly, daily = self._not_done(HOUR), self._not_done(DAY)
        found = [Count(what, why, round(hourly[what, why]), round(count)) for (what, why), count in daily.items()]
        return sorted(found, key=lambda one: (-one.last_day, one.what, one.why))

    def _not_done(self, within: timedelta) -> dict[tuple[str, str], float]:
        refused = ((f"deliveries {outcome}", why, count) for (outcome, why), count in self.deliveries(within).items())
        skipped = ((f"{name} skipped", why, count) for (name, why), count in self.skipped(within).items())
        ignored = (("events ignored", labels["reason"], count) for labels, count in self._counted(_IGNORED, within))
        not_done = (*refused, *skipped, *ignored)
        return defaultdict(float, {(what, why): count for what, why, count in not_done if why})

    def _counted(self, name: str, within: timedelta) -> Iterator[tuple[dict[str, str], float]]:
        return ((labels, values[within]) for known, labels, values in self._grown if known == name and values[within])


def lately() -> Lately:
    """The counts in each of SPANS, read in one statement."""
    since, value = col(Tally.since), col(Tally.value)
    sums = (func.sum(case((since > now(-span), value), else_=0.0)) for span in SPANS)
    grown = (
        select(col(Tally.name), col(Tally.labels), *sums)
        .where(col(Tally.seconds) == SHORT, since > now(-DAY), col(Tally.name).in_(_READ))
        .group_by(col(Tally.name), col(Tally.labels))
    )
    with statement() as connection:
        return Lately(connection.execute(grown).all())


def ended(within: timedelta) -> dict[str, int]:
    """The numbers of answered deliveries, ended events and ended actions of the last minutes, the current one too."""
    since, name = col(Tally.since), col(Tally.name)
    counted = (
        select(name, func.sum(col(Tally.value)))
        .where(col(Tally.seconds) == MINUTE, since > now(-within), name.in_(_ENDED.values()))
        .group_by(name)
    )
    with statement() as connection:
        found = {row[0]: row[1] for row in connection.execute(counted)}
    return {what: round(found.get(of, 0)) for what, of in _ENDED.items()}


def forget_old_tallies() -> None:
    """Deletes the tallies that no picture shows any more."""
    for seconds, kept in _KEPT.items():
        with statement() as connection:
            old = delete(Tally).where(col(Tally.seconds) == seconds, col(Tally.since) < now(-kept))
            connection.execute(old)
