"""When a try failed: whether to try again, and when."""

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from config.settings import SettingsError, settings

# Longer than any event or action may take, and so how long a dead worker's work waits.
LEASE = timedelta(seconds=60)
_BACKOFF_BASE_SECONDS = 2.0
_TURN = 2  # as after so many attempts: up to four seconds

_CERTIFICATES = {9: "is not valid yet", 10: "has expired", 62: "is of another host", 64: "is of another host"}
_UNREACHED: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "its name is not known"),
    (ConnectionRefusedError, "nobody listens there"),
    (ssl.SSLError, "no TLS comes about"),
    (ConnectionError, "it hangs up"),
    (TimeoutError, "no answer came in time"),
)

# Set when this process is asked to end: nothing new is begun, and what waits for its turn is handed back.
stopping = threading.Event()


class PermanentError(Exception):
    """Trying again cannot help; the message is stored, so it never holds personal data."""


class NotNowError(Exception):
    """Stripe, the application, the database or the network gives no verdict: wait, and never bury for it."""

    why = ""  # what they have against us, in our words, where they say it

    def __init__(self, message: str, again_after: float = 0.0) -> None:
        super().__init__(message)
        self.again_after = again_after  # seconds, on top of the backoff


class NotItsTurnError(NotNowError):
    """Something of ours comes first, and is under way: it is over soon, however often this was tried before."""


class AwayError(NotNowError):
    """Nobody is there, or wants to be left alone: whatever else is asked of them now gets no answer either."""


class NotAllowedError(NotNowError):
    """They refuse us: a key, a permission, an account. That says nothing about what was asked for."""

    def __init__(self, message: str, again_after: float = 0.0, dated: datetime | None = None) -> None:
        super().__init__(message, again_after)
        self.dated = dated  # their clock, where the key itself is good


class UnreadableError(NotNowError):
    """What came is not the answer to what was asked: a proxy's page, half an object, another one. It says nothing."""


class UnknownOutcomeError(Exception):
    """It may have happened, and nobody says so: another try may do it twice, so there are few, and far apart."""


class RefusedError(Exception):
    """The other side refuses this one for now; the try counts, and another one may succeed."""


def unless_stopping() -> None:
    """Before what may take long: raises NotNowError once this process is asked to end."""
    if stopping.is_set():
        raise NotNowError("the worker was asked to end")


def backoff(attempts: int) -> timedelta:
    """A full-jitter delay after 1 or more attempts: anywhere up to the doubled span, BACKOFF_SECONDS at most."""
    ceiling = min(settings().backoff_seconds, _BACKOFF_BASE_SECONDS * 2 ** min(attempts - 1, 30))
    return timedelta(seconds=random.uniform(0, ceiling))


def delay(attempts: int, error: Exception) -> timedelta:
    """How long a row waits after 1 or more attempts: the backoff, once the time is over that was asked for."""
    # rule: what waits its turn waits no longer for having waited before
    doublings = min(attempts, _TURN) if isinstance(error, NotItsTurnError) else attempts
    return backoff(doublings) + timedelta(seconds=getattr(error, "again_after", 0.0))


def describe(error: BaseException) -> str:
    """What may be stored of an error: our own sentence, or only the type of somebody else's (theirs quote payloads)."""
    if isinstance(error, PermanentError | NotNowError | RefusedError | UnknownOutcomeError | SettingsError):
        return str(error)
    return type(error).__name__


def why_unreached(error: BaseException) -> str:
    """In our words why there is no connection, or no answer, by the innermost error that tells; else its type."""
    chain = [*_causes(error)]
    for one in reversed(chain):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate {_CERTIFICATES.get(one.verify_code, 'is signed by nobody that we know')}"
        for kind, words in _UNREACHED:
            if isinstance(one, kind):
                return words
    # Of the libraries' own errors two stand for what has no other.
    names = " ".join(type(one).__name__ for one in chain)
    return "no answer came in time" if "Timeout" in names else "it hangs up" if "Disconnected" in names else names


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, outermost first, in whichever way its library does."""
    found: BaseException | None = error
    while found is not None:
        yield found
        wrapped = (getattr(found, "reason", None), *found.args, found.__cause__, found.__context__)
        found = next((one for one in wrapped if isinstance(one, BaseException)), None)
