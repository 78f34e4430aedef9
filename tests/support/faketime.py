"""Hosts whose clocks are wrong, and clocks that step: real processes under Debian's faketime."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support import databases

needed = pytest.mark.skipif(shutil.which("faketime") is None, reason="needs Debian's faketime")
on_postgres = pytest.mark.skipif(not databases.SERVER_URL, reason="on SQLite the database's clock is the host's")


def host(ahead: float) -> dict[str, str]:
    """The environment of a process on a host whose clock is so many seconds ahead."""
    return {**_faked(), "FAKETIME": f"{ahead:+f}"}


class SteppingClock:
    """A clock that a test moves, for all processes in its environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step_to(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process under this clock."""
        return {**_faked(), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1"}

    def step_to(self, ahead: float) -> None:
        """Sets the clock so many seconds ahead of the true time, or behind it."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{ahead:+f}\n")
        draft.chmod(0o644)
        draft.replace(self._file)


@cache
def _faked() -> dict[str, str]:
    """The settings that fake the wall clock alone: a step of a host's clock moves no monotonic clock.

    The library's own mending of monotonic waits ends each wait of Python's at once: threads spin, and the test measures
    the library.
    """
    asked = ["faketime", "-m", "-f", "+0", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])"]
    # It fails if a killed process of the same number has left a semaphore: the next try has another number.
    tries = (subprocess.run(asked, capture_output=True, text=True, check=False) for _ in range(3))
    library = next(ended.stdout.strip() for ended in tries if ended.returncode == 0)
    sleeps = Path(__file__).parent / "faked"
    monotonic = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
    return {"LD_PRELOAD": library, "PYTHONPATH": str(sleeps), **monotonic}
