"""The bounds for tries of one link, and of one address: a moving window in this process's memory."""

from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address
from itertools import islice
from time import monotonic

_MOST_KEYS = 10_000  # a sender with more addresses is bounded by no number of tries
_WINDOW_SECONDS = 60.0
# Tries in the window.
LOOKS = 120  # of one link: two windows that ask for news every two seconds, twice over
ENTRIES = 10  # of one link: each asks Stripe, or owes a mail
OF_AN_ADDRESS = 600  # a whole office may share it
_OF_THE_UNKNOWN = 6000  # all senders behind proxies that TRUSTED_PROXIES lacks


class TooOftenError(Exception):
    """Too many tries in a minute."""


class Tries:
    """The tries of the last minute. Links and addresses are kept apart: no flood of addresses pushes a link out."""

    def __init__(self) -> None:
        self._links, self._addresses = _Memory(), _Memory()

    def of_link(self, allowed: int, subject: str) -> None:
        """Counts a try of a link, by the id in it: its text has several spellings. Raises TooOftenError."""
        self._links.hit(allowed, subject)

    def of_address(self, client: tuple[str, int] | None, allowed: int | None = None, *, name: str = "") -> None:
        """Counts a try of a sender (receiver/sender.py), or of a sender under one name. Raises TooOftenError."""
        if client is None:
            self._addresses.hit(_OF_THE_UNKNOWN, "unknown")
        else:
            self._addresses.hit(allowed or OF_AN_ADDRESS, f"{_network(client[0])} {name}")


class _Memory(OrderedDict[tuple[str, int], deque[float]]):
    """The times of the last tries by subject and bound; the latest try's key is at the end."""

    def hit(self, allowed: int, subject: str) -> None:
        """Counts a try, and forgets up to two keys, those that were tried the longest ago. Raises TooOftenError."""
        now, key = monotonic(), (subject, allowed)
        tries = self.setdefault(key, deque())
        self.move_to_end(key)
        for oldest in [other for other in islice(self, 2) if other != key]:
            if len(self) > _MOST_KEYS or self[oldest][-1] <= now - _WINDOW_SECONDS:
                del self[oldest]
        while tries and tries[0] <= now - _WINDOW_SECONDS:
            tries.popleft()
        # rule: a link or sender that has tried too often waits
        if len(tries) >= allowed:
            raise TooOftenError
        tries.append(now)


def _network(address: str) -> str:
    """An IPv4 address, or the first half of an IPv6 one: a sender chooses the rest."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return str(found)
