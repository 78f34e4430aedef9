"""Reads a list of Stripe's in windows of time: a part that cannot be read holds up only itself."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from config.database import DATABASE_TROUBLE
from handlers.queue.failures import AwayError, NotAllowedError, UnreadableError
from handlers.stripe_api.sessions import ListPage
from handlers.upkeep.allowance import Asking

SECOND = timedelta(seconds=1)
_ROOMY = 50  # items: a window of twice the width would fit into a page, too
_BURST = 1 / 64  # the part of a window that a burst lies within
_MOST_BURSTS = 3  # in a row: after these, bursts are everywhere, and halving is faster
_MOST_UNREAD = 10  # seconds in a row: after these, it is not their fault
_MOST_PAGES = 100  # of one second: ten thousand items


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The request for a page of [start, end) after an id, and the steps that follow it."""

    ask: Callable[[datetime, datetime, str | None], ListPage]
    take: Callable[[ListPage], None]
    reached: Callable[[datetime, ListPage], None]  # everything before this moment was read or passed over
    pass_over: Callable[[datetime, Exception], None]  # this second stays unread


def walk(reading: Reading, start: datetime, until: datetime, failures: int = 0) -> Asking:
    """Reads [start, until), oldest first. Yields before each request.

    A list runs from new to old, and a run must be able to stop and go on. So a window that does not fit into one page,
    or gets no answer, is narrowed, at last to a second; a second without an answer is passed over once a later window
    gets one. Most runs need one window and one request. After failures in a row the first window is narrower, since
    Stripe may not answer a long list in time.

    Raises Stripe's errors about the whole account, of the last second or of too many in a row, and the database's.
    """
    width, bursts = _whole_seconds((until - start) / (1 << 2 * min(failures, 12))), 0
    unread: list[tuple[datetime, Exception]] = []
    while start < until:
        end = min(start + width, until)
        try:
            yield
            page = reading.ask(start, end, None)
            if page.has_more and end - start > SECOND:
                burst = _before_a_burst(start, end, page) if bursts < _MOST_BURSTS else None
                bursts = bursts + 1 if burst else 0
                width = burst or _whole_seconds((end - start) / 2)
                continue
            reading.take(page)
            yield from _rest(reading, start, end, page)
        except DATABASE_TROUBLE:
            raise
        except Exception as error:  # a bad answer, or an item of an unforeseen form
            # An error about all of Stripe, or about the account, is not the window's fault.
            if isinstance(error, AwayError | NotAllowedError) or len(unread) == _MOST_UNREAD:
                raise
            width = _whole_seconds((end - start) / 4)
            if end - start > SECOND:
                continue
            unread.append((start, error))
        else:
            while unread:
                reading.pass_over(*unread.pop())
            reading.reached(end, page)
            width *= 1 if len(page.items) > _ROOMY else 2 if page.items else 8
            bursts = 0
        start = end
    if unread:
        raise unread[0][1]


def _rest(reading: Reading, start: datetime, end: datetime, page: ListPage) -> Generator[None]:
    """Reads the further pages of a second that does not fit into one."""
    seen: set[str] = set()
    while page.has_more:
        after = next(filter(None, map(id_of, reversed(page.items))), None)
        # A list that repeats its cursor, or has none, would never end.
        if after is None or after in seen or len(seen) == _MOST_PAGES:
            raise UnreadableError("Stripe's list does not end")
        seen.add(after)
        yield
        page = reading.ask(start, end, after)
        reading.take(page)


def _before_a_burst(start: datetime, end: datetime, page: ListPage) -> timedelta | None:
    """The window's width before its burst: the window's newest items, a full page of them, close together.

    If the burst is at the window's start, the burst's own width. None if the items are spread, or cannot be read.
    """
    created = [item.get("created") if isinstance(item, dict) else None for item in (page.items or [None])]
    newest, oldest = created[0], created[-1]
    if not isinstance(newest, int) or not isinstance(oldest, int):
        return None
    seconds = (end - start).total_seconds()
    first, last = oldest - int(start.timestamp()), newest - int(start.timestamp())
    if not 0 <= first <= last < seconds or last - first > seconds * _BURST:
        return None
    return timedelta(seconds=first or last + 1)


def _whole_seconds(width: timedelta) -> timedelta:
    return max(timedelta(seconds=width // SECOND), SECOND)


def id_of(item: Any) -> str | None:
    """An item's id; None where it has none."""
    found = item.get("id") if isinstance(item, dict) else None
    return found if isinstance(found, str) else None
