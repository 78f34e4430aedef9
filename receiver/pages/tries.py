"""How often one link, and one address, may ask: a moving window in this process's memory."""

from ipaddress import IPv6Address, ip_address

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

_MOST_KEYS = 10_000  # whoever brings more has addresses enough to be bounded by no number of tries
LOOKS = RateLimitItemPerMinute(120)  # of one link: two windows that ask for news every two seconds, twice over
ENTRIES = RateLimitItemPerMinute(10)  # of one link: each asks Stripe, or owes a mail
OF_AN_ADDRESS = RateLimitItemPerMinute(600)  # which a whole office may share
_OF_THE_UNKNOWN = RateLimitItemPerMinute(6000)  # all whose proxy nobody has named in TRUSTED_PROXIES


class TooOftenError(Exception):
    """Too many tries in a minute."""


class Tries:
    """Those of the last minute. Links and addresses are counted apart: no flood of addresses frees a link."""

    def __init__(self) -> None:
        self._links, self._addresses = MemoryStorage(), MemoryStorage()

    def of_link(self, allowed: RateLimitItem, subject: str) -> None:
        """One more of a link, by the id in it: its text has several spellings. Raises TooOftenError."""
        _hit(self._links, allowed, subject)

    def of_address(self, client: tuple[str, int] | None, allowed: RateLimitItem | None = None) -> None:
        """One more of a sender (receiver/sender.py). Raises TooOftenError."""
        if client is None:
            _hit(self._addresses, _OF_THE_UNKNOWN, "unknown")
        else:
            _hit(self._addresses, allowed or OF_AN_ADDRESS, _network(client[0]))


def _hit(storage: MemoryStorage, allowed: RateLimitItem, key: str) -> None:
    if len(storage.events) >= _MOST_KEYS:
        _make_room(storage)
    # rule: who has tried too often waits
    if not MovingWindowRateLimiter(storage).hit(allowed, key):
        raise TooOftenError


def _make_room(storage: MemoryStorage) -> None:
    """The library forgets the tries of a key after their minute, and never the key."""
    for key in [key for key, tries in list(storage.events.items()) if not tries]:
        storage.clear(key)
    if len(storage.events) > _MOST_KEYS // 2:
        storage.reset()


def _network(address: str) -> str:
    """An IPv4 address, or the first half of an IPv6 one: the rest is whatever a sender likes."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return str(found)
