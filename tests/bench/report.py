"""The figures of a run: a table for people, JSON for everything else."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

RANGE = "range"
# In the form that README and docs/performance.md quote.
STORY = "{events:,.0f} events a second from POST to mail, beside {tasks:,.0f} no-op Celery tasks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured value beside its limit."""

    stage: str
    what: str
    value: str
    beside: str = ""
    ratio: float | None = None
    pairs: list[float] = field(default_factory=list)  # the ratio is their median
    target: str = ""
    met: bool | str | None = None

    @property
    def shown_ratio(self) -> str:
        """The ratio with the least and the most of the pairs, between which the next run's may be."""
        spread = f" ({min(self.pairs):.2f} to {max(self.pairs):.2f})" if len(self.pairs) > 1 else ""
        return "" if self.ratio is None else f"{self.ratio:.2f}{spread}"


@dataclass(slots=True)
class Report:
    """All figures, in the order in which they were measured."""

    command: str = "make bench"
    figures: list[Figure] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)  # seconds
    story: str = ""
    console: Console = field(default_factory=lambda: Console(width=170 if not sys.stdout.isatty() else None))

    def say(self, words: str) -> None:
        """Prints a line about the work in hand."""
        self.console.print(f"[dim]{datetime.now(UTC):%H:%M:%S} {words}[/]", highlight=False)

    def add(self, stage: str, what: str, value: str, *, pairs: Sequence[float] = (), **more: Any) -> None:
        """Adds a line of the table; its ratio is the median of those of rounds that ran side by side."""
        figure = Figure(stage=stage, what=what, value=value, pairs=[*pairs], **more)
        if pairs and figure.ratio is None:
            figure = replace(figure, ratio=median(pairs))
        self.figures.append(figure)
        self.say(f"{stage}: {what}: {value} {figure.beside} {figure.shown_ratio and f'= {figure.shown_ratio}'}")

    def took(self, stage: str, seconds: float) -> None:
        """Notes the length of a stage."""
        self.stages[stage] = round(seconds, 1)
        self.say(f"{stage} took {seconds:.0f} s")

    def keep(self, name: str, samples: Any) -> None:
        """Keeps the raw values behind a line."""
        self.samples[name] = samples

    def show(self) -> None:
        """Prints the table."""
        table = Table(title=f"{self.command}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_machine()}")
        for heading in ("stage", "what", "measured", "beside", "ratio", "target", "met"):
            table.add_column(heading, justify="right" if heading == "ratio" else "left")
        stage = ""
        for one in self.figures:
            if one.stage != stage:
                table.add_section()
            met = {None: "", True: "[green]yes[/]", False: "[red]no[/]", RANGE: "[yellow]range[/]"}[one.met]
            table.add_row(
                one.stage if one.stage != stage else "",
                *(one.what, one.value, one.beside, one.shown_ratio, one.target, met),
            )
            stage = one.stage
        self.console.print(table)

    def show_plans(self) -> None:
        """Prints each statement's beginning, and its plan."""
        for statement, plan in self.plans.items():
            self.console.print(f"\n{statement}\n{plan}", highlight=False, markup=False)

    def write(self, path: Path) -> None:
        """Writes the JSON, and beside it the table as Markdown, for docs/performance.md."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": _machine(),
            "figures": [asdict(one) for one in self.figures],
            "seconds": self.stages,
            "samples": self.samples,
            "plans": self.plans,
        }
        path.write_text(json.dumps(content, indent=1))
        path.with_suffix(".md").write_text(self._markdown())
        self.say(f"written to {path}, and as Markdown beside it")

    def _markdown(self) -> str:
        lines = [f"`{self.command}` at `{_commit()}`, {_machine()}.", ""]
        lines += ["| what | measured | beside | ratio | target |", "|---|---|---|---|---|"]
        for one in self.figures:
            met = {None: "", True: ": met", False: ": not met", RANGE: ": range"}[one.met]
            words = f"{one.stage}: {one.what}", one.value, one.beside, one.shown_ratio, f"{one.target}{met}"
            lines.append(f"| {' | '.join(words)} |")
        lines += ["", self.story] if self.story else []
        return "\n".join(lines) + "\n"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratio of each round, whose two sides ran beside each other."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def beside_noops(rates: Sequence[float], of: str, noops: Sequence[float]) -> dict[str, Any]:
    """Rates a second beside those of tasks that do nothing, as Report.add takes them."""
    return {
        "value": f"{median(rates):,.0f} {of}/s",
        "beside": f"{median(noops):,.0f} no-op tasks/s",
        "pairs": ratios(rates, noops),
    }


def judged(values: Sequence[float], *, least: float = -inf, most: float = inf) -> bool | str | None:
    """Whether each round is within the limits, or none: RANGE if some are, since the next median may say otherwise.

    None for a single round, which says nothing of the next.
    """
    within = {least <= one <= most for one in values}
    return None if len(values) == 1 else RANGE if len(within) > 1 else within.pop()


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}"
