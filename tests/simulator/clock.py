"""Stripe's time: real time, shifted or standing still."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate


@dataclass(slots=True)
class Clock:
    """`offset` in seconds moves every date the simulator writes; `frozen` (a unix time) makes it stand still."""

    offset: float = 0.0
    frozen: float | None = None

    def time(self) -> float:
        base = time.time() if self.frozen is None else self.frozen
        return base + self.offset

    def now(self) -> int:
        return int(self.time())

    def http_date(self) -> str:
        return formatdate(self.time(), usegmt=True)


def iso(at: float) -> str:
    """A time in the v2 API's form: 2026-10-28T00:00:00.000Z."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
