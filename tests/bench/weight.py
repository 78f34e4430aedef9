"""The memory of the processes, and the time until they are ready."""

import subprocess
import sys
import time
from statistics import median

from tests.bench import load
from tests.bench.flow import MAILING, UNDONE, UNPROCESSED, procfile_running, wait_for_none
from tests.bench.report import Report, judged
from tests.bench.servers import House

# The libraries that each process imports first: its own start is the time beyond theirs.
_BARE = {
    "web": "import starlette.applications, uvicorn",
    "worker": "import celery.apps.worker, celery.worker",
    "clock": "pass",
}
_MOST_MB = {"web": 120, "worker": 120, "clock": 50}
_READY_SECONDS = 1.2  # beyond the bare imports


def weight(report: Report, house: House, database: str, *, rounds: int, seconds: float) -> None:
    """Measures after some work, with the mails that it owes."""
    memory: dict[str, list[float]] = {name: [] for name in _MOST_MB}
    for number in range(rounds):
        with procfile_running(house, database, variables=MAILING) as (port, processes):
            load.post(port, load.write(house.folder / "requests", f"W{number}x", int(15_000 * seconds)), 64, seconds)
            for undone in (UNPROCESSED, UNDONE):
                wait_for_none(database, *undone)
            for name, megabytes in memory.items():
                megabytes.append(processes[name][0].rss())
    report.keep("memory", memory)
    for name, megabytes in memory.items():
        most = _MOST_MB[name]
        report.add(
            "weight",
            f"memory of {name} after the load",
            f"{median(megabytes):.0f} MB",
            beside=f"{min(megabytes):.1f} to {max(megabytes):.1f} MB",
            target=f"< {most} MB",
            met=judged(megabytes, most=most),
        )
    for name in memory:
        pairs = [(_seconds(_BARE[name]), _ready_seconds(house, database, name)) for _ in range(rounds)]
        beyond = [ready - bare for bare, ready in pairs]
        report.keep(f"start of {name}", pairs)
        report.add(
            "weight",
            f"start of {name}: ready",
            f"{median(ready for _, ready in pairs):.2f} s",
            beside=f"{_BARE[name].replace('pass', 'Python')} {median(bare for bare, _ in pairs):.2f} s; "
            f"beyond it {min(beyond):.2f} to {max(beyond):.2f} s",
            target=f"< {_READY_SECONDS} s beyond it",
            met=judged(beyond, most=_READY_SECONDS),
        )


def _seconds(program: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.monotonic() - began


def _ready_seconds(house: House, database: str, name: str) -> float:
    if name == "web":
        with house.web(database) as (_, process):
            return process.ready_seconds
    with (house.worker if name == "worker" else house.clock)(database) as process:
        return process.ready_seconds
