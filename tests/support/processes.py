"""The service as real processes: web, worker and clock as the Procfile has them, each started and killed on its own."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import shapes
from tests.support.operator import run_command
from tests.support.waiting import PATIENCE, wait_until
from worker.run.broker import OwnRedis, start_redis

ROOT = Path(__file__).parents[2]
# Parts of the command of a worker or a clock; where setproctitle is installed, Celery writes another one over ours.
A_WORKER, A_CLOCK = r"-m worker\.app|celeryd", r"-m worker\.clock|celery beat"
# The last is the word of a clock of the version before.
_READY = {"web": ("startup complete.",), "worker": ("ready.",), "clock": ("clock.started", "beat: Starting")}


class Service:
    """A folder, its settings and its processes."""

    def __init__(
        self, folder: Path, database_url: str, redis: OwnRedis, *, code: Path | str = ROOT, **variables: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.commands = dict(re.findall(r"^(\w+): *(.+)$", (Path(code) / "Procfile").read_text(), re.MULTILINE))
        self._code = code
        self.redis = redis
        self.port = _free_port()
        self._variables = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis.url,
            "VAR_DIR": str(folder),
            "STRIPE_WEBHOOK_SECRET": shapes.SECRET,
            "EMAIL_LOOKUP": "tests.support.lookups:everybody",
            "LOG_FORMAT": "json",
            **variables,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The URL that Stripe delivers to."""
        return f"http://127.0.0.1:{self.port}/webhooks/stripe"

    def set(self, **variables: str) -> None:
        """Sets variables for the processes that are started from now on."""
        self._variables |= variables

    def start(self, *names: str, concurrency: int = 8) -> None:
        """Starts processes of the Procfile, and waits until they work."""
        marks = {name: len(self.log(name)) for name in names}
        for name in names:
            self.launch(name, concurrency)
        for name in names:
            wait_until(lambda name=name: self._is_ready(name, marks[name]), lambda name=name: self.log(name))  # type: ignore[misc]

    def launch(self, name: str, concurrency: int = 8) -> None:
        """Starts a process that may never come to work."""
        line = self.commands[name].replace("--concurrency 8", f"--concurrency {concurrency}")
        self._processes[name] = self._spawn(line, name)

    def kill(self, name: str) -> None:
        """Kills a process, as when its machine is switched off."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def release(self, name: str) -> "subprocess.Popen[bytes]":
        """Leaves a process to the test, which may start another of this name beside it."""
        return self._processes.pop(name)

    def pid(self, name: str) -> int:
        """The process id of a process that runs."""
        return self._processes[name].pid

    def stop(self) -> None:
        """Stops all processes politely."""
        for process in self._processes.values():
            process.terminate()
        for name, process in self._processes.items():
            assert process.wait(60) in (0, -15), self.log(name)
        self._processes.clear()

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Runs one of the operator's commands to its end; with the code of today, it is forked."""
        command = [sys.executable, "-m", "worker", *arguments]
        if self._code == ROOT:
            said = run_command(arguments, self._environment(), given)
            return subprocess.CompletedProcess(command, said.code, said.out, said.err)
        return subprocess.run(
            command,
            cwd=self._code,
            env=self._environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def deliver(self, payload: dict[str, Any], secret: str = shapes.SECRET) -> str:
        """Delivers one event as Stripe does; returns its outcome."""
        body = shapes.as_body(payload)
        request = urllib.request.Request(self.url, body, {"Stripe-Signature": shapes.signature(body, secret)})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(json.load(answer)["outcome"])

    def log(self, name: str) -> str:
        """The log of a process so far."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        """The logs of all processes."""
        return "\n".join(self.log(name) for name in self.commands)

    def mails(self) -> list[Path]:
        """The mail files that were written."""
        return sorted((self.folder / "mail").glob("*.eml"))

    def _spawn(self, line: str, name: str) -> subprocess.Popen[bytes]:
        command = shlex.split(re.sub(r"\$\{PORT.*?\}", "", line))
        assert command[0] == "python"
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command[1:]], cwd=self._code, env=self._environment(), stdout=log, stderr=log
            )

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._variables, "PORT": str(self.port), "PYTHONUNBUFFERED": "1"}

    def _is_ready(self, name: str, mark: int) -> bool:
        said = self.log(name)[mark:]
        assert self._processes[name].poll() is None, said
        return says_it_is_ready(name, said)


def says_it_is_ready(name: str, said: str) -> bool:
    """Whether a process of the Procfile works, by its log."""
    return any(words in said for words in _READY[name])


@contextmanager
def service(folder: Path, database_url: str, *, code: Path | str = ROOT, **variables: str) -> Iterator[Service]:
    """A service whose Redis runs and whose processes are started by the test."""
    folder.mkdir(parents=True, exist_ok=True)
    redis = start_redis(folder)
    made = Service(folder, database_url, redis, code=code, **variables)
    try:
        yield made
    finally:
        made.stop()
        redis.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
