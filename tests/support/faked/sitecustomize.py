"""For Python under faketime, whose library refuses the system call of time.sleep."""

import threading
import time
from typing import Any


def _sleep(seconds: Any) -> None:
    threading.Event().wait(seconds)


time.sleep = _sleep
