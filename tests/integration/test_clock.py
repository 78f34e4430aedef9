"""The clock ends when it is told to, whatever it does at that moment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.inbox.receive import receive
from handlers.metrics import heartbeats
from tests.support import facts, faketime
from tests.support.faketime import SteppingClock
from tests.support.processes import service
from tests.support.waiting import PATIENCE, wait_until

# Celery's own handler raises SystemExit wherever the clock is, and an error in a __del__ is dropped.
_TOLD_WHILE_IT_CLEARS_AWAY = """
import os
import signal
from worker import clock

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

clock.publish_tick = lambda name, clock: clock["is_ending"] or print("ticked", Dying() and name, flush=True)
clock.main()
"""


def test_a_clock_told_to_end_amid_a_tick_ends_after_it() -> None:
    command = [sys.executable, "-c", _TOLD_WHILE_IT_CLEARS_AWAY]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "ticked sweep\n")
    assert "Error" not in ended.stderr
    assert "Exit" not in ended.stderr


_STARTED = """
import os, runpy, sys

os.environ["LOG_LEVEL"] = "nonsense"  # ends it once all is loaded
try:
    runpy.run_module(sys.argv.pop(), run_name="__main__")
except SystemExit as error:
    names = [name for name in ("rich.console", "celery", "sqlalchemy") if name in sys.modules]
    print(str(error).partition(" ")[0], names)
"""


@pytest.mark.parametrize(("module", "loaded"), [("worker.clock", []), ("worker.app", ["celery", "sqlalchemy"])])
def test_what_a_process_has_no_use_for_it_does_not_load(module: str, loaded: list[str]) -> None:
    found = subprocess.check_output([sys.executable, "-c", _STARTED, module], text=True, stderr=subprocess.DEVNULL)
    assert found == f"LOG_LEVEL {loaded}\n"


_ROOMS = """
import runpy, sys
from contextlib import suppress
from importlib import import_module

with suppress(SystemExit):
    runpy.run_module("receiver", run_name=sys.argv.pop())
for room in sys.modules["receiver.app"]._ROOMS:
    import_module(room)
print([name for name in ("rich.console", "cryptography", "handlers.outbox.registry") if name in sys.modules])
"""


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])  # of the process, and of one of WEB_CONCURRENCY's
def test_web_loads_nothing_that_the_worker_or_a_command_alone_uses_with_all_its_rooms(name: str) -> None:
    command, wrong = [sys.executable, "-c", _ROOMS, name], {**os.environ, "LOG_LEVEL": "nonsense"}
    assert subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, env=wrong) == "[]\n"


_TICKS = """
from worker import clock

clock.publish_tick = lambda name, clock: clock["is_ending"] or print("ticked", name, flush=True)
clock.main()
"""


@pytest.mark.processes
@faketime.needed
@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_step_of_the_hosts_clock_neither_holds_up_the_schedule_nor_hastens_it(tmp_path: Path, step: float) -> None:
    host = SteppingClock(tmp_path / "clock")
    variables = {**os.environ, **host.environment}
    with subprocess.Popen([sys.executable, "-c", _TICKS], stdout=subprocess.PIPE, text=True, env=variables) as clock:
        assert clock.stdout
        try:
            assert [clock.stdout.readline() for _ in range(2)] == ["ticked sweep\n"] * 2
            host.step_to(step)
            assert [clock.stdout.readline() for _ in range(3)] == ["ticked sweep\n"] * 3  # and no purge yet
        finally:
            clock.terminate()


@pytest.mark.processes
def test_a_clock_in_each_worker_and_one_beside_them_do_all_once_and_are_known_as_clocks(
    tmp_path: Path, database_url: str
) -> None:
    with service(tmp_path / "service", database_url) as running:
        running.commands["worker"] += " --with-clock"
        running.start("worker", "clock")
        other = running.release("worker")
        running.start("worker")
        names = {
            f"clock {os.uname().nodename} {pid}" for pid in (other.pid, running.pid("worker"), running.pid("clock"))
        }
        wait_until(
            lambda: {one.name for one in heartbeats.known_processes() if one.kind == "clock"} == names, running.logs
        )
        receive([facts.event("verified")])  # the event is not published: only a clock's sweep finds it
        wait_until(lambda: len(running.mails()) == 1, running.logs)
        other.terminate()
        assert other.wait(PATIENCE) == 0, running.log("worker")
        ended = f"clock {os.uname().nodename} {other.pid}"
        wait_until(lambda: {one.name for one in heartbeats.known_processes() if one.ended_at} >= {ended}, running.logs)
        assert len(running.mails()) == 1
