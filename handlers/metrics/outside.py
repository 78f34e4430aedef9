"""How those outside answer this process: who refuses us, since when, and with which word of ours.

Each heartbeat carries it. A mail server that refuses us, an application and Stripe are each known by name, and what is
refused of one for itself (a permission, one mail after the other) stands beside what is refused of all.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import orjson
from pydantic import TypeAdapter, ValidationError

from config.settings import settings

MAIL_SERVER, APPLICATION, STRIPE = "the mail server", "the application", "Stripe"
ENDPOINT = "the endpoint at Stripe"
_SILENT_SECONDS = 4.0  # an answer that takes longer is told as none, until it comes
_SEVERAL = 3  # of those that are refused each for itself: one or two are about themselves
_FORGOTTEN_SECONDS = 7200.0  # whoever waits tries again sooner; what nobody waits for says nothing any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How we stand with one of them, in seconds before it was said."""

    of: str
    doing: str  # what is refused of them; empty for whatever we ask
    word: str = ""
    times: int = 0  # refused since the last answer, one after the other
    each: bool = False  # for itself: so many different ones
    since: float | None = None  # refused without an answer, for that long; None after an answer
    last: float | None = None
    answered: float | None = None


_STANDINGS: TypeAdapter[list[Standing]] = TypeAdapter(list[Standing])


@dataclass(slots=True)
class _Seen:
    """The same as this process remembers it, by time.monotonic()."""

    word: str = ""
    times: int = 0
    since: float | None = None
    last: float | None = None
    answered: float | None = None
    about: set[str] = field(default_factory=set)


_lock = threading.Lock()
_seen: defaultdict[tuple[str, str], _Seen] = defaultdict(_Seen)
_asked: defaultdict[str, dict[object, float]] = defaultdict(dict)  # since when an answer is waited for


@contextmanager
def asking(of: str) -> Iterator[None]:
    """Somebody waits for an answer of theirs, for as long as the block takes."""
    unit = object()
    with _lock:
        _asked[of][unit] = time.monotonic()
    try:
        yield
    finally:
        with _lock:
            del _asked[of][unit]


def refused(of: str, word: str, *, doing: str = "", about: str = "", seconds: float = 0.0) -> None:
    """They refuse us, in a word of ours; what has taken so many seconds began as long ago.

    Where it is said of one thing, which `about` names within this process, it counts as a refusal of us once several
    have been refused one after the other; that they are there, and know us, it says at once.
    """
    at = time.monotonic()
    with _lock:
        if about:
            _note_answer(of, "", at)
        seen = _seen[of, doing]
        if about and len(seen.about) < _SEVERAL:
            seen.about.add(about)
        seen.times = len(seen.about) if about else seen.times + 1
        seen.word, seen.last, seen.since = word, at, at - seconds if seen.since is None else seen.since


def answered(of: str, doing: str = "") -> None:
    """They did what was asked of them, or said what there is to say of it."""
    at = time.monotonic()
    with _lock:
        _note_answer(of, "", at)
        if doing:
            _note_answer(of, doing, at)


def said() -> str | None:
    """All of it, for the heartbeat; None where nothing was asked of anybody for long."""
    at = time.monotonic()
    kept_for = max(_FORGOTTEN_SECONDS, 2.0 * settings().reconcile_seconds)
    with _lock:
        found = [
            Standing(
                of=of,
                doing=doing,
                word=seen.word,
                times=seen.times,
                each=bool(seen.about),
                since=_ago(at, seen.since),
                last=_ago(at, seen.last),
                answered=_ago(at, seen.answered),
            )
            for (of, doing), seen in _with_silences(at).items()
            if at - max(seen.last or 0.0, seen.answered or 0.0) < kept_for
        ]
    return orjson.dumps([asdict(one) for one in found]).decode() if found else None


def heard(text: str | None) -> Sequence[Standing]:
    """What a process has said; nothing where another version says it in another way."""
    try:
        return _STANDINGS.validate_json(text) if text else []
    except ValidationError:
        return []


def _note_answer(of: str, doing: str, at: float) -> None:
    _seen[of, doing] = _Seen(answered=at)


def _with_silences(at: float) -> dict[tuple[str, str], _Seen]:
    """Beside what was said, who has said nothing for long to somebody who waits, nor to anybody else meanwhile."""
    found = dict(_seen)
    for of, units in _asked.items():
        since, wide = min(units.values(), default=at), found.get((of, ""), _Seen())
        if at - since > _SILENT_SECONDS and (wide.answered or 0.0) < since and wide.since is None:
            word = "has not answered yet"
            found[of, ""] = _Seen(word=word, times=1, since=since, last=at, answered=wide.answered)
    return found


def _ago(at: float, moment: float | None) -> float | None:
    return None if moment is None else round(at - moment, 1)
