"""The bench ends its servers, however it is ended itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.waiting import wait_until

_UP = """
import time
from tests.bench import servers
servers._WAL_FILES = 1
with servers.house() as up:
    print(up.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(
    not databases.SERVER_URL or not [*Path("/usr/lib/postgresql").glob("*/bin/initdb")],
    reason="it is the machine's own PostgreSQL that the bench starts",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bench_that_is_told_to_end_leaves_no_server_and_no_folder(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _UP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as bench:
        assert bench.stdout
        folder = Path(bench.stdout.readline().strip())
        server = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(bench.pid, number)
        os.kill(bench.pid, number)  # impatient
    assert not folder.exists()
    wait_until(lambda: not _lives(server))


def _lives(pid: int) -> bool:
    """A process that ended and was not waited for has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False
