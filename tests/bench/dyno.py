"""A platform's only process: its memory, and the time that it takes to end while its mail server says nothing."""

import os
import re
import socket
import sys
import time
from pathlib import Path

from tests.bench import load, store
from tests.bench.flow import UNDONE, UNPROCESSED, wait_for_none
from tests.bench.report import Report
from tests.bench.servers import House, answers, family, free_port

_EVENTS = 3_000
_MOST_MB = 512  # of Heroku's smallest dyno
_MOST_SECONDS = 30  # from SIGTERM to SIGKILL
_HANGING = 30  # events


def dyno(report: Report, house: House, database: str) -> None:
    """Measures `python -m worker run` with a dyno's variables: after some thousand events and their mails, and its end
    while mails hang."""
    store.empty(database)
    house.broker.flushall()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as silent:
        port, smtp = free_port(), f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        variables = house.variables(
            database,
            PORT=str(port),
            DYNO="web.1",
            WEB_CONCURRENCY="1",
            EMAIL_LOOKUP="tests.support.lookups:everybody",
        )
        command = [sys.executable, "-m", "worker", "run", "--host", "::"]
        with house.running("dyno", command, variables) as process:
            process.wait(lambda: answers(port, "/readyz"))
            load.post(port, load.write(house.folder / "requests", "D", _EVENTS), 16, 30)
            wait_for_none(database, *UNPROCESSED)
            wait_for_none(database, *UNDONE)
            megabytes = sum(_pss(pid) for pid in family(process.popen.pid))
            ports = _listening(family(process.popen.pid))
        with house.running("dyno", command, variables | {"SMTP_URL": smtp}) as process:
            process.wait(lambda: answers(port, "/readyz"))
            load.post(port, load.write(house.folder / "requests", "H", _HANGING, story=("verified",)), 16, 10)
            wait_for_none(database, *UNPROCESSED)
            silent.accept()  # a mail is under way
            began = time.monotonic()
            process.stop()
            seconds = time.monotonic() - began
    report.add(
        "one dyno",
        f"memory after {_EVENTS:,} events, what is shared counted once",
        f"{megabytes:.0f} MB",
        target=f"< {_MOST_MB} MB",
        met=megabytes < _MOST_MB,
    )
    report.add("one dyno", "ports that it listens on", str(len(ports)), target="1", met=ports == {port})
    report.add(
        "one dyno",
        "from SIGTERM to its end, while its mail server says nothing",
        f"{seconds:.1f} s",
        target=f"< {_MOST_SECONDS} s",
        met=seconds < _MOST_SECONDS,
    )


def _pss(pid: int) -> float:
    return int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0]) / 1024


def _listening(pids: list[int]) -> set[int]:
    """The ports of these processes that take connections."""
    sockets = {os.readlink(one) for pid in pids for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found
