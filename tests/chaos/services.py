"""The processes under test, each restarted when it dies, as a dyno manager does."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.support import faketime
from tests.support.processes import says_it_is_ready
from worker.run.foreground import PROCFILE

ROOT = PROCFILE.parent
STOPS_WITHIN = 30.0  # seconds from SIGTERM to SIGKILL at Heroku
_GLANCE = 0.05
_WRITES_ITS_STACKS_WITHIN = 0.5
_BEGINS_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one process: when it began and was over, its exit status, and whether we meant it."""

    name: str
    began: float
    ended: float
    status: int
    meant: bool

    @property
    def took(self) -> float:
        """The seconds that the end took."""
        return self.ended - self.began


@dataclass(slots=True)
class Dyno:
    """One process type and its process: a process group of its own, and one log for all its lives."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    code: Path = ROOT
    process: "subprocess.Popen[bytes] | None" = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    dooms: dict[int, float] = field(default_factory=dict)  # by pid: the moment since which it is meant to end
    ahead: float = 0.0  # seconds by which its host's clock is ahead
    is_off: bool = False  # nobody starts it

    def start(self) -> None:
        """Starts its process."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.code,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.say(f"{self.process.pid} has begun")

    def signal(self, number: int) -> None:
        """Signals the whole group, as a dyno's manager does."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                return
            self.dooms.setdefault(self.process.pid, time.time())
            self.say(f"{signal.Signals(number).name} to {self.process.pid}")
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def say(self, what: str) -> None:
        """Writes a line of ours between those of its processes."""
        with self.log.open("a") as log:
            log.write(f"--- {datetime.now(UTC).isoformat()} {what} ---\n")

    def abort(self) -> None:
        """Ends it by force; PYTHONFAULTHANDLER writes the stacks of its threads into the log first."""
        with self.lock:
            self.signal(signal.SIGABRT)
            time.sleep(_WRITES_ITS_STACKS_WITHIN)
            self.signal(signal.SIGKILL)

    def stacks(self) -> str:
        """The stacks of its threads at its last abort; empty if there was none."""
        _, aborted, stacks = self.log.read_text(errors="replace").rpartition("Fatal Python error: Aborted")
        return stacks if aborted else ""

    def expect_end(self) -> None:
        """Marks its end as meant: the end of its parts will end it."""
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                self.dooms.setdefault(self.process.pid, time.time())

    def children(self) -> list[int]:
        """The pids of its direct children."""
        return children(self.process.pid) if self.process else []


class Platform:
    """Keeps dynos running."""

    def __init__(self, dynos: list[Dyno]) -> None:
        self.dynos = {dyno.name: dyno for dyno in dynos}
        self.deaths: list[Death] = []
        self._leaving: list[Dyno] = []
        self._ending, self._halted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="platform", daemon=True)

    def start(self) -> None:
        """Starts all dynos, and watches them from then on."""
        for dyno in self.dynos.values():
            dyno.start()
        self._thread.start()

    def kill(self, name: str) -> None:
        """Kills all processes of one dyno, with SIGKILL, and those of the dyno that it replaces."""
        for dyno in (self.dynos[name], *(one for one in self._leaving if one.name == name)):
            dyno.signal(signal.SIGKILL)

    def deploy(self, *names: str) -> None:
        """Ends dynos with SIGTERM, after thirty seconds with SIGKILL; the watch starts them again."""
        _terminate([self.dynos[name] for name in names or self.dynos])

    def replace(self, name: str, code: Path, variables: Mapping[str, str], beside: float) -> None:
        """Starts another version of a dyno, and so many seconds after it is ready, ends the one before.

        Two of web would need two ports: there, the one before ends first.
        """
        before = self.dynos[name]
        after = Dyno(name, before.command, {**before.environment, **variables}, before.log, code, ahead=before.ahead)
        self._leaving.append(before)
        mark = before.log.stat().st_size
        if name == "web":
            self.dynos[name] = after
            self._leave(before)
            after.start()
        else:
            after.start()
            self.dynos[name] = after
            wait_until(lambda: says_it_is_ready(name, after.log.read_text(errors="replace")[mark:]), _BEGINS_WITHIN)
            time.sleep(beside)
            self._leave(before)

    def switch_off(self, name: str) -> None:
        """Kills a dyno for good, as when its machine loses its power."""
        dyno = self.dynos[name]
        with dyno.lock:
            dyno.is_off = True
            dyno.signal(signal.SIGKILL)

    def switch_on(self, name: str) -> None:
        """Lets the watch start it again."""
        self.dynos[name].is_off = False

    def halt(self) -> None:
        """Kills everything, and starts nothing until go_on."""
        self._halted.set()
        for dyno in self.dynos.values():
            with dyno.lock:
                dyno.signal(signal.SIGKILL)
                if dyno.process:
                    dyno.process.wait()
                    self._note(dyno, dyno.process)

    def go_on(self) -> None:
        """Starts everything again."""
        for dyno in self.dynos.values():
            dyno.start()
        self._halted.clear()

    def stop(self) -> None:
        """Ends the watch and all dynos."""
        self._ending.set()
        self._thread.join()
        self.deploy()
        for dyno in self.dynos.values():
            if dyno.process:
                with suppress(ProcessLookupError):
                    os.killpg(dyno.process.pid, signal.SIGKILL)
                dyno.process.wait()
                self._note(dyno, dyno.process)

    def end(self) -> None:
        """Stops if any process still runs."""
        if any(dyno.process and dyno.process.poll() is None for dyno in self.dynos.values()):
            self.stop()

    def slowest_stop(self) -> Death | None:
        """The end that took the longest from its SIGTERM or SIGKILL."""
        return max((death for death in self.deaths if death.meant), key=lambda death: death.took, default=None)

    def _watch(self) -> None:
        while not self._ending.wait(_GLANCE):
            for dyno in (*self.dynos.values(), *self._leaving):
                with dyno.lock:
                    process = dyno.process
                    if process is None or process.poll() is None or self._halted.is_set() or dyno.is_off:
                        continue
                    with suppress(ProcessLookupError):  # the other processes of a killed dyno's group die with it
                        os.killpg(process.pid, signal.SIGKILL)
                    self._note(dyno, process)
                    dyno.process = None
                    if self.dynos[dyno.name] is dyno:
                        dyno.start()

    def _leave(self, dyno: Dyno) -> None:
        _terminate([dyno])
        wait_until(lambda: dyno.process is None, STOPS_WITHIN)
        self._leaving.remove(dyno)

    def _note(self, dyno: Dyno, process: "subprocess.Popen[bytes]") -> None:
        began = dyno.dooms.pop(process.pid, None)
        now = time.time()
        dyno.say(f"{process.pid} has ended with {process.returncode}")
        self.deaths.append(Death(dyno.name, began or now, now, process.returncode, began is not None))


def _terminate(dynos: list[Dyno]) -> None:
    running = [(dyno, dyno.process) for dyno in dynos if dyno.process]
    for dyno, _ in running:
        dyno.signal(signal.SIGTERM)
    deadline = time.monotonic() + STOPS_WITHIN
    for dyno, process in running:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(_GLANCE)
        if process.poll() is None:
            dyno.abort()


def procfile(environment: Mapping[str, str], logs: Path, ahead: Mapping[str, float], code: Path) -> list[Dyno]:
    """Web, worker and clock as in the Procfile, but web for this machine only, on hosts with such clocks."""
    lines = dict(line.split(": ", 1) for line in PROCFILE.read_text().splitlines())
    commands = {"web": "python -m receiver", "worker": lines["worker"], "clock": lines["clock"]}
    dynos = []
    for name, command in commands.items():
        words = [sys.executable, *shlex.split(command)[1:]]
        dyno = Dyno(name, words, environment, logs / f"{name}.log", code, ahead=ahead.get(name, 0.0))
        if dyno.ahead:
            dyno.environment = {**environment, **faketime.host(dyno.ahead)}
        dynos.append(dyno)
    return dynos


def make_run(environment: Mapping[str, str], logs: Path) -> list[Dyno]:
    """All processes in one dyno, as `make run` has it."""
    return [Dyno("all", [sys.executable, "-m", "worker", "run"], environment, logs / "all.log")]


def children(pid: int) -> list[int]:
    """The pids of a process's direct children."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """The pids of all its descendants."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def owner_of(port: int, pids: list[int]) -> int | None:
    """The process of these that has the connection from this port of this machine."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if int(line[1].partition(":")[2], 16) == port}
    for pid in pids:
        with suppress(OSError):
            if any(os.readlink(entry) in sockets for entry in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    return None


def command_of(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_GLANCE)
    return True
