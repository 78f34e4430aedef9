"""Rebuild: fills a wiped database again with Stripe's sessions as they are, and the events that Stripe still has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from config.database import DATABASE_TROUBLE, database_now
from config.settings import settings
from handlers.inbox.receive import receive
from handlers.queue.failures import AwayError, NotNowError, describe, stopping
from handlers.record.events import MalformedEventError, VerificationEvent, parse_item
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import ListPage
from handlers.upkeep.drift import observed, whose
from handlers.upkeep.undelivered import AHEAD, EVENTS_KEPT, parse_listed, whole_second
from handlers.upkeep.windows import SECOND, Reading, id_of, walk

log = structlog.stdlib.get_logger(__name__)

_PAUSES = (1, 2, 4, 8, 16)  # seconds between the tries of a request: an operator waits, and a rate limit lasts a second

_Read = Callable[[Any, datetime], VerificationEvent | None]


@dataclass(frozen=True, slots=True)
class Restored:
    """One page put into the inbox: the list's name, its number of items, the new events' ids, the unreadable items."""

    what: str
    listed: int
    event_ids: list[str]
    failed: list[str]


def rebuild(since: datetime | timedelta, accounts: Sequence[str | None], *, owes_nothing: bool) -> Iterator[Restored]:
    """Reads the events and sessions made since then, or within that time, into the inbox, page by page.

    The workers apply them. May be run again at any time. An account, a page or an item that fails is reported, and the
    others go on. Raises AwayError when Stripe stays away.
    """
    now = database_now()
    start = now - since if isinstance(since, timedelta) else since
    kept = max(start, now - EVENTS_KEPT)
    for account in accounts:
        read = partial(_listed_event, account)
        yield from _restored(
            "events", partial(sessions.list_events, account=account), read, kept, account, owes_nothing
        )
        read = partial(_listed_session, account)
        yield from _restored(
            "sessions", partial(sessions.list_sessions, account=account), read, start, account, owes_nothing
        )


def _restored(
    what: str, list_page: Callable[..., ListPage], read: _Read, since: datetime, account: str | None, owes_nothing: bool
) -> Iterator[Restored]:
    pages: list[Restored] = []
    listed = f"{what} of {account or 'our own account'}"

    def take(page: ListPage) -> None:
        events, failed = [], []
        for item in page.items:
            try:
                event = read(item, page.asked_at)
            except MalformedEventError as error:  # this item alone is skipped
                failed.append(f"{id_of(item) or 'an item without an id'} among {listed}: {error}")
            else:
                events += [event] if event else []
        receipt = receive(events, owes_nothing=owes_nothing)
        pages.append(Restored(what, len(page.items), sorted(receipt.accepted), failed))

    def fail(where: str, error: Exception) -> None:
        pages.append(Restored(what, 0, [], [f"{where}: {describe(error)}"]))

    reading = Reading(
        ask=partial(_patiently, list_page),
        take=take,
        reached=lambda *_: None,
        pass_over=lambda second, error: fail(f"{listed} at {second:%Y-%m-%d %H:%M:%SZ}", error),
    )
    try:
        for _ in walk(reading, whole_second(since), whole_second(database_now() + AHEAD)):
            while pages:
                yield pages.pop(0)
    except AwayError as error:
        fail(listed, error)
        yield from pages
        raise
    except DATABASE_TROUBLE:
        raise
    except Exception as error:  # any error of this account: the next one is read all the same
        fail(listed, error)
    yield from pages


def _listed_event(account: str | None, item: Any, _: datetime) -> VerificationEvent | None:
    return parse_listed(item, account)


def _listed_session(account: str | None, item: Any, asked_at: datetime) -> VerificationEvent | None:
    session_id, state = parse_item(item, settings().our_sessions, settings().livemode)
    return observed(session_id, account, item["livemode"], whose(state, account), asked_at)


def _patiently(list_page: Callable[..., ListPage], start: datetime, end: datetime, after: str | None) -> ListPage:
    """Asks for a page, and waits between tries if a narrower window would not help."""
    for pause in _PAUSES:
        try:
            return list_page(start, end, after=after)
        except NotNowError as error:
            if end - start > SECOND and not isinstance(error, AwayError):
                raise
            log.warning("stripe.awaited", error=str(error))
            if stopping.wait(pause):
                raise
    return list_page(start, end, after=after)
