"""When a try failed: whether to try again, and when."""

import random
import threading
from datetime import timedelta

from config.settings import settings

# Longer than any event or action may take, and so how long a dead worker's work waits.
LEASE = timedelta(seconds=60)
_BACKOFF_BASE_SECONDS = 2.0

# Set when this process is asked to end: nothing new is begun, and what waits for its turn is handed back.
stopping = threading.Event()


class PermanentError(Exception):
    """Trying again cannot help; the message is stored, so it never holds personal data."""


class NotNowError(Exception):
    """Stripe, the database or the network is not there: wait, and never bury for it."""


class AwayError(NotNowError):
    """Nobody is there, or wants nothing of us: whoever else would ask the same waits, too."""


class UnknownOutcomeError(Exception):
    """It may have happened, and nobody says so: another try may do it twice, so there are few, and far apart."""


class RefusedError(Exception):
    """The other side refuses for now; the try counts, and another one may succeed."""


def unless_stopping() -> None:
    """Before what may take long: raises NotNowError once this process is asked to end."""
    if stopping.is_set():
        raise NotNowError("the worker was asked to end")


def backoff(attempts: int) -> timedelta:
    """A full-jitter delay after 1 or more attempts: anywhere up to the doubled span, BACKOFF_SECONDS at most."""
    ceiling = min(settings().backoff_seconds, _BACKOFF_BASE_SECONDS * 2 ** min(attempts - 1, 30))
    return timedelta(seconds=random.uniform(0, ceiling))


def describe(error: BaseException) -> str:
    """What may be stored of an error: our own sentence, or only the type of somebody else's (theirs quote payloads)."""
    if isinstance(error, PermanentError | NotNowError | RefusedError | UnknownOutcomeError):
        return str(error)
    return type(error).__name__
