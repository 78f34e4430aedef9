"""Undelivered: fetches the events that Stripe could not deliver to us, and puts them into the inbox."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from config.database import DATABASE_TROUBLE, database_now
from config.settings import settings
from handlers.inbox.receive import receive
from handlers.metrics import counting
from handlers.record.events import MalformedEventError, VerificationEvent, parse
from handlers.stripe_api import sessions
from handlers.upkeep import progress, unanswered
from handlers.upkeep.accounts import Accounts, bookmark, whose_turn
from handlers.upkeep.allowance import Asking, Report
from handlers.upkeep.windows import SECOND, Reading, id_of, walk

log = structlog.stdlib.get_logger(__name__)

EVENTS_KEPT = timedelta(days=30)  # by Stripe
AHEAD = timedelta(days=1)  # a list is read this far past our clock, which may be slow
IN_FLIGHT = timedelta(seconds=60)  # a younger event's first delivery is on its way


def recover_events(report: Report, accounts: Accounts, *, bounded: bool) -> dict[str | None, Asking]:
    """For each account whose turn it is, the work that fetches its undelivered events."""
    turns = whose_turn("events", accounts, bounded=bounded)
    return {account: _recover(report, account, bounded=bounded) for account in turns}


def parse_listed(item: Any, account: str | None) -> VerificationEvent | None:
    """The event in an item of a list, which leaves out the account that was asked; None for a type we do not use.

    Raises MalformedEventError.
    """
    event = parse(item, settings().our_sessions, settings().livemode)
    if not isinstance(event, VerificationEvent):
        return None
    return event if event.ignored else replace(event, account=event.account or account)


def whole_second(moment: datetime) -> datetime:
    """The moment without fractions, as Stripe's filters take it."""
    return moment.replace(microsecond=0)


def _recover(report: Report, account: str | None, *, bounded: bool) -> Asking:
    """Fetches from where the last run stopped until now; then the seconds that were passed over."""
    name, now = bookmark("events", account), database_now()
    oldest = whole_second(now - EVENTS_KEPT)
    progress.begin(name, oldest)
    reached = progress.reached(name) or oldest
    start = oldest if reached > now else reached  # the database's clock may have been wrong by then, or be it now
    reading = Reading(
        ask=lambda start, end, after: sessions.list_events(start, end, account, after=after, undelivered=True),
        take=lambda page: take_in(page.items, account, report, undelivered=True),
        reached=lambda end, page: progress.move(name, max(start, min(end, whole_second(page.asked_at - IN_FLIGHT)))),
        pass_over=lambda second, error: report.note_second(name, second, error),
    )
    failures = unanswered.failures("events", account or "")
    yield from walk(reading, start, whole_second(now - IN_FLIGHT if bounded else now + AHEAD), failures)
    left_alone = unanswered.waiting("second") if bounded else []
    for row in unanswered.known("second", f"{name}:"):
        second = datetime.fromtimestamp(int(row.name.rpartition(":")[2]), UTC)
        if row.name in left_alone or second < oldest:
            continue
        try:
            yield from walk(replace(reading, reached=lambda *_: None), second, second + SECOND)
        except (*unanswered.OF_THE_ACCOUNT, *DATABASE_TROUBLE):
            raise
        except Exception as error:  # as in walk: this second alone is passed over
            report.note_second(name, second, error)
        else:
            unanswered.drop("second", row.name)


def take_in(items: list[Any], account: str | None, report: Report, *, undelivered: bool) -> None:
    """Puts listed events into the inbox, and reports the new ones."""
    events = []
    for item in items:
        try:
            event = parse_listed(item, account)
        except MalformedEventError as error:  # this item alone is skipped
            report.unreadable("event", id_of(item), error)
        else:
            events += [event] if event else []
    receipt = receive(events)
    report.undelivered += sum(undelivered and not event.ignored for event in events)
    report.recovered += sorted(receipt.accepted)
    report.to_process += sorted(receipt.accepted | receipt.unprocessed)
    if receipt.accepted:
        counting.RECOVERED_EVENTS.inc(len(receipt.accepted))
    for event_id in sorted(receipt.accepted):
        log.warning("event.recovered", event_id=event_id)
