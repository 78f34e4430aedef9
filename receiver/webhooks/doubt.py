"""Doubt about the secret: a delivery that is refused for its signature may be Stripe's own, and hold what nobody else
knows: an event that Stripe knows, or a session that is known here. Or its signature may be right for another writing
of the same body.

Anybody can send refused deliveries, so that they alone say little.
"""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import orjson
from sqlalchemy import select
from sqlmodel import col

from config.database import DATABASE_TROUBLE, reading
from config.settings import settings
from handlers.metrics import outside
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES
from handlers.stripe_api.account import find_event
from handlers.tables.models import VerificationRecord

_SECONDS = 10.0  # from one question to the next, whoever sends what
_EVENT_ID = re.compile(rb'"id": *"(evt_[A-Za-z0-9]{8,64})"')
_SESSION_ID = re.compile(rb'"id": *"(vs_[A-Za-z0-9_]{8,64})"')


class Doubt:
    """The asking, in a thread of its own that nobody waits for."""

    def __init__(self, is_signed: Callable[[bytes, str], bool]) -> None:
        self._is_signed = is_signed
        self._thread = ThreadPoolExecutor(1, "doubt")
        self._asked = self._read = -_SECONDS

    def wants_unsigned(self) -> bool:
        """Whether the body of a delivery without a signature is worth being read: one in ten seconds is."""
        is_due = time.monotonic() - max(self._asked, self._read) >= _SECONDS
        if is_due:
            self._read = time.monotonic()
        return is_due

    def note(self, body: bytes, signature: str) -> None:
        """Takes a refused delivery's body, and its signature or "" for none; asks about its event, unless another one
        was asked about just now.
        """
        if time.monotonic() - self._asked < _SECONDS or not (found := _EVENT_ID.search(body)):
            return
        self._asked = time.monotonic()
        self._thread.submit(self._ask, body, signature, found[1].decode())

    def end(self) -> None:
        """Begins nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(self, body: bytes, signature: str, event_id: str) -> None:
        if any(self._is_signed(text, signature) for text in _written_anew(body)):
            outside.note_refusal(outside.BODY, "was changed on its way")
        elif _is_known_at_stripe(event_id) or _is_known_here(body):
            outside.note_refusal(
                outside.SIGNED, "was refused for its signature" if signature else "came without its signature"
            )


def _written_anew(body: bytes) -> Iterator[bytes]:
    """The same content with the spaces of a snapshot event, as Stripe writes it, and with those of a thin one."""
    with suppress(orjson.JSONDecodeError):
        content = orjson.loads(body)
        yield orjson.dumps(content, option=orjson.OPT_INDENT_2)
        yield orjson.dumps(content)


def _is_known_at_stripe(event_id: str) -> bool:
    if settings().stripe_api_key:
        with suppress(NotNowError, PermanentError):  # another finding tells it, or nobody knows the event
            return find_event(event_id).get("type") in EVENT_TYPES
    return False


def _is_known_here(body: bytes) -> bool:
    if found := _SESSION_ID.search(body):
        its = select(1).where(col(VerificationRecord.session_id) == found[1].decode())
        with suppress(*DATABASE_TROUBLE), reading() as session:  # there is a finding for it
            return session.scalar(its) is not None
    return False
