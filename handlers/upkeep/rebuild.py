"""Rebuild: a wiped database filled again from Stripe: its sessions as they are, and the events it still has."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from config.database import database_now
from handlers.inbox.receive import receive
from handlers.queue.failures import NotAllowedError, NotNowError
from handlers.record.events import MalformedEventError, VerificationEvent, parse_session
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Listed
from handlers.upkeep.drift import observed
from handlers.upkeep.undelivered import AHEAD, EVENTS_KEPT, parse_listed

log = structlog.stdlib.get_logger(__name__)

_TRIES = 6  # of one request, with 1 to 16 s between: an operator waits, and a rate limit lasts a second


@dataclass(frozen=True, slots=True)
class Restored:
    """One page put into the inbox: what it listed, how many items, and the ids that were new."""

    what: str
    listed: int
    event_ids: list[str]


def rebuild(since: datetime | timedelta, accounts: Sequence[str | None], *, owes_nothing: bool) -> Iterator[Restored]:
    """Reads what was made since then, or so long ago, into the inbox, page by page; the workers apply it.

    May be run again at any time.

    Raises NotNowError when Stripe stays away, NotAllowedError when the key may not list.
    """
    now = database_now()
    start = now - since if isinstance(since, timedelta) else since
    for account in accounts:
        yield from _restored(
            "events",
            sessions.list_events,
            _listed_event,
            max(start, now - EVENTS_KEPT),
            account,
            owes_nothing,
        )
        yield from _restored("sessions", sessions.list_sessions, _listed_session, start, account, owes_nothing)


def _restored(
    what: str,
    list_page: Callable[..., Listed],
    read: Callable[[dict[str, Any], str | None, datetime], VerificationEvent | None],
    since: datetime,
    account: str | None,
    owes_nothing: bool,
) -> Iterator[Restored]:
    until, after, more = database_now() + AHEAD, None, True
    while more:
        page = _patiently(partial(list_page, since, until, account, after=after))
        found = (read(item, account, page.asked_at) for item in page.items)
        events = [event for event in found if event]
        receipt = receive(events, owes_nothing=owes_nothing)
        yield Restored(what, len(page.items), sorted(receipt.accepted))
        more = page.has_more
        after = page.items[-1]["id"] if page.items else None


def _listed_event(item: dict[str, Any], account: str | None, _: datetime) -> VerificationEvent | None:
    return parse_listed(item, account)


def _listed_session(item: dict[str, Any], account: str | None, asked_at: datetime) -> VerificationEvent | None:
    try:
        return observed(item["id"], account, item["livemode"], parse_session(item), asked_at)
    except MalformedEventError as error:
        log.error("session.unreadable", error=str(error))
        return None


def _patiently(request: Callable[[], Listed]) -> Listed:
    for tries in range(_TRIES - 1):
        try:
            return request()
        except NotAllowedError:
            raise
        except NotNowError as error:
            log.warning("stripe.awaited", error=str(error))
            time.sleep(2**tries)
    return request()
