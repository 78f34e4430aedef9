"""Checks that somebody asks for in the console: those of `doctor`, one time after the other, the last of them kept."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

from config import broker
from config.database import true_now
from handlers.operator.checks import Line, checks, examine
from receiver.threads import Threads

PAUSE_SECONDS = 10.0  # between two times: each asks Stripe, the mail server and Redis
_MOST_SECONDS = 20.0  # a router waits for half a minute


@dataclass(slots=True)
class Outcome:
    """What was said until now, and whether there is more to come, or more was to be asked."""

    at: datetime
    lines: list[Line] = field(default_factory=list)
    is_under_way: bool = True
    is_whole: bool = False


class Checks:
    """Those of this process, in a thread of their own."""

    def __init__(self) -> None:
        self._threads = Threads("console-checks", 1, "the checks")
        self._again_at = self._ends_at = 0.0
        self.last: Outcome | None = None

    async def ask(self) -> bool:
        """Whether they were asked, and `last` has what they said in time; not while they are, or were a moment ago."""
        # rule: the checks are asked one time after the other, and not at once again
        if (self.last and self.last.is_under_way) or time.monotonic() < self._again_at:
            return False
        self._again_at, self._ends_at = time.monotonic() + PAUSE_SECONDS, time.monotonic() + _MOST_SECONDS
        self.last = Outcome(true_now())
        asked = asyncio.create_task(self._threads.do(self._examine, self.last))
        done, _ = await asyncio.wait({asked}, timeout=_MOST_SECONDS)
        for one in done:
            one.result()
        return True

    def end(self) -> None:
        """What is being asked is the last thing."""
        self._ends_at = 0.0
        self._threads.end()

    def _examine(self, outcome: Outcome) -> None:
        try:
            for line in examine(checks(broker.condition)):
                outcome.lines.append(line)
                if time.monotonic() > self._ends_at:
                    return
            outcome.is_whole = True
        finally:
            outcome.is_under_way = False
