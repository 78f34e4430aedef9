"""The clock ends when it is told to, whatever it does at that moment."""

import subprocess
import sys

from tests.support.waiting import PATIENCE

# Celery's own handler raises SystemExit wherever the signal finds the clock, and what a __del__ raises is dropped.
_TOLD_WHILE_IT_CLEARS_AWAY = """
import os
import signal
import worker.app
from config.broker import celery_app
from worker import clock

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

clock.publish_tick = lambda name: print("ticked", Dying() and name, flush=True)
celery_app.Beat(quiet=True).run()
"""


def test_a_clock_told_to_end_amid_a_tick_ends_after_it() -> None:
    command = [sys.executable, "-c", _TOLD_WHILE_IT_CLEARS_AWAY]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "ticked sweep\n")
    assert "Error" not in ended.stderr
    assert "Exit" not in ended.stderr
