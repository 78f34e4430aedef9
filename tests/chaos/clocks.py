"""The database's own clock: steps ahead or back, as an operator or a failover makes it, and to the truth again."""

import random
import time
from collections import Counter
from itertools import pairwise
from math import inf
from pathlib import Path
from threading import Lock

from tests.support.faketime import SteppingClock

STEP = 90.0  # seconds
_CALM = 180.0  # seconds at the end of a run: by then nothing waits because of a step
_FEW = 300.0  # seconds: in a longer run steps come no further apart


class DatabaseClock:
    """The steps of the database's clock: by how much it has been ahead, and since when."""

    def __init__(self, file: Path) -> None:
        self._clock = SteppingClock(file)
        self._steps = [(0.0, 0.0)]
        self.standing_still = Lock()  # while a server starts: by this clock, pg_ctl waits for one that has begun since

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a server on this host."""
        return self._clock.environment

    @property
    def ahead(self) -> float:
        """The seconds by which the clock is ahead now."""
        return self._steps[-1][1]

    def when(self, shown: float) -> float:
        """The last true moment at which the clock may have shown this; or the moment of the step that skipped it."""
        eras = pairwise([*self._steps, (inf, 0.0)])
        return max(min(shown - ahead, until) for (since, ahead), (until, _) in eras if shown - ahead >= since)

    def step_now_and_then(self, happened: Counter[str], seed: int, until: float) -> None:
        """Steps, but not near the end: rows put back before a step back wait for as long as the step was."""
        dice = random.Random(f"clock {seed}")
        left = until - time.monotonic()
        last = until - min(_CALM, left * 0.7)
        while True:
            time.sleep(dice.uniform(0.05, 0.15) * min(left, _FEW))
            if time.monotonic() > last:
                return
            ahead = dice.choice((STEP, -STEP))
            self._step_to(ahead)
            happened[f"PostgreSQL's clock {ahead:+g} s, and back"] += 1
            time.sleep(dice.uniform(0.05, 0.15) * min(left, _FEW))
            self._step_to(0.0)

    def _step_to(self, ahead: float) -> None:
        with self.standing_still:
            self._clock.step_to(ahead)
            self._steps.append((time.time(), ahead))
