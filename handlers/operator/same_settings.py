"""Settings that must be the same in all processes of a kind, or in web and workers, compared by fingerprints.

Each heartbeat carries those of its process: a link that one process signs opens no page of another that lacks its key.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from config.settings import fingerprints, settings
from handlers.metrics import outside
from handlers.tables.models import Heartbeat

_MODE = "the mode of STRIPE_API_KEY"
# Web and workers go by these, and the mode: the key itself may be another one, with fewer permissions.
_OF_ALL = {_MODE, "REDIS_URL", "STRIPE_API_BASE", "OUR_SESSIONS", "SUBMISSION_LIMIT", "LINK_KEYS", "PUBLIC_URL"}
# One process may reach the database through a pooler; the others are a machine's.
_OF_EACH = {"DATABASE_URL", "DATABASE_POOL", "ACTION_THREADS", "PORT", "TRUSTED_PROXIES", "VAR_DIR", "LOG_FORMAT"}
_OF_EACH |= {"LOG_LEVEL"}
_BETWEEN, _EQUALS = ", ", "="
_TO_DO = (
    "give them the same, and start again who has another; are they of two services, on one database? In a deploy it is"
    " over with the last old process"
)


def own_fingerprints() -> str:
    """The fingerprints of this process's settings, in one line."""
    found = {name: letters for name, letters in fingerprints().items() if name not in _OF_EACH}
    if settings().livemode is not None:
        found[_MODE] = "live" if settings().livemode else "test"
    return _BETWEEN.join(f"{name}{_EQUALS}{letters}" for name, letters in sorted(found.items()))


def differing_settings(living: Sequence[Heartbeat]) -> Iterator[tuple[str, str]]:
    """A sentence for each two processes that have some setting otherwise, and what to do. Takes the youngest first."""
    told = [(one, found) for one in living if (found := _settings_of(one)) is not None]
    names = sorted({name for _, found in told for name in found})
    others = defaultdict[tuple[str, str], list[str]](list)
    for name in names:
        for kinds in [{"web", "worker"}] if name in _OF_ALL else [{"web"}, {"worker"}]:
            first = {found.get(name): one.name for one, found in reversed(told) if one.kind in kinds}
            if len(first) > 1:
                one, another, *_ = first.values()
                others[one, another].append(name)
    for (one, another), some in others.items():
        yield f"{', '.join(some)} {'are' if len(some) > 1 else 'is'} not the same in {one} and in {another}", _TO_DO


def _settings_of(process: Heartbeat) -> dict[str, str] | None:
    """The fingerprints by setting; None for a clock, and for a process of the version before."""
    for standing in outside.heard(process.outside):
        if standing.of == outside.SETTINGS:
            return dict(part.split(_EQUALS, 1) for part in standing.word.split(_BETWEEN) if part)
    return None
