"""Processes that go on step by step: each stands still before it uses a connection, and before and after each call.

Only one of them moves at a time, so that a run is the same each time. A process that dies does nothing more at all.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.pool import Pool

_here = threading.local()


class DeadError(BaseException):
    """The end of a process, which no `except Exception` sees; each later step on its way out ends so, too."""


class Stepped:
    """A process of its own that does one thing, and stands still before it begins."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.at = "the beginning"
        self.is_over = False
        self.answer = "as it is"  # the outcome of its next call
        self.result: object = None
        self.raised: BaseException | None = None
        self._is_dead = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Moves it on to its next stand."""
        if not self.is_over:
            self._go.release()
            self._stands.acquire()

    def die(self) -> None:
        """Ends it: its next step raises DeadError."""
        self._is_dead = True
        while not self.is_over:
            self.go_on()

    def _run(self, work: Callable[[], object]) -> None:
        _here.stepped = self
        self._go.acquire()
        try:
            if not self._is_dead:
                self.result = work()
        except BaseException as error:  # the test judges it
            self.raised = error
        self.is_over = True
        self._stands.release()

    def stand_still(self, at: str) -> None:
        """Stops the work here until the test moves it on."""
        if not self._is_dead:
            self.at = at
            self._stands.release()
            self._go.acquire()
        if self._is_dead:
            raise DeadError


def current() -> Stepped | None:
    """The process at work in this thread; None in the test's own."""
    return getattr(_here, "stepped", None)


def stand_still(at: str) -> None:
    """Stops here, if this thread is a stepped process."""
    if stepped := current():
        stepped.stand_still(at)


@contextmanager
def stepping() -> Iterator[None]:
    """Until the block ends, each stepped process stands still with each connection that it takes, before it uses it."""

    def look(*_: object) -> None:
        stand_still("the database")

    event.listen(Pool, "checkout", look)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", look)
