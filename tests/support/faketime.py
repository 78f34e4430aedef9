"""Hosts whose clocks are wrong, and clocks that step: by Debian's faketime, in real processes."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support import databases

needed = pytest.mark.skipif(
    shutil.which("faketime") is None, reason="needs faketime (Debian: apt-get install faketime)"
)
on_postgres = pytest.mark.skipif(not databases.SERVER_URL, reason="on SQLite the database's clock is the host's")


class FakeClock:
    """The clock of whatever runs in its environment; the monotonic one is not touched, as no step of a host's does."""

    def __init__(self, file: Path, ahead: float = 0.0) -> None:
        self._file = file
        self.step_to(ahead)

    @property
    def environment(self) -> dict[str, str]:
        """What a process on this host gets."""
        return {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step_to(self, ahead: float) -> None:
        """From now on it is so many seconds ahead of the true time, or behind it."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{ahead:+f}\n")
        draft.chmod(0o644)
        draft.replace(self._file)


@cache
def _library() -> str:
    asked = ["faketime", "-m", "-f", "+0", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
