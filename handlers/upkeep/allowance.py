"""The share of requests that a look of reconcile has, the turns of the accounts, and the report of a run."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from config.database import DATABASE_TROUBLE
from handlers.queue.failures import AwayError, describe, stopping
from handlers.upkeep import unanswered

REQUESTS = 50  # of each look of a scheduled run; Stripe allows 25 a second in a sandbox
SECONDS = 5.0  # of each look
SHARE = 15  # requests of one account, until all others have had their turn

# The work of a look for one account; it yields before each request to Stripe, so that its caller may stop there.
Asking = Iterator[None]


@dataclass(frozen=True, slots=True)
class Drift:
    """A session whose state at Stripe differs from ours, in words."""

    session_id: str
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A question without a usable answer: about an account's events or sessions, one session, one second of a list."""

    what: str
    name: str
    reason: str


@dataclass(slots=True)
class Report:
    """The findings of a run: ids of new events, ids to hand to the workers, sessions that differed, single failures,
    and the reasons why looks ended early."""

    undelivered: int = 0
    recovered: list[str] = field(default_factory=list)
    to_process: list[str] = field(default_factory=list)
    compared: int = 0
    drifted: list[Drift] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def note(self, what: str, name: str, error: Exception) -> int:
        """Reports a failure and stores it; returns how many there have been in a row."""
        self.failed.append(Failed(what, name or "our own account", describe(error)))
        return unanswered.add_failure(what, name, error)

    def note_second(self, list_: str, second: datetime, error: Exception) -> None:
        """Reports a second of a list that was passed over."""
        self.note("second", f"{list_}:{int(second.timestamp())}", error)

    def unreadable(self, what: str, item_id: str | None, error: Exception) -> None:
        """Reports an item that cannot be read; it is not stored, since another question would bring the same."""
        self.failed.append(Failed(what, item_id or "without an id", str(error)))
        unanswered.count(what, item_id or "", error)


class EnoughError(Exception):
    """A look's share of requests or seconds is used up; the next run goes on."""


def allowance() -> Callable[[], None]:
    """Takes one request from a scheduled run's share for one look, or raises EnoughError."""
    ends = time.monotonic() + SECONDS
    left = REQUESTS

    def take() -> None:
        nonlocal left
        if not left or time.monotonic() > ends or stopping.is_set():
            raise EnoughError("the rest is for the next run")
        left -= 1

    return take


def no_limit() -> None:
    """The share of a run that an operator waits for: it never ends."""


def in_turn(what: str, askings: Mapping[str | None, Asking], take: Callable[[], None], report: Report) -> None:
    """Runs the accounts' work in turns of SHARE requests. An account that fails is reported, and asked last next time.

    Raises EnoughError, AwayError when Stripe answers nobody, and the database's errors.
    """
    waiting = deque(askings.items())
    while waiting:
        account, asking = waiting.popleft()
        try:
            if not _turn(asking, take):
                waiting.append((account, asking))
                continue
        except (EnoughError, *DATABASE_TROUBLE):
            raise
        except Exception as error:  # any error of this account: the others go on
            report.note(what, account or "", error)
            if isinstance(error, AwayError):
                raise
        else:
            unanswered.drop(what, account or "")


def _turn(asking: Asking, take: Callable[[], None]) -> bool:
    """Runs one turn; True if the account's work is done."""
    for asked, _ in enumerate(asking, start=1):
        take()
        if asked == SHARE:
            return False
    return True
