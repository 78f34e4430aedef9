"""The checks of `doctor` in the console: made one time after the other, and the last outcome is kept."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

from config import broker
from config.database import true_now
from handlers.operator.checks import CheckLine, checks, examine
from receiver.threads import Threads

PAUSE_SECONDS = 10.0  # between two times: each asks Stripe, the mail server and Redis
_MOST_SECONDS = 20.0  # a router waits for half a minute


@dataclass(slots=True)
class ChecksSoFar:
    """The lines so far, and whether the checks are still under way, and whether all of them were made."""

    at: datetime
    lines: list[CheckLine] = field(default_factory=list)
    is_under_way: bool = True
    is_whole: bool = False


class Checks:
    """The checks of this process, in a thread of their own."""

    def __init__(self) -> None:
        self._threads = Threads("console-checks", 1, "the checks")
        self._again_at = self._ends_at = 0.0
        self.last: ChecksSoFar | None = None

    async def ask(self) -> bool:
        """Makes the checks; `last` has the lines that came in time. False if they are under way, or just were."""
        # rule: the checks are made one time after the other, with a pause between
        if (self.last and self.last.is_under_way) or time.monotonic() < self._again_at:
            return False
        self._again_at, self._ends_at = time.monotonic() + PAUSE_SECONDS, time.monotonic() + _MOST_SECONDS
        self.last = ChecksSoFar(true_now())
        asked = asyncio.create_task(self._threads.do(self._examine, self.last))
        done, _ = await asyncio.wait({asked}, timeout=_MOST_SECONDS)
        for one in done:
            one.result()
        return True

    def end(self) -> None:
        """Ends the checks after the one that is under way."""
        self._ends_at = 0.0
        self._threads.end()

    def _examine(self, outcome: ChecksSoFar) -> None:
        try:
            for line in examine(checks(broker.condition)):
                outcome.lines.append(line)
                if time.monotonic() > self._ends_at:
                    return
            outcome.is_whole = True
        finally:
            outcome.is_under_way = False
