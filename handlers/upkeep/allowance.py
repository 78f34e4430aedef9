"""What a run of reconcile may cost, and what it reports."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

REQUESTS = 100  # for each of the two looks of a scheduled run; Stripe allows 25 a second in a sandbox
SECONDS = 8.0  # for each of them: with one slow answer still inside Heroku's 30 s for a shutdown

# Takes one request from a run's share, or raises EnoughError.
Spend = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Drift:
    """A session that Stripe has otherwise than we do, in words."""

    session_id: str
    ours: str
    theirs: str


@dataclass(slots=True)
class Report:
    """What a run found: event ids new to us, ids to hand to the workers, sessions that differed, why it ended early."""

    undelivered: int = 0
    recovered: list[str] = field(default_factory=list)
    to_process: list[str] = field(default_factory=list)
    compared: int = 0
    drifted: list[Drift] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


class EnoughError(Exception):
    """A run's share of requests or seconds is used up; the next one goes on."""


def allowance() -> Spend:
    """A scheduled run's share for one look."""
    ends = time.monotonic() + SECONDS
    left = REQUESTS

    def spend() -> None:
        nonlocal left
        if not left or time.monotonic() > ends:
            raise EnoughError("the rest is for the next run")
        left -= 1

    return spend


def no_limit() -> None:
    """The share of a run that an operator waits for."""
