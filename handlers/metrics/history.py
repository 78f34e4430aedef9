"""The counts of the last hour by the minute, of the last day by the hour, and of the last month by the day."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import String, cast, func, select
from sqlmodel import col

from config.database import database_now, statement
from handlers.metrics import tallies
from handlers.tables.models import Tally

# Each count: its counter's name, and the label that tells its kinds apart.
PICTURED = {
    "deliveries": ("identity_deliveries_total", "outcome"),
    "events": ("identity_events_total", "outcome"),
    "actions": ("identity_actions_total", "status"),
    "event ages": ("identity_event_age_seconds_bucket", "le"),
    "action ages": ("identity_action_age_seconds_bucket", "le"),
}
_OF = {name: (what, label) for what, (name, label) in PICTURED.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """A number of slots; the tallies of one are `seconds` long, and their times begin with the same `letters`."""

    slots: int
    length: timedelta
    letters: int
    seconds: int


PICTURE_SPANS = {
    "hour": Span(60, timedelta(minutes=1), len("2026-11-26 05:00"), tallies.MINUTE),
    "day": Span(24, timedelta(hours=1), len("2026-11-26 05"), tallies.LONG),
    "month": Span(30, timedelta(days=1), len("2026-11-26"), tallies.LONG),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: its start, in UTC, and its counts of each kind."""

    since: datetime
    counts: dict[str, dict[str, float]]

    def oldest(self, what: str, share: float) -> float | None:
        """The age in seconds that this share of its rows did not exceed: a bucket's bound; None if no row ended."""
        buckets = sorted((float(bound), count) for bound, count in self.counts[what].items())
        total, so_far = sum(count for _, count in buckets), 0.0
        for bound, count in buckets:
            so_far += count
            if so_far >= share * total:
                return bound
        return None


def history(name: str) -> list[Slot]:
    """The slots of one of SPANS; the last one is still going on, and the counts are some seconds behind."""
    span, at = PICTURE_SPANS[name], database_now().astimezone(UTC).replace(second=0, microsecond=0)
    last = at if name == "hour" else at.replace(minute=0) if name == "day" else at.replace(hour=0, minute=0)
    slots = {}
    for number in reversed(range(span.slots)):
        since = last - number * span.length
        slots[f"{since:%Y-%m-%d %H:%M}"[: span.letters]] = Slot(since, {what: defaultdict(float) for what in PICTURED})
    # The moment's text begins alike on both databases: every connection shows times in UTC.
    moment = func.substr(cast(col(Tally.since), String), 1, span.letters)
    grown = (
        select(moment, col(Tally.name), col(Tally.labels), func.sum(col(Tally.value)))
        .where(col(Tally.seconds) == span.seconds, col(Tally.since) >= next(iter(slots.values())).since)
        .where(col(Tally.name).in_(_OF))
        .group_by(moment, col(Tally.name), col(Tally.labels))
    )
    with statement() as connection:
        rows = connection.execute(grown).all()
    for slot, counter, labels, value in rows:
        what, label = _OF[counter]
        if slot in slots:
            slots[slot].counts[what][dict(tallies.LABEL.findall(labels))[label]] += value
    return list(slots.values())
