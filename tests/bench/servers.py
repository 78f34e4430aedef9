"""The servers of the bench: PostgreSQL, Redis, the service's processes and their baselines."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.bench import noop
from tests.bench.load import SECRET
from worker.run.broker import start_redis
from worker.run.processes import DYING_WITH_PARENT

_PATIENCE = 30.0  # seconds for anything to start or to stop
_WAL_FILES = 60
_PROCFILE = Path(__file__).parents[2] / "Procfile"


class Process:
    """A child process of the bench, with its output in a file."""

    def __init__(self, name: str, command: list[str], variables: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self.ready_seconds = 0.0
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [*DYING_WITH_PARENT, *command],
                env={**environment(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds, and keeps the seconds since the start."""
        while not condition():
            if self.popen.poll() is not None or time.monotonic() - self.started > _PATIENCE:
                sys.exit(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.005)
        self.ready_seconds = time.monotonic() - self.started

    def rss(self) -> float:
        """The memory of the process and its children, in MB."""
        return sum(_rss(pid) for pid in family(self.popen.pid))

    def cpu(self) -> float:
        """The seconds of processor time of the process and its children so far."""
        return sum(cpu(pid) for pid in family(self.popen.pid))

    def processor(self) -> float:
        """The same to the microsecond, without threads that have ended."""
        tasks = (task for pid in family(self.popen.pid) for task in Path(f"/proc/{pid}/task").iterdir())
        taken = 0
        for task in tasks:
            with suppress(OSError):  # it ends between the two looks
                taken += int((task / "schedstat").read_text().split()[0])
        return taken / 1e9

    def stop(self) -> None:
        """Stops the process as Heroku does."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class House:
    """A folder, a PostgreSQL and a Redis of the bench's own, and the processes started in them."""

    def __init__(self, folder: Path, postgres: str, redis: str) -> None:
        self.folder = folder
        self.postgres = postgres  # the address of the server, without a database
        self.redis = redis
        self.broker: Any = noop.connect(redis)
        self._count = 0

    def database(self, name: str) -> str:
        """The address of a new empty database, with the service's tables."""
        return self.migrated(self.bare_database(name))

    def bare_database(self, name: str) -> str:
        """The address of a new database, without any tables."""
        with psycopg.connect(f"{self.postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.postgres}/{name}"

    def sqlite(self, name: str) -> str:
        """The address of a new SQLite file, with the service's tables."""
        return self.migrated(f"sqlite:///{self.folder / name}.db")

    def migrated(self, url: str) -> str:
        """Migrates a database; returns its address."""
        command = [sys.executable, "-m", "worker", "migrate"]
        subprocess.run(command, env={**environment(), **self.variables(url)}, check=True, capture_output=True)
        return url

    def variables(self, database: str, **more: str) -> dict[str, str]:
        """The service's environment for a database."""
        return {
            "DATABASE_URL": database,
            "REDIS_URL": self.redis,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "VAR_DIR": str(self.folder),
            "SMTP_URL": "file:",
            "LOG_FORMAT": "json",
            **more,
        }

    @contextmanager
    def running(self, name: str, command: list[str], variables: Mapping[str, str]) -> Iterator[Process]:
        """Runs a process until the block ends."""
        self._count += 1
        process = Process(name, command, variables, self.folder / f"{self._count:03d}-{name}.log")
        try:
            yield process
        finally:
            process.stop()

    @contextmanager
    def web(self, database: str, shortcut: str = "", **more: str) -> Iterator[tuple[int, Process]]:
        """Runs the Procfile's web process, or one that takes a shortcut, ready: its port and itself."""
        port = free_port()
        command = [sys.executable, "-m", *(("tests.bench.shortcuts", shortcut) if shortcut else ("receiver",))]
        with self.running("web", command, self.variables(database, PORT=str(port), **more)) as process:
            process.wait(lambda: answers(port, "/readyz"))
            yield port, process

    @contextmanager
    def worker(self, database: str, **more: str) -> Iterator[Process]:
        """Runs the Procfile's worker, ready."""
        with self.running("worker", procfile("worker"), self.variables(database, **more)) as process:
            process.wait(lambda: b" ready" in process.log.read_bytes())
            yield process

    @contextmanager
    def clock(self, database: str) -> Iterator[Process]:
        """Runs the Procfile's clock."""
        with self.running("clock", procfile("clock"), self.variables(database)) as process:
            process.wait(lambda: b"clock.started" in process.log.read_bytes())
            yield process

    @contextmanager
    def baseline(self, name: str, database: str = "") -> Iterator[int]:
        """Runs one of tests/bench/baselines.py, ready: its port."""
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.baselines", name, str(port), database]
        with self.running(name, command, {}) as process:
            process.wait(lambda: answers(port, "/healthz"))
            yield port


@contextmanager
def house() -> Iterator[House]:
    """Starts all servers, and ends them with the block. Not under /tmp: in memory fsync would cost nothing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="identity-bench-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "redis-home").mkdir()
        server = start_redis(folder / "redis-home")
        try:
            with _postgres(folder / "postgres") as address:
                yield House(folder, address, server.url)
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, _: object) -> None:
    """Ends the bench, once: a second signal would leave a PostgreSQL behind."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def procfile(name: str) -> list[str]:
    """A command of the Procfile, with this Python."""
    line = dict(re.findall(r"^(\w+): *(.+)$", _PROCFILE.read_text(), re.MULTILINE))[name]
    return [sys.executable, *line.split()[1:]]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Runs the installed PostgreSQL with its own defaults: fsync and synchronous_commit are on."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = found[-1] if found else Path(shutil.which("initdb") or sys.exit("PostgreSQL's initdb was not found"))
    folder.mkdir()
    as_user: list[str | Path] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    port = free_port()
    data, log = str(folder / "data"), folder.with_name("postgres.log")
    subprocess.run([*as_user, initdb, "-D", data, "-U", "bench", "-A", "trust"], check=True, capture_output=True)
    pg_ctl = [*as_user, initdb.with_name("pg_ctl"), "-D", data, "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    try:
        with log.open("wb") as output:
            subprocess.run([*pg_ctl, "-o", options, "start"], check=True, stdout=output, stderr=output, cwd="/")
        _break_in(f"postgresql://bench@127.0.0.1:{port}")
        yield f"postgresql://bench@127.0.0.1:{port}"
    finally:
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=False, capture_output=True, cwd="/")


def _break_in(address: str) -> None:
    """Leaves WAL files to be used again, as in a server that has run for a while.

    A new one fills 16 MB with zeros each time it needs a file, and for some 30 ms nobody's commit ends.
    """
    with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
        for _ in range(_WAL_FILES):
            connection.execute("SELECT pg_logical_emit_message(false, 'bench', 'bench')")
            connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")


def environment() -> dict[str, str]:
    """This process's environment, without the service's settings."""
    ours = ("DATABASE_URL", "REDIS_URL", "SMTP_URL", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "WEB_CONCURRENCY")
    return {name: value for name, value in os.environ.items() if name not in ours}


def family(pid: int) -> list[int]:
    """The pids of a process, its children, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def _rss(pid: int) -> float:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def cpu(pid: int) -> float:
    """The seconds of processor of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
