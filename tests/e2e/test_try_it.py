"""The commands of the pages to try and to integrate work as written, on free ports and in a folder of their own."""

import os
import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e import cli
from tests.simulator.client import Simulator
from tests.support import pages
from tests.support.pages import Block
from tests.support.service import PATIENCE, ROOT, answers, free_port, without_settings

pytestmark = pytest.mark.e2e

SAID = (ROOT / "docs/try-it.md").read_text()
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", SAID, re.MULTILINE | re.DOTALL))
KEY = "sk_test_simulator0000000000000000"


class Reader:
    """A reader who types blocks, each in a terminal of its own. The sandbox is a simulator that runs already."""

    def __init__(self, folder: Path, blocks: list[Block], sandbox: Simulator | None = None) -> None:
        self.folder = folder
        self.blocks = blocks
        self.stripe = sandbox or Simulator(f"http://127.0.0.1:{free_port()}")
        self.port, self.stripe_port = str(free_port()), self.stripe.base.rpartition(":")[2]
        self.typed = 0
        self.looks = 0  # into the mail folder
        self.terminals: list[subprocess.Popen[bytes]] = []
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        ports = {"PORT": self.port, "STRIPE_PORT": self.stripe_port, "STRIPE_API_BASE": self.stripe.base}
        self.environment = without_settings() | cli.environment(folder) | ports
        self.environment |= {"VAR_DIR": str(folder / "var"), "PATH": path}
        self._put_stripe_on_path(f"--api-base {self.stripe.base}" if sandbox else "")

    def type_all(self) -> None:
        """Types all blocks; a command that keeps running is up before the next block."""
        for block in self.blocks:
            self.type(block.commands, keeps_running="keeps running" in block.terminal)

    def type(self, commands: str, *, keeps_running: bool) -> Path:
        """Types commands. Returns the file of their output."""
        output = self.folder / f"terminal-{self.typed}.log"
        self.typed += 1
        (self._start if keeps_running else self._run)(commands, output)
        return output

    def stop(self) -> None:
        """Presses Ctrl-C in every terminal, the newest first."""
        for process in reversed(self.terminals):
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGINT)
            process.wait(PATIENCE)
        self.terminals.clear()

    def wait_until(self, holds: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not holds():
            logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("terminal-*.log"))
            assert time.monotonic() < until, logs
            assert all(process.poll() is None for process in self.terminals), logs
            time.sleep(0.1)

    def records(self) -> list[tuple[str, str, str]]:
        with closing(sqlite3.connect(self.folder / "var" / "identity.db", timeout=30)) as database:
            return database.execute("SELECT status, client_reference_id, user_id FROM verification_record").fetchall()

    def subjects(self) -> list[str]:
        mails = [path.read_text() for path in (self.folder / "var" / "mail").glob("*.eml")]
        return sorted(re.findall(r"^Subject: (.+)$", "\n".join(mails), re.MULTILINE))

    def _start(self, commands: str, output: Path) -> None:
        with output.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-ec", self._here(commands)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.terminals.append(process)
        signs = {
            "make run": lambda: answers(f"http://127.0.0.1:{self.port}/readyz") and "Connected" in output.read_text(),
            "--forward-to": lambda: "Ready!" in output.read_text(),
            "make stripe": lambda: answers(f"{self.stripe.base}/_control/ready"),
        }
        signs |= {"make listen": lambda: signs["make run"]() and signs["--forward-to"]()}
        signs |= {"tests.simulator": signs["make stripe"]}
        (sign,) = (is_up for command, is_up in signs.items() if command in commands)
        self.wait_until(sign)

    def _run(self, commands: str, output: Path) -> None:
        if "var/mail" in commands:
            self.looks += 1
            self.wait_until(lambda: len(self.subjects()) == self.looks)  # "within seconds" there is one more
        ran = subprocess.run(
            ["bash", "-ec", self._here(commands)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output.write_text(ran.stdout + ran.stderr)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def _here(self, commands: str) -> str:
        for written, here in (
            ("12111", self.stripe_port),
            ("8000", self.port),
            (" var/", f" {self.folder}/var/"),
            ("-m tests.simulator\n", f"-m tests.simulator --port {self.stripe_port}\n"),
            ("sk_test_…", KEY),
        ):
            commands = commands.replace(written, here)
        return commands

    def _put_stripe_on_path(self, options: str) -> None:
        """Puts the CLI on PATH as `stripe`, with these options: the sandbox's commands name no backend."""
        shim = self.folder / "bin" / "stripe"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {cli.binary()} "$@" {options}\n')
        shim.chmod(0o755)


@contextmanager
def reading(folder: Path, blocks: list[Block], sandbox: Simulator | None = None) -> Iterator[Reader]:
    reader = Reader(folder, blocks, sandbox)
    try:
        reader.type_all()
        yield reader
    finally:
        reader.stop()


def test_the_commands_for_the_local_stripe(tmp_path: Path) -> None:
    with reading(tmp_path, pages.blocks(SECTIONS["A local Stripe"])) as reader:
        assert reader.subjects() == ["Please verify your identity again", "Your identity is verified"]
        assert "Subject: Your identity is verified" in (tmp_path / "terminal-6.log").read_text()
        (link,) = re.findall(r"http\S+/verify/\S+", (tmp_path / "terminal-4.log").read_text())
        with urllib.request.urlopen(link, timeout=PATIENCE) as page:
            assert b"Your identity is verified" in page.read()
        assert [status for status, _, _ in reader.records()] == ["verified"]
        assert '"level": "warning"' not in (tmp_path / "terminal-1.log").read_text()


def test_the_commands_with_the_official_cli(tmp_path: Path) -> None:
    with reading(tmp_path, pages.blocks(SECTIONS["The local Stripe, with the official CLI"])) as reader:
        reader.wait_until(lambda: len(reader.subjects()) == 2)
        assert reader.subjects() == ["Your identity is verified", "Your identity verification has ended"]
        assert ("canceled", "u1", "42") in reader.records()


def test_the_commands_for_the_sandbox_with_a_local_stripe_in_its_place(tmp_path: Path) -> None:
    """Only another Stripe answers: no test of ours may need an account."""
    with (
        Simulator.start() as sandbox,
        reading(tmp_path, pages.blocks(SECTIONS["Your Stripe sandbox"]), sandbox) as reader,
    ):
        reader.wait_until(lambda: ("canceled", "u1", "42") in reader.records() and len(reader.records()) == 2)


def test_the_lines_that_make_run_prints(tmp_path: Path) -> None:
    with Simulator.start() as sandbox, reading(tmp_path, [], sandbox) as reader:
        reader.environment["STRIPE_API_KEY"] = KEY
        said = reader.type("make run", keeps_running=True).read_text()
        reader.stop()
        (start, forward) = re.findall(r"^(?:STRIPE_WEBHOOK_SECRET=|stripe listen ).+$", said, re.MULTILINE)
        reader.type(start, keeps_running=True)
        reader.type(forward, keeps_running=True)
        sandbox.act(sandbox.create(email="jenny@example.com"), "pass")
        reader.wait_until(lambda: [status for status, _, _ in reader.records()] == ["verified"])


def test_make_listen_has_the_official_cli_forward(tmp_path: Path) -> None:
    with Simulator.start() as sandbox, reading(tmp_path, [], sandbox) as reader:
        reader.environment["STRIPE_API_KEY"] = KEY
        reader.type("make listen", keeps_running=True)
        sandbox.act(sandbox.create(email="jenny@example.com"), "pass")
        reader.wait_until(lambda: [status for status, _, _ in reader.records()] == ["verified"])


def test_the_page_for_who_integrates(tmp_path: Path) -> None:
    page = (ROOT / "docs/integrate.md").read_text()
    blocks = pages.blocks(page)
    running = [block for block in blocks if "keeps running" in block.terminal]
    with reading(tmp_path, running) as reader:
        here = {":8000": f":{reader.port}", **pages.HTTPX}
        typed = [block for block in blocks if block not in running]
        pages.type_in_one_terminal(typed, here, STRIPE_API_BASE=reader.stripe.base)
        pages.run_python(page, here, tmp_path)
        # The person who was forgotten here is forgotten at Stripe, in each of the two sessions.
        reader.wait_until(lambda: all(session["redaction"] for session in reader.stripe.truth()["sessions"][:2]))
