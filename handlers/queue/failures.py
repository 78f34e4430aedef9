"""The errors of a failed try: whether another try follows, and when."""

import errno
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from config.names import LateNameError
from config.settings import SettingsError, settings

# Longer than any event or action may take; the work of a dead worker waits so long.
LEASE = timedelta(seconds=60)
_BACKOFF_BASE_SECONDS = 2.0
_TURN = 2  # the most attempts by which a wait for a turn grows: up to four seconds

_CERTIFICATES = {9: "is not valid yet", 10: "has expired", 62: "is of another host", 64: "is of another host"}
_UNREACHED: tuple[tuple[type[BaseException], str], ...] = (
    (LateNameError, "its name was not found in time"),
    (socket.gaierror, "its name is not known"),
    (ConnectionRefusedError, "nobody listens there"),
    (ssl.SSLError, "no TLS comes about"),
    (ConnectionError, "it hangs up"),
    (TimeoutError, "no answer came in time"),
)

# Set when this process is asked to end: nothing new is begun, and rows that wait for their turn are put back.
stopping = threading.Event()


class PermanentError(Exception):
    """Trying again cannot help; the message is stored, so it never holds personal data."""


class NotNowError(Exception):
    """Stripe, the application, the database or the network gives no verdict: wait, and never bury for it."""

    why = ""  # the other side's reason, in our words, if it gives one

    def __init__(self, message: str, again_after: float = 0.0) -> None:
        super().__init__(message)
        self.again_after = again_after  # seconds, on top of the backoff


class NotItsTurnError(NotNowError):
    """Other work of ours comes first, and is under way: it is over soon, however often this row was tried before."""


class AwayError(NotNowError):
    """The other side is away, or wants quiet: other calls to it get no answer now either."""


class NotAllowedError(NotNowError):
    """The other side refuses us (a key, a permission, an account), which says nothing about the row."""

    def __init__(self, message: str, again_after: float = 0.0, dated: datetime | None = None) -> None:
        super().__init__(message, again_after)
        self.dated = dated  # the other side's clock, if the key itself is good


class UnreadableError(NotNowError):
    """The answer does not fit the question (a proxy's page, half an object, another object), and so says nothing."""


class UnknownOutcomeError(Exception):
    """The act may have happened, and nobody says so: another try may repeat it, so tries are few and far apart."""


class RefusedError(Exception):
    """The other side refuses this row's act for now; the try counts, and another one may succeed."""


def unless_stopping() -> None:
    """Raises NotNowError once this process is asked to end; called before work that may take long."""
    if stopping.is_set():
        raise NotNowError("the worker was asked to end")


def backoff(attempts: int) -> timedelta:
    """A full-jitter delay after 1 or more attempts: anywhere up to the doubled span, BACKOFF_SECONDS at most."""
    ceiling = min(settings().backoff_seconds, _BACKOFF_BASE_SECONDS * 2 ** min(attempts - 1, 30))
    return timedelta(seconds=random.uniform(0, ceiling))


def delay(attempts: int, error: Exception) -> timedelta:
    """A row's wait after 1 or more attempts: the time that the other side asked for, and then the backoff."""
    # rule: earlier attempts do not lengthen a row's wait for its turn
    doublings = min(attempts, _TURN) if isinstance(error, NotItsTurnError) else attempts
    return backoff(doublings) + timedelta(seconds=getattr(error, "again_after", 0.0))


def describe(error: BaseException) -> str:
    """The storable words of an error: our own sentence, or only the type of a library's (those quote payloads)."""
    if isinstance(error, PermanentError | NotNowError | RefusedError | UnknownOutcomeError | SettingsError):
        return str(error)
    return type(error).__name__


def why_unreached(error: BaseException) -> str:
    """The reason for no connection or no answer, in our words, by the innermost error that tells it; else the types."""
    chain = [*_causes(error)]
    for one in reversed(chain):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate {_CERTIFICATES.get(one.verify_code, 'is signed by nobody that we know')}"
        if isinstance(one, OSError) and one.errno in (errno.EMFILE, errno.ENFILE):
            return "this process may open no more files (ulimit -n)"
        for kind, words in _UNREACHED:
            if isinstance(one, kind):
                return words
    # Two of the libraries' own errors stand for causes that have no other error.
    names = " ".join(type(one).__name__ for one in chain)
    return "no answer came in time" if "Timeout" in names else "it hangs up" if "Disconnected" in names else names


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that it wraps, outermost first; libraries wrap errors in several ways."""
    found: BaseException | None = error
    while found is not None:
        yield found
        wrapped = (getattr(found, "reason", None), *found.args, found.__cause__, found.__context__)
        found = next((one for one in wrapped if isinstance(one, BaseException)), None)
