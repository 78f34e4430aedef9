"""The bounds for tries of one link, and of one address: a moving window in this process's memory."""

from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address
from itertools import islice
from time import monotonic

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

_MOST_KEYS = 10_000  # a sender with more addresses is bounded by no number of tries
LINK_LOOKS = RateLimitItemPerMinute(120)  # of one link: two windows that ask for news every two seconds, twice over
ENTRIES = RateLimitItemPerMinute(10)  # of one link: each asks Stripe, or owes a mail
OF_AN_ADDRESS = RateLimitItemPerMinute(600)  # a whole office may share it
_OF_THE_UNKNOWN = RateLimitItemPerMinute(6000)  # all senders behind proxies that TRUSTED_PROXIES lacks


class TooOftenError(Exception):
    """Too many tries in a minute."""


class Tries:
    """The tries of the last minute. Links and addresses are kept apart: no flood of addresses pushes a link out."""

    def __init__(self) -> None:
        self._links, self._addresses = _Memory(), _Memory()

    def of_link(self, allowed: RateLimitItem, subject: str) -> None:
        """Counts a try of a link, by the id in it: its text has several spellings. Raises TooOftenError."""
        _hit(self._links, allowed, subject)

    def of_address(
        self, client: tuple[str, int] | None, allowed: RateLimitItem | None = None, *, name: str = ""
    ) -> None:
        """Counts a try of a sender (receiver/sender.py), or of a sender under one name. Raises TooOftenError."""
        if client is None:
            _hit(self._addresses, _OF_THE_UNKNOWN, "unknown")
        else:
            _hit(self._addresses, allowed or OF_AN_ADDRESS, f"{_network(client[0])} {name}")


class _Memory(MemoryStorage):
    """The memory of tries. The library's own looks through all keys after nearly each try, in a thread, and keeps all.

    Here a try looks at the two keys that were tried the longest ago, by a clock that nobody sets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tries: OrderedDict[str, deque[float]] = OrderedDict()  # the latest try's key at the end

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = monotonic()
        tries = self.tries.setdefault(key, deque())
        self.tries.move_to_end(key)
        for oldest in [other for other in islice(self.tries, 2) if other != key]:
            if len(self.tries) > _MOST_KEYS or self.tries[oldest][-1] <= now - expiry:
                del self.tries[oldest]
        while tries and tries[0] <= now - expiry:
            tries.popleft()
        is_allowed = len(tries) + amount <= limit
        tries.extend([now] * amount * is_allowed)
        return is_allowed


def _hit(storage: _Memory, allowed: RateLimitItem, key: str) -> None:
    # rule: a link or sender that has tried too often waits
    if not MovingWindowRateLimiter(storage).hit(allowed, key):
        raise TooOftenError


def _network(address: str) -> str:
    """An IPv4 address, or the first half of an IPv6 one: a sender chooses the rest."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return str(found)
