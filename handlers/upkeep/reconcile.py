"""Reconcile: what Stripe has and we never applied.

Two looks: the events Stripe could not deliver, and each of our sessions that is not at its end. What is found goes into
the inbox like any event, so that order, owing and redaction are decided in one place.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from sqlalchemy import or_, select, update
from sqlmodel import col

from config.database import transaction
from config.settings import settings
from handlers.inbox import receive
from handlers.metrics import counting
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import MalformedEventError, SessionState, VerificationEvent, parse
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import SETTLES_WITHIN, Status, VerificationRecord, utc_now
from handlers.upkeep import progress

log = structlog.stdlib.get_logger(__name__)

EVENTS_KEPT = timedelta(days=30)  # by Stripe
REQUESTS = 100  # for each of the two looks of a scheduled run; Stripe allows 25 a second in a sandbox
SECONDS = 8.0  # for each of them: with one slow answer still inside Heroku's 30 s for a shutdown
RUN = "reconcile"  # the bookmark of the last run
AHEAD = timedelta(days=1)  # reading to the end means past this second, whatever our clock says
_IN_FLIGHT = timedelta(seconds=60)  # a younger event's first delivery is on its way
_SECOND = timedelta(seconds=1)
_NON_FINAL = (Status.REQUIRES_INPUT, Status.PROCESSING)


# Takes one request from a run's share, or raises EnoughError.
Spend = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Drift:
    """A session that Stripe has otherwise than we do, in words."""

    session_id: str
    ours: str
    theirs: str


@dataclass(slots=True)
class Report:
    """What a run found: event ids new to us, ids to hand to the workers, sessions that differed, why it ended early."""

    undelivered: int = 0
    recovered: list[str] = field(default_factory=list)
    to_process: list[str] = field(default_factory=list)
    compared: int = 0
    drifted: list[Drift] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


class EnoughError(Exception):
    """A run's share of requests or seconds is used up; the next one goes on."""


def reconcile(*, bounded: bool = True) -> Report:
    """One run. Bounded: so many requests and seconds, and of our sessions those whose turn it is; else everything.

    Never raises for Stripe's sake: the report says why it stopped, and the next run goes on where this one did.
    """
    report = Report()
    if not sessions.has_key():
        report.stopped.append("no STRIPE_API_KEY")
        return report
    for name, look in _LOOKS.items():
        try:
            look(report, _allowance() if bounded else _no_limit, bounded)
        except (NotNowError, PermanentError, EnoughError) as error:
            report.stopped.append(f"{name}: {error}")
    progress.move(RUN, utc_now())
    log.info(
        "reconcile.ended",
        undelivered=report.undelivered,
        recovered=len(report.recovered),
        compared=report.compared,
        drifted=len(report.drifted),
        stopped=report.stopped,
    )
    return report


def observed(
    session_id: str, account: str | None, livemode: bool, state: SessionState, asked_at: datetime
) -> VerificationEvent | None:
    """What Stripe has answered about a session, as the event that would have said so; None for a status unknown to us.

    asked_at is Stripe's time then, or earlier: a lower bound, as it is for an answer (handlers/record/ordering.py).
    """
    if state.status not in list(Status):
        return None
    second = _second(asked_at)
    return VerificationEvent(
        id=f"reconcile_{session_id}_{int(second.timestamp())}",
        type=f"identity.verification_session.{state.status}",
        session_id=session_id,
        account=account,
        livemode=livemode,
        created_at=second,
        state=state,
    )


def parse_listed(item: dict[str, Any], account: str | None) -> VerificationEvent | None:
    """An event as a list shows it: without its account, which is the one that was asked. None if it cannot be read."""
    try:
        event = parse(orjson.dumps(item))
    except MalformedEventError as error:
        log.error("event.unreadable", error=str(error))
        return None
    return replace(event, account=event.account or account) if isinstance(event, VerificationEvent) else None


def _recover_events(report: Report, spend: Spend, bounded: bool) -> None:
    for account in _accounts():
        _recover_account(report, spend, account, bounded)


def _recover_account(report: Report, spend: Spend, account: str | None, bounded: bool) -> None:
    """From where the last run stopped until now, in windows of time.

    A list runs from new to old, and a run must be able to stop and go on: so each window that does not fit into one
    page is halved, and what was read stays read. Most runs need one window and one request.
    """
    bookmark = f"undelivered:{account or ''}"
    oldest = _second(utc_now() - EVENTS_KEPT)
    start = max(progress.reached(bookmark) or oldest, oldest)
    width = EVENTS_KEPT
    until = _second(utc_now() - _IN_FLIGHT if bounded else utc_now() + AHEAD)
    while start < until:
        end = min(start + width, until)
        spend()
        page = sessions.list_events(start, end, account, undelivered=True)
        if page.has_more and width > _SECOND:
            width = max(_whole_seconds((end - start) / 2), _SECOND)
            continue
        items = page.items
        while page.has_more:
            spend()
            page = sessions.list_events(start, end, account, undelivered=True, after=items[-1]["id"])
            items += page.items
        _receive(items, account, report)
        progress.move(bookmark, min(end, _second(page.asked_at - _IN_FLIGHT)))
        start, width = end, min(width * 2, EVENTS_KEPT)


def _receive(items: list[dict[str, Any]], account: str | None, report: Report) -> None:
    parsed = (parse_listed(item, account) for item in items)
    events = [event for event in parsed if event]
    if not events:
        return
    receipt = receive.receive(events)
    report.undelivered += len(events)
    report.recovered += sorted(receipt.accepted)
    report.to_process += sorted(receipt.accepted | receipt.unprocessed)
    counting.count("identity_recovered_events_total", len(receipt.accepted))
    for event_id in sorted(receipt.accepted):
        log.warning("event.recovered", event_id=event_id)


def _compare_sessions(report: Report, spend: Spend, bounded: bool) -> None:
    for session_id in _non_final(only_due=bounded):
        spend()
        with transaction() as session:
            record = session.get_one(VerificationRecord, session_id)
        try:
            retrieved = sessions.retrieve_state(record.session_id, record.account)
        except PermanentError as error:  # of this session's alone
            log.error("session.unreadable", session_id=session_id, error=str(error))
        else:
            if retrieved and _differs(record, retrieved.state):
                _mend(record, retrieved, report)
        _compare_later(record)
        report.compared += 1


def _mend(record: VerificationRecord, retrieved: Retrieved, report: Report) -> None:
    ours = _words(record.status, record.last_error_code)
    theirs = _words(retrieved.state.status, retrieved.state.error_code)
    report.drifted.append(Drift(record.session_id, ours, theirs))
    counting.count("identity_drifted_sessions_total")
    log.warning("session.drifted", session_id=record.session_id, ours=ours, theirs=theirs)
    event = observed(record.session_id, record.account, record.livemode, retrieved.state, retrieved.asked_at)
    if event:
        receive.receive([event])
        report.to_process.append(event.id)


def _differs(record: VerificationRecord, state: SessionState) -> bool:
    ours = record.status, record.last_error_code, record.last_report_id, record.redacted_at is not None
    return ours != (state.status, state.error_code, state.report_id, state.redaction is not None)


def _compare_later(record: VerificationRecord) -> None:
    now = utc_now()
    # The longer a session has been quiet, the longer it may stay so: some twenty looks in its first month.
    wait = max(SETTLES_WITHIN, (now - record.updated_at) / 2)
    put_off = update(VerificationRecord).where(
        col(VerificationRecord.session_id) == record.session_id,
        col(VerificationRecord.updated_at) == record.updated_at,
    )
    with transaction() as session:
        session.connection().execute(put_off.values(compare_at=now + wait, updated_at=VerificationRecord.updated_at))


def _non_final(*, only_due: bool) -> list[str]:
    # Without an index of its own: one scan a run costs less than an index that every event's update has to keep.
    wanted = select(col(VerificationRecord.session_id)).where(
        or_(col(VerificationRecord.status).is_(None), col(VerificationRecord.status).in_(_NON_FINAL)),
        col(VerificationRecord.redacted_at).is_(None),
        col(VerificationRecord.livemode) == settings().livemode,
    )
    if only_due:
        compare_at = col(VerificationRecord.compare_at)
        wanted = wanted.where(or_(compare_at.is_(None), compare_at <= utc_now())).order_by(compare_at).limit(REQUESTS)
    with transaction() as session:
        return list(session.scalars(wanted))


def _accounts() -> list[str | None]:
    """Ours, and the connected ones we have heard of; the one that has waited longest first."""
    with transaction() as session:
        connected = session.scalars(
            select(col(VerificationRecord.account)).where(col(VerificationRecord.account).is_not(None)).distinct()
        ).all()
    never = utc_now() - EVENTS_KEPT
    return sorted([None, *connected], key=lambda account: progress.reached(f"undelivered:{account or ''}") or never)


_LOOKS = {"events": _recover_events, "sessions": _compare_sessions}


def _allowance() -> Spend:
    ends = time.monotonic() + SECONDS
    left = REQUESTS

    def spend() -> None:
        nonlocal left
        if not left or time.monotonic() > ends:
            raise EnoughError("the rest is for the next run")
        left -= 1

    return spend


def _no_limit() -> None:
    pass


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "unknown"


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _whole_seconds(span: timedelta) -> timedelta:
    return timedelta(seconds=int(span.total_seconds()))
