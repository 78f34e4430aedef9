"""What the processes weigh, and how soon they are ready."""

import re
import subprocess
import sys
from statistics import median

from tests.bench import load
from tests.bench.flow import UNPROCESSED, procfile_running, wait_for_none
from tests.bench.report import Report, judged
from tests.bench.servers import House

_MODULES = {"web": "receiver.app", "worker": "worker.app", "clock": "worker.clock"}
_MOST_MB = {"web": 120, "worker": 120, "clock": 50}
_READY_SECONDS = 1.5


def weight(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """After some work; of a threads pool, the worker is its own only child."""
    with procfile_running(house, database) as (port, processes):
        load.post(port, load.write(house.folder / "requests", "W", int(15_000 * seconds)), 64, seconds)
        wait_for_none(database, *UNPROCESSED)
        memory = {name: some[0].rss() for name, some in processes.items()}
    for name, megabytes in memory.items():
        most = _MOST_MB[name]
        report.add(
            "weight",
            f"memory of {name} after the load",
            f"{megabytes:.0f} MB",
            target=f"< {most} MB",
            met=megabytes < most,
        )
    for name in processes:
        imports = median(_import_seconds(_MODULES[name]) for _ in range(rounds))
        starts = [_ready_seconds(house, database, name) for _ in range(rounds)]
        ready = median(starts)
        report.keep(f"start of {name}", {"import": imports, "ready": ready})
        report.add(
            "weight",
            f"start of {name}",
            f"ready in {ready:.2f} s",
            beside=f"imports alone {imports:.2f} s",
            target=f"< {_READY_SECONDS} s",
            met=judged(starts, most=_READY_SECONDS),
        )


def _import_seconds(module: str) -> float:
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return max(int(micros) for micros in re.findall(r"\| +(\d+) \| \w", lines)) / 1e6


def _ready_seconds(house: House, database: str, name: str) -> float:
    if name == "web":
        with house.web(database) as (_, process):
            return process.ready_seconds
    with (house.worker if name == "worker" else house.clock)(database) as process:
        return process.ready_seconds
