"""Waits for a condition, never for a time."""

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
