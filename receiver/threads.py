"""Threads of a room's own, for requests that ask Stripe or the database: deliveries and health have theirs."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from config.database import stand_apart
from handlers.metrics.heartbeats import IN_HAND

WAITS_SECONDS = 5.0  # for a thread: somebody waits for the answer

_T = TypeVar("_T")


class BusyError(Exception):
    """No thread was free in time; `waited_for` is the thing that they wait for, a code of receiver/api/problems.py."""

    def __init__(self, waited_for: str) -> None:
        super().__init__(waited_for)
        self.waited_for = waited_for


class Threads:
    """A number of threads that take no connection that others wait for; a call does not wait long for a free one."""

    def __init__(self, name: str, most: int, waiting_for: str) -> None:
        self._pool = ThreadPoolExecutor(most, name, initializer=stand_apart)
        self._free = asyncio.Semaphore(most)
        self._waiting_for = waiting_for
        self._name = name
        self.end = self._pool.shutdown

    async def do(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Runs the call in a thread, and returns its result. Raises BusyError if no thread is free in time."""
        try:
            await asyncio.wait_for(self._free.acquire(), WAITS_SECONDS)
        except TimeoutError:
            raise BusyError(self._waiting_for) from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, call, *arguments)
        finally:
            self._free.release()

    def _do(self, call: Callable[..., _T], *arguments: Any) -> _T:
        unit = object()
        IN_HAND[self._name][unit] = time.monotonic()
        try:
            return call(*arguments)
        finally:
            del IN_HAND[self._name][unit]
