"""Undelivered: the events that Stripe made and could not bring to us, fetched and put into the inbox."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select
from sqlmodel import col

from config.database import database_now, transaction
from handlers.inbox.receive import receive
from handlers.metrics import counting
from handlers.record.events import MalformedEventError, VerificationEvent, parse
from handlers.stripe_api import sessions
from handlers.tables.models import VerificationRecord
from handlers.upkeep import progress
from handlers.upkeep.allowance import Report, Spend

log = structlog.stdlib.get_logger(__name__)

EVENTS_KEPT = timedelta(days=30)  # by Stripe
AHEAD = timedelta(days=1)  # reading to the end means past this second, whatever our clock says
_IN_FLIGHT = timedelta(seconds=60)  # a younger event's first delivery is on its way
_SECOND = timedelta(seconds=1)


def recover_events(report: Report, spend: Spend, *, bounded: bool) -> None:
    """Fetches them for each account. Raises EnoughError, NotNowError, PermanentError; what was read stays read."""
    for account in _accounts():
        _recover_account(report, spend, account, bounded=bounded)


def parse_listed(item: dict[str, Any], account: str | None) -> VerificationEvent | None:
    """An event as a list shows it: without its account, which is the one that was asked. None if it cannot be read."""
    try:
        event = parse(item)
    except MalformedEventError as error:
        log.error("event.unreadable", error=str(error))
        return None
    return replace(event, account=event.account or account) if isinstance(event, VerificationEvent) else None


def _accounts() -> list[str | None]:
    """Ours, and the connected ones we have heard of; the one that has waited longest first."""
    with transaction() as session:
        connected = session.scalars(
            select(col(VerificationRecord.account)).where(col(VerificationRecord.account).is_not(None)).distinct()
        ).all()
    never = database_now() - EVENTS_KEPT
    return sorted([None, *connected], key=lambda account: progress.reached(_bookmark(account)) or never)


def _recover_account(report: Report, spend: Spend, account: str | None, *, bounded: bool) -> None:
    """From where the last run stopped until now, in windows of time.

    A list runs from new to old, and a run must be able to stop and go on: so each window that does not fit into one
    page is halved, and what was read stays read. Most runs need one window and one request.
    """
    now = database_now()
    oldest = _second(now - EVENTS_KEPT)
    start = max(progress.reached(_bookmark(account)) or oldest, oldest)
    width = EVENTS_KEPT
    until = _second(now - _IN_FLIGHT if bounded else now + AHEAD)
    while start < until:
        end = min(start + width, until)
        spend()
        page = sessions.list_events(start, end, account, undelivered=True)
        if page.has_more and width > _SECOND:
            width = max(timedelta(seconds=(end - start) // _SECOND // 2), _SECOND)
            continue
        items = page.items
        while page.has_more:
            spend()
            page = sessions.list_events(start, end, account, undelivered=True, after=items[-1]["id"])
            items += page.items
        _take_in(items, account, report)
        progress.move(_bookmark(account), min(end, _second(page.asked_at - _IN_FLIGHT)))
        start, width = end, min(width * 2, EVENTS_KEPT)


def _take_in(items: list[dict[str, Any]], account: str | None, report: Report) -> None:
    parsed = (parse_listed(item, account) for item in items)
    events = [event for event in parsed if event]
    receipt = receive(events)
    report.undelivered += len(events)
    report.recovered += sorted(receipt.accepted)
    report.to_process += sorted(receipt.accepted | receipt.unprocessed)
    if receipt.accepted:
        counting.RECOVERED_EVENTS.inc(len(receipt.accepted))
    for event_id in sorted(receipt.accepted):
        log.warning("event.recovered", event_id=event_id)


def _bookmark(account: str | None) -> str:
    return f"undelivered:{account or ''}"


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
