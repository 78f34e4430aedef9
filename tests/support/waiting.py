"""Waits for a condition and never for a time, but where the waiting itself is looked at."""

import threading
import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds; far longer than anything in a test takes on a busy machine


def wait_until(
    condition: Callable[[], object],
    what: Callable[[], str] | str = "it did not happen",
    *,
    patience: float = PATIENCE,
) -> None:
    """Returns once the condition holds; else fails with the sentence of `what`."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.01)


def asking(*asks: Callable[[], object]) -> list[threading.Thread]:
    """Threads that have begun to ask, one each; so that a question which is kept waiting can be seen to wait."""
    threads = [threading.Thread(target=ask) for ask in asks]
    for thread in threads:
        thread.start()
    time.sleep(1)  # else none might have asked yet; a later question does not fail either
    return threads
