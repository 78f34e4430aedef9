"""The operator at a terminal: commands as real processes, and a Stripe to point them at."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
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
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output, which must be one JSON document."""
        return json.loads(self.out)


def command(*words: str, **settings: str) -> Said:
    """Runs `python -m worker …` in this test's environment."""
    said = run_command(words, {**os.environ, **settings})
    assert "Traceback" not in said.err, said.err
    return said


def run_command(words: Sequence[str], environment: dict[str, str], given: str = "", out_to: str | None = None) -> Said:
    """Runs `python -m worker …` in any environment, with this as its standard input; "" is a pipe without a reader."""
    with NamedTemporaryFile("w+") as read, NamedTemporaryFile("w+") as out, NamedTemporaryFile("w+") as err:
        read.write(given)
        read.seek(0)
        if "LD_PRELOAD" in environment:  # which acts only on a process that starts from nothing
            line = [sys.executable, "-m", "worker", *words]
            ran = subprocess.run(line, cwd=ROOT, env=environment, stdin=read, stdout=out, stderr=err, timeout=60)
            code = ran.returncode
        else:
            files = [read.name, out.name if out_to is None else out_to, err.name]
            code = _forked({"words": words, "environment": environment, "files": files})
        return Said(code, *(Path(file.name).read_text() for file in (out, err)))


def _forked(call: dict[str, Any]) -> int:
    commands = _commands()
    assert commands.stdin
    assert commands.stdout
    commands.stdin.write(json.dumps(call) + "\n")
    commands.stdin.flush()
    return int(commands.stdout.readline())


@cache
def _commands() -> "subprocess.Popen[str]":
    """The process that forks the commands; it ends when its callers have gone."""
    line = [sys.executable, "-m", "tests.support.commands"]
    return subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def stripe_in_use(simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The simulator, empty, as this test's Stripe."""
    simulator.reset()
    environment.setenv("STRIPE_API_BASE", simulator.base)
    environment.setenv("STRIPE_API_KEY", simulator.api_key)
    databases.forget_process_state()
    yield simulator


def work() -> list[int]:
    """Processes all events that wait, as a worker does; returns the ids of the actions owed now."""
    waiting = find_events(Filter(status=InboxStatus.RECEIVED), None)
    return process([event.id for event in waiting])
