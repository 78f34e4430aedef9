"""This process's own name, for its heartbeats; also for the clock, which loads next to nothing."""

import os
import socket
import time
from typing import Any

from config.version import running_version

_STARTED = time.monotonic()


def myself(kind: str, *, is_ending: bool = False) -> dict[str, Any]:
    """The process's unique name, its version, host and age, and whether it was told to end."""
    host = socket.gethostname()
    return {
        "name": f"{kind} {host} {os.getpid()}",
        "version": running_version(),
        "host": host,
        "age_seconds": time.monotonic() - _STARTED,
        "is_ending": is_ending,
    }
