"""The service as its real processes, started and watched from outside: by HTTP, its database, its mails and its log."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, NamedTuple, Self

from config.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; a few are enough on an idle machine

Row = dict[str, Any]


class Mail(NamedTuple):
    """One .eml file; text is its plain part."""

    file: str
    to: str
    subject: str
    text: str


class Service:
    """`python -m worker run` in a folder of its own, on a free port and on the embedded default."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.base = f"http://127.0.0.1:{variables.setdefault('PORT', str(free_port()))}"
        self.url = f"{self.base}/webhooks/stripe"
        self.log = folder / "service.log"
        self.environment = without_settings() | {"VAR_DIR": str(folder / "var")} | variables
        folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "worker", "run"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def wait_ready(self) -> Self:
        """Returns once deliveries can be stored and the worker consumes."""
        self.wait_until(lambda: answers(f"{self.base}/readyz") and "Connected to " in self.text())
        return self

    def command(self, *arguments: str) -> str:
        """The output of `python -m worker …`, run with this service's settings."""
        command = [sys.executable, "-m", "worker", *arguments]
        ran = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def stop(self) -> None:
        """Ends all processes with Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Raises AssertionError with the end of the log if the service ends before, or if it takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, f"the service ended: {self.text()[-5000:]}"
            assert time.monotonic() < deadline, f"waited in vain: {self.text()[-5000:]}"
            time.sleep(0.05)

    def is_quiet(self) -> bool:
        """Whether no event waits to be processed, and no action to be performed."""
        waiting = self.rows("SELECT 1 FROM inbox_event WHERE status = 'received' LIMIT 1")
        return not waiting and not self.rows("SELECT 1 FROM outbox_action WHERE status = 'pending' LIMIT 1")

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def rows(self, query: str, *values: str) -> list[Row]:
        """The rows of a query, read from outside."""
        with closing(sqlite3.connect(self.folder / "var" / "identity.db", timeout=30)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def record(self, session_id: str) -> Row | None:
        found = self.rows("SELECT * FROM verification_record WHERE session_id = ?", session_id)
        return found[0] if found else None

    def actions(self, session_id: str) -> list[str]:
        """Each action as `name status`, and the reason if there is one; by name, then in the order they became owed."""
        query = "SELECT * FROM outbox_action WHERE session_id = ? ORDER BY name, id"
        rows = self.rows(query, session_id)
        return [f"{row['name']} {row['status']}" + (f": {row['reason']}" if row["reason"] else "") for row in rows]

    def mails(self, to: str | None = None) -> list[Mail]:
        """The mails in the order in which they were written."""
        files = sorted((self.folder / "var" / "mail").glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
        mails = [_mail(path) for path in files]
        return [mail for mail in mails if to in (None, mail.to)]


def without_settings() -> dict[str, str]:
    """This process's environment without the service's settings, which would point it elsewhere."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _mail(path: Path) -> Mail:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    plain = message.get_body(("plain",))
    return Mail(path.name, str(message["To"]), str(message["Subject"]), plain.get_content() if plain else "")
