"""Copies of the source that are broken in one place each, and the first test that notices."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.support.extended import copy_to

LATE = "(none ended in time)"
NOT_RUN = "(its tests could not be run)"
_LONGEST = 100  # seconds for one test, several times the slowest; and for a file of them on average


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


def tried(faults: Sequence[Fault], workers: int) -> Iterator[Result]:
    """Tries each fault in a copy of its own, as many at a time as there are workers; the results keep the order."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            copies.put(_copy(Path(folder) / str(number)))
        yield from pool.map(lambda fault: _try(fault, copies), faults)


def failure_without(faults: Sequence[Fault]) -> str | None:
    """A test of theirs that fails in a copy without any fault, and so would notice each of them; None if all pass."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        return _first_failure(_copy(Path(folder)), sorted({test for fault in faults for test in fault.tests}))


def _copy(folder: Path) -> Path:
    """A copy with this environment at its usual place, by which the tests of what a page types call it."""
    (copy_to(folder) / ".venv").symlink_to(sys.prefix)
    return folder


def _first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    """The test that notices; None if all pass."""
    quick = ("-x", "-q", "-p", "no:cacheprovider", f"--timeout={_LONGEST}")
    command = [sys.executable, "-B", "-m", "pytest", *quick, *dict.fromkeys(tests)]
    not_its = ("DATABASE_URL", "PROOF_FIGURES", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in not_its}
    environment["PROOF_MUTANT"] = "yes"
    bound = _LONGEST * len(tests)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=bound, check=False
        )
    except subprocess.TimeoutExpired:
        return LATE
    if done.returncode == 0:
        return None
    if "+ Timeout +" in done.stdout:  # by pytest-timeout
        return LATE
    named = re.search(r"^(?:FAILED|ERROR) tests/(\S+\.py(?:::[^\s\[]+)?)", done.stdout, re.MULTILINE)
    return named[1] if named and "errors during collection" not in done.stdout else NOT_RUN


def _try(fault: Fault, copies: "SimpleQueue[Path]") -> Result:
    folder = copies.get()
    path = folder / fault.path
    source = path.read_text()
    path.write_text(fault.broken)
    try:
        return Result(fault, _first_failure(folder, fault.tests))
    finally:
        path.write_text(source)
        copies.put(folder)
