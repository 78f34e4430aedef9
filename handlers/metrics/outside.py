"""The standing of the mail server, the application and Stripe with this process: refusals, in words of ours, and times.

Each heartbeat carries it. The refusal of one kind of request (a permission, one mail after the other) stands beside the
refusal of all requests.
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
PUBLIC_URL = "PUBLIC_URL"
DATABASE, OURSELVES, STARTED = "the database", "this service", "every delivery since the start"
SIGNED, BODY = "a delivery of Stripe's own", "the body of a delivery"
FILES = "the limit of open files"
MAIL_FOLDER = "VAR_DIR/mail"
SETTINGS = "settings"  # of this process, by their fingerprints
STILL_USED = "the token"  # of somebody's, that is gone from API_TOKENS
LOOKUP = "EMAIL_LOOKUP"  # a function of the team's
BROKER = "the Redis of REDIS_URL"
LOGO = "the server of BRAND_LOGO_URL"
_SILENT_SECONDS = 4.0  # an answer that takes longer counts as none, until it comes
_SEVERAL = 3  # single things, each refused for itself: one or two may be at fault themselves
_FORGOTTEN_SECONDS = 7200.0  # a caller that waits tries again sooner; without one, a refusal is out of date


@dataclass(frozen=True, kw_only=True, slots=True)
class OutsideStanding:
    """Our standing with one of them; the times are seconds before the heartbeat."""

    of: str
    doing: str  # the kind of request that is refused; empty for every request
    word: str = ""
    times: int = 0  # refusals in a row since the last answer
    each: bool = False  # `times` counts different things, each refused for itself
    since: float | None = None  # the first refusal since the last answer; None after an answer
    last: float | None = None
    answered: float | None = None


_STANDINGS: TypeAdapter[list[OutsideStanding]] = TypeAdapter(list[OutsideStanding])


@dataclass(slots=True)
class _Seen:
    """The same standing as this process remembers it, by time.monotonic()."""

    word: str = ""
    times: int = 0
    since: float | None = None
    last: float | None = None
    answered: float | None = None
    about: set[str] = field(default_factory=set)


_lock = threading.Lock()
_seen: defaultdict[tuple[str, str], _Seen] = defaultdict(_Seen)
_asked: defaultdict[str, dict[object, float]] = defaultdict(dict)  # the starts of the waits for an answer


@contextmanager
def asking(of: str) -> Iterator[None]:
    """Notes that a caller waits for an answer of theirs, for as long as the block takes."""
    unit = object()
    with _lock:
        _asked[of][unit] = time.monotonic()
    try:
        yield
    finally:
        with _lock:
            del _asked[of][unit]


def note_refusal(of: str, word: str, *, doing: str = "", about: str = "", seconds: float = 0.0) -> None:
    """Notes a refusal, in a word of ours; the request began `seconds` ago.

    A refusal of one thing, which `about` names within this process, counts as a refusal of us once several things have
    been refused in a row; but it is an answer to all other requests at once: they are there, and know us.
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


def note_answer(of: str, doing: str = "") -> None:
    """Notes an answer: they did what was asked of them, or gave a verdict on it."""
    at = time.monotonic()
    with _lock:
        _note_answer(of, "", at)
        if doing:
            _note_answer(of, doing, at)


def note_shown(of: str, word: str) -> None:
    """Notes what this process shows of itself: no answer and no refusal."""
    with _lock:
        _seen[of, ""] = _Seen(word=word, answered=time.monotonic())


def said(*only: str) -> str | None:
    """All standings as JSON, for the heartbeat, or only those of some; None if nothing was asked of them for long."""
    at = time.monotonic()
    kept_for = max(_FORGOTTEN_SECONDS, 2.0 * settings().reconcile_seconds)
    with _lock:
        found = [
            OutsideStanding(
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
            if at - max(seen.last or 0.0, seen.answered or 0.0) < kept_for and (not only or of in only)
        ]
    return orjson.dumps([asdict(one) for one in found]).decode() if found else None


def heard(text: str | None) -> Sequence[OutsideStanding]:
    """The standings in a process's heartbeat; none if another version wrote them in another form."""
    try:
        return _STANDINGS.validate_json(text) if text else []
    except ValidationError:
        return []


def _note_answer(of: str, doing: str, at: float) -> None:
    _seen[of, doing] = _Seen(answered=at)


def _with_silences(at: float) -> dict[tuple[str, str], _Seen]:
    """The standings; a silent one counts as refusing if a caller has waited for long and none got an answer since."""
    found = dict(_seen)
    for of, units in _asked.items():
        since, wide = min(units.values(), default=at), found.get((of, ""), _Seen())
        if at - since > _SILENT_SECONDS and (wide.answered or 0.0) < since and wide.since is None:
            word = "has not answered yet"
            found[of, ""] = _Seen(word=word, times=1, since=since, last=at, answered=wide.answered)
    return found


def _ago(at: float, moment: float | None) -> float | None:
    return None if moment is None else round(at - moment, 1)
