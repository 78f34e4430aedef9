"""The operator at a terminal: commands as real processes, and a Stripe to point them at."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handlers.inbox.process import process
from handlers.operator.queries import Filter, find_events
from handlers.tables.models import InboxStatus
from tests.simulator.client import Simulator
from tests.support import databases

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, which must be one JSON document."""
        return json.loads(self.out)


def command(*words: str, **settings: str) -> Said:
    """Runs `python -m worker …` in this test's environment."""
    line = [sys.executable, "-m", "worker", *words]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


@contextmanager
def stripe_in_use(simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The simulator, empty, as this test's Stripe."""
    simulator.reset()
    environment.setenv("STRIPE_API_BASE", simulator.base)
    environment.setenv("STRIPE_API_KEY", simulator.api_key)
    databases.forget_process_state()
    yield simulator


def work() -> list[int]:
    """What a worker does: processes all that waits; returns what is owed now."""
    waiting = find_events(Filter(status=InboxStatus.RECEIVED), None)
    return process([event.id for event in waiting])
