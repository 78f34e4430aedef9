"""Who this process is, for what it says of itself; the clock, which loads next to nothing, says it, too."""

import os
import socket
import time
from typing import Any

from config.version import running_version

_STARTED = time.monotonic()


def myself(kind: str, *, is_ending: bool = False) -> dict[str, Any]:
    """A name that no other process has, what runs in it and for how long, and whether it was told to end."""
    host = socket.gethostname()
    return {
        "name": f"{kind} {host} {os.getpid()}",
        "version": running_version(),
        "host": host,
        "age_seconds": time.monotonic() - _STARTED,
        "is_ending": is_ending,
    }
