"""make bench: measures the service beside its limits, prints a table and writes JSON under var/."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench.accept import accept
from tests.bench.console import console
from tests.bench.drain import drain
from tests.bench.dyno import dyno
from tests.bench.figures import figures
from tests.bench.flow import backlog, end_to_end, latency
from tests.bench.openings import openings
from tests.bench.pages import pages
from tests.bench.promises import promises
from tests.bench.report import Report
from tests.bench.scale import scale
from tests.bench.servers import House, house
from tests.bench.share import share
from tests.bench.size import size
from tests.bench.weight import weight

_NOT_QUICK = ("sqlite", "openings", "drain", "console", "share", "size", "scale", "promises", "dyno")


def main() -> None:
    """Runs the stages asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two minutes: shorter, fewer rounds and rows, without " + ", ".join(_NOT_QUICK),
    )
    parser.add_argument(
        "--only",
        metavar="STAGE,…",
        help="accept, sqlite, openings, pages, flow, drain, latency, backlog, figures, console, share, size, scale, "
        "weight, dyno, promises",
    )
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), metavar="FILE")
    arguments = parser.parse_args()
    report, began = Report(), time.monotonic()
    with house() as ours:
        stages = _stages(report, ours, ours.database("bench"), quick=arguments.quick)
        try:
            chosen = [name for name in stages if not arguments.quick or name not in _NOT_QUICK]
            for name in arguments.only.split(",") if arguments.only else chosen:
                report.say(f"{name} …")
                begun = time.monotonic()
                stages[name]()
                report.took(name, time.monotonic() - begun)
        finally:  # an interrupted run has measured something, too
            minutes, most = (time.monotonic() - began) / 60, 2 if arguments.quick else 20
            is_whole = report.stages.keys() == set(chosen)
            report.add(
                "the run",
                "in all",
                f"{minutes:.1f} minutes",
                target=f"< {most} minutes" if is_whole else "",
                met=minutes < most if is_whole else None,
            )
            report.show()
            report.write(arguments.json)


def _stages(report: Report, ours: House, postgres: str, *, quick: bool) -> dict[str, Callable[[], None]]:
    rounds, seconds = (1, 1.0) if quick else (5, 2.0)
    few = 1 if quick else 3
    burst = 1.0 if quick else 2.0
    return {
        "accept": partial(
            accept,
            report,
            ours,
            postgres,
            connections=[1, 64] if quick else [1, 16, 64],
            rounds=rounds,
            seconds=seconds,
        ),
        "sqlite": lambda: accept(report, ours, ours.sqlite("accept"), connections=[1, 64], rounds=2, seconds=seconds),
        "openings": partial(openings, report, ours, postgres, rounds=few, seconds=seconds, some_come=not quick),
        "pages": partial(pages, report, ours, postgres, rounds=rounds, seconds=seconds),
        "flow": partial(end_to_end, report, ours, postgres, rounds=few, seconds=burst, tasks=2000 if quick else 6000),
        "drain": partial(
            drain, report, ours, postgres, persons=300 if quick else 1000, rounds=1 if quick else 2, tasks=1000
        ),
        "latency": partial(latency, report, ours, postgres, seconds=5 if quick else 30, rounds=few),
        "backlog": partial(backlog, report, ours, postgres, events=10_000 if quick else 50_000, rounds=few),
        "figures": partial(figures, report, ours, rows=10_000 if quick else 300_000, rounds=2 if quick else 7),
        "console": partial(console, report, ours, events=1_000_000, rounds=5),
        "share": partial(share, report, ours, postgres, seconds=15 if quick else 20),
        "size": partial(size, report, ours, events=1_000_000, records=300_000, rounds=2, seconds=seconds),
        "scale": partial(scale, report, ours, postgres, rounds=1, seconds=burst),
        "weight": partial(weight, report, ours, postgres, rounds=few, seconds=1.0),
        "dyno": partial(dyno, report, ours, postgres),
        "promises": partial(promises, report, ours, postgres, connections=[1, 64], pairs=3),
    }


if __name__ == "__main__":
    main()
