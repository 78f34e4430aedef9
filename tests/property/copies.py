"""Copies of the source that are broken in one place each, and the first test that notices."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
SOURCE = ("config", "handlers", "receiver", "worker")
_COPIED = (*SOURCE, "tests", "pyproject.toml")
LATE = "(none ended in time)"
NOT_RUN = "(its tests could not be run)"
_LONGEST = 300.0  # seconds for the tests of one fault: three times those of the slowest


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One broken file, and the tests that should notice."""

    name: str
    path: str
    broken: str  # the whole file's text
    tests: Sequence[str]


@dataclass(frozen=True, slots=True)
class Result:
    """The test that has noticed one fault, or None."""

    fault: Fault
    caught_by: str | None
    seconds: float


def tried(faults: Sequence[Fault], workers: int) -> Iterator[Result]:
    """Tries each fault in a copy of its own, as many at a time as there are workers; the results keep the order."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            copies.put(_copy(Path(folder) / str(number)))
        yield from pool.map(lambda fault: _try(fault, copies), faults)


def first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    """The test that notices; None if all pass."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *dict.fromkeys(tests)]
    not_its = ("DATABASE_URL", "PROOF_FIGURES", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in not_its}
    environment["PROOF_MUTANT"] = "yes"
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return LATE
    if done.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) tests/(\S+\.py(?:::[^\s\[]+)?)", done.stdout, re.MULTILINE)
    return named[1] if named and "errors during collection" not in done.stdout else NOT_RUN


def _copy(folder: Path) -> Path:
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _try(fault: Fault, copies: "SimpleQueue[Path]") -> Result:
    started, folder = time.monotonic(), copies.get()
    path = folder / fault.path
    source = path.read_text()
    path.write_text(fault.broken)
    try:
        return Result(fault, first_failure(folder, fault.tests), time.monotonic() - started)
    finally:
        path.write_text(source)
        copies.put(folder)
