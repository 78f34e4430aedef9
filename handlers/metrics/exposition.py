"""The metrics as text that Prometheus reads: counters and histograms of all processes, gauges read from the tables.

https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4.
"""

from collections.abc import Iterator
from dataclasses import asdict

from sqlalchemy import select
from sqlmodel import col

from config.database import transaction
from handlers.metrics import counting
from handlers.operator.queries import backlog
from handlers.tables.models import InboxEvent, Metric, OutboxAction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GAUGES = {
    "identity_events_waiting": "Events received and not processed.",
    "identity_events_due": "Events that a worker could take now.",
    "identity_events_dead": "Events given up.",
    "identity_events_oldest_seconds": "Age of the oldest event not processed.",
    "identity_actions_waiting": "Actions owed and not done.",
    "identity_actions_due": "Actions that a worker could take now.",
    "identity_actions_dead": "Actions given up.",
    "identity_actions_oldest_seconds": "Age of the oldest action not done.",
}


def exposition() -> str:
    """All metrics at this moment; what other processes counted in their last seconds is not in it yet."""
    counting.flush()
    found = _counted()
    lines = [*_counters(found), *_histograms(found), *_gauges()]
    return "\n".join(lines) + "\n"


def _counted() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with transaction() as session:
        for row in session.execute(select(col(Metric.name), col(Metric.labels), col(Metric.value))):
            found.setdefault(row.name, {})[row.labels] = row.value
    return found


def _counters(found: dict[str, dict[str, float]]) -> Iterator[str]:
    for name, words in counting.COUNTERS.items():
        yield from _head(name, "counter", words)
        for labels, value in sorted(found.get(name, {}).items()):
            yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _histograms(found: dict[str, dict[str, float]]) -> Iterator[str]:
    for name, histogram in counting.HISTOGRAMS.items():
        yield from _head(name, "histogram", histogram.words)
        buckets, total = found.get(f"{name}_bucket", {}), 0.0
        for bound in (*map(str, histogram.bounds), "+Inf"):
            total += buckets.get(f'le="{bound}"', 0.0)
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {found.get(f'{name}_sum', {}).get('', 0.0)}"
        yield f"{name}_count {total}"


def _gauges() -> Iterator[str]:
    values = {
        f"identity_{noun}_{name}": value
        for noun, table in (("events", InboxEvent), ("actions", OutboxAction))
        for name, value in asdict(backlog(table)).items()
    }
    for name, words in GAUGES.items():
        yield from _head(name, "gauge", words)
        yield f"{name} {values[name]}"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
