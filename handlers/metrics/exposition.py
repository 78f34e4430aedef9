"""The metrics as Prometheus reads them: counters and histograms of all processes, gauges read from the tables."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import accumulate, product

from prometheus_client import core
from prometheus_client.exposition import choose_encoder
from sqlalchemy import select
from sqlmodel import col

from config.database import reading
from config.settings import running_commit
from config.version import VERSION
from handlers.metrics import counting, tallies
from handlers.operator.figures import Figures
from handlers.operator.findings import FAIL, JUDGES, WARN, judged
from handlers.operator.queries import MOST_COUNTED
from handlers.tables.models import Metric
from handlers.upkeep import unanswered

_COUNTED = f"{MOST_COUNTED:,} and one of them are counted at most."
GAUGES = {
    "identity_events_waiting": f"Events received and not processed: {_COUNTED}",
    "identity_events_due": f"Events that a worker could take now: {_COUNTED}",
    "identity_events_dead": f"Events given up: {_COUNTED}",
    "identity_events_overdue": f"Events that have waited for more than a day: {_COUNTED}",
    "identity_events_oldest_seconds": "Age of the oldest event not processed.",
    "identity_actions_waiting": f"Actions owed and not done: {_COUNTED}",
    "identity_actions_due": f"Actions that a worker could take now: {_COUNTED}",
    "identity_actions_dead": f"Actions given up: {_COUNTED}",
    "identity_actions_overdue": f"Actions that have waited for more than a day: {_COUNTED}",
    "identity_actions_oldest_seconds": "Age of the oldest action not done.",
    "identity_unanswered_accounts": "Accounts that Stripe would not answer about the last time, our own among them.",
    "identity_unanswered_sessions": "Sessions that Stripe would not answer about the last time.",
    "identity_unanswered_seconds": "Seconds of Stripe's lists that could not be read the last time.",
    "identity_redactions_overdue": f"Sessions not redacted five days after somebody has asked for it: {_COUNTED}",
    "identity_paused": "Destinations of what is owed that nothing is done for now, openings among them.",
}
CLOCKS = "identity_clock_ahead_seconds"
FINDINGS = "identity_findings"
OPENMETRICS = "application/openmetrics-text"

_Counted = defaultdict[str, dict[str, float]]  # by name, then by labels


def exposition(broker_trouble: str | None = None, accept: str = "") -> tuple[bytes, str]:
    """All metrics at this moment, and their content type: OpenMetrics where an Accept header names it, else plain text.

    `broker_trouble` is the reason why the broker cannot be used. Other processes' last seconds are not counted yet.
    """
    counting.flush()
    # The library's own reading of the header fails for a version that is no number, such as "1.0.0" in its quotes.
    encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encode(_Metrics(Figures(broker_trouble))), content_type


class _Metrics:
    """The metrics of one scrape."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[core.Metric]:
        counted = _counted()
        for own in counting.COUNTED.collect():  # for the names alone: the values are those of all processes
            yield _histogram(own, counted) if own.type == "histogram" else _counter(own, counted)
        yield from _gauges(self._figures)
        found = core.GaugeMetricFamily(FINDINGS, "What needs a hand, by what it is about.", labels=("what", "level"))
        needed = [(one.what, one.level) for one in judged(self._figures)]
        for about in product(JUDGES, (FAIL, WARN)):
            found.add_metric(about, needed.count(about))
        yield found
        build = {"version": VERSION, "commit": running_commit()}
        yield core.InfoMetricFamily("identity_build", "What runs in the web process that was asked.", build)


def _counted() -> _Counted:
    counted: _Counted = defaultdict(dict)
    with reading() as session:
        rows = select(col(Metric.name), col(Metric.labels), col(Metric.value))
        for row in session.execute(rows.order_by(col(Metric.name), col(Metric.labels))):
            counted[row.name][row.labels] = row.value
    return counted


def _counter(own: core.Metric, counted: _Counted) -> core.Metric:
    name = f"{own.name}_total"
    rows = [core.Sample(name, dict(tallies.LABEL.findall(labels)), value) for labels, value in counted[name].items()]
    # A counter without labels begins at zero: to Prometheus one that begins at one has not grown, and no alert fires.
    own.samples = rows or [sample._replace(value=0.0) for sample in own.samples]
    return own


def _histogram(own: core.Metric, counted: _Counted) -> core.Metric:
    bounds = [sample.labels["le"] for sample in own.samples if "le" in sample.labels]
    buckets = counted[f"{own.name}_bucket"]
    totals = accumulate(buckets.get(f'le="{bound}"', 0.0) for bound in bounds)
    return core.HistogramMetricFamily(
        own.name,
        own.documentation,
        buckets=list(zip(bounds, totals, strict=True)),
        sum_value=counted[f"{own.name}_sum"].get("", 0.0),
    )


def _gauges(figures: Figures) -> Iterator[core.Metric]:
    values = {
        f"identity_{noun}_{name}": value
        for noun, backlog in figures.backlogs.items()
        for name, value in asdict(backlog).items()
    }
    values |= {f"identity_unanswered_{what}": count for what, count in unanswered.counts(figures.unanswered).items()}
    values |= {"identity_redactions_overdue": len(figures.not_redacted), "identity_paused": len(figures.paused)}
    for name, description in GAUGES.items():
        yield core.GaugeMetricFamily(name, description, value=values[name])
    leads = core.GaugeMetricFamily(CLOCKS, "Lead of a process's clock before the database's.", labels=("process",))
    worst = {process.kind: ahead for process, ahead in reversed(figures.clocks)}
    for kind, ahead in worst.items():
        leads.add_metric((kind,), ahead)
    yield leads
