"""A worker that is told to end, and is held by what does not answer."""

import subprocess
import sys

from tests.support.processes import ROOT

_HELD = """
import threading
from celery import signals
from worker import app
app._ENDS_WITHIN = 0.1
signals.worker_shutting_down.send(sender=None)
threading.Event().wait()
"""


def test_a_worker_that_is_held_ends_before_a_platform_kills_it() -> None:
    ended = subprocess.run([sys.executable, "-c", _HELD], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert "worker.ended_unfinished" in ended.stdout + ended.stderr
