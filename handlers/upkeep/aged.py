"""Aged: compares every session as Stripe lists it with ours, ever more rarely as it grows old.

An override or a redaction may happen at any time, and its event may never come. An event that was answered 2xx and then
lost with its database (a failover without synchronous replication) counts as delivered: only a list shows its effect.
"""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlmodel import col

from config.database import database_now, transaction
from config.settings import settings
from handlers.record.events import MalformedEventError, parse_item
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import ListPage
from handlers.tables.models import VerificationRecord
from handlers.upkeep import progress
from handlers.upkeep.accounts import Accounts, bookmark, whose_turn
from handlers.upkeep.allowance import Asking, Report
from handlers.upkeep.drift import Whose, confirmed, differs, whose
from handlers.upkeep.undelivered import AHEAD, whole_second
from handlers.upkeep.windows import Reading, id_of, walk

# Since the session's creation: seven looks in the first month, eleven in seven years.
AGES = tuple(timedelta(hours=3**power) for power in range(11))
_LATE = 4  # a look may come late by this part of the age, so that many sessions share a request


def compare_listed(report: Report, accounts: Accounts, *, bounded: bool) -> dict[str | None, Asking]:
    """For each account, the work that compares its sessions which have reached one of the AGES (unbounded: all)."""
    turns = whose_turn("listed", accounts, bounded=bounded)
    return {account: _compare(report, account, accounts[account], bounded=bounded) for account in turns}


def _compare(report: Report, account: str | None, heard_of_at: datetime, *, bounded: bool) -> Asking:
    """Compares the sessions made since we first heard of the account; older ones are no drift."""
    name, now, first = bookmark("listed", account), database_now(), whole_second(heard_of_at)
    progress.begin(name, first)
    if not bounded:
        yield from _look(report, account, first, now + AHEAD, f"{name}:all", timedelta())
        return
    for age in AGES:
        mark, until = f"{name}:{age // timedelta(hours=1)}", whole_second(now - age)
        start = max(progress.reached(mark) or first, first)
        if until - start >= age / _LATE:
            yield from _look(report, account, start, until, mark, age)


def _look(report: Report, account: str | None, start: datetime, until: datetime, mark: str, age: timedelta) -> Asking:
    doubtful: list[Whose] = []
    ends: list[datetime] = []

    def reached(end: datetime, page: ListPage) -> None:
        too_young = end + age - page.asked_at  # by Stripe's clock: ours may be ahead
        ends.append(whole_second(end - min(max(too_young, timedelta()), end - start)))

    reading = Reading(
        ask=lambda start, end, after: sessions.list_sessions(start, end, account, after=after),
        take=lambda page: doubtful.extend(_differing(report, account, page)),
        reached=reached,
        pass_over=lambda second, error: report.note_second(mark, second, error),
    )
    for _ in walk(reading, start, until):
        yield from _settled(report, doubtful, ends, mark)
        yield
    yield from _settled(report, doubtful, ends, mark)


def _settled(report: Report, doubtful: list[Whose], ends: list[datetime], mark: str) -> Asking:
    """Settles the doubtful sessions of a window before the bookmark moves past it."""
    while doubtful:
        yield from confirmed(report, [doubtful[0]])
        del doubtful[0]
    while ends:
        progress.move(mark, ends.pop(0))


def _differing(report: Report, account: str | None, page: ListPage) -> list[Whose]:
    listed = {}
    for item in page.items:
        try:
            session_id, state = parse_item(item, settings().our_sessions, settings().livemode)
            listed[session_id] = whose(state, account)
        except MalformedEventError as error:  # this item alone is skipped
            report.unreadable("session", id_of(item), error)
    with transaction() as session:
        rows = select(VerificationRecord).where(col(VerificationRecord.session_id).in_(list(listed)))
        ours = {record.session_id: record for record in session.scalars(rows)}
    report.compared += len(listed)
    settled = {one.session_id for one in report.drifted}
    differing = (one for one, state in listed.items() if differs(ours.get(one), state) and one not in settled)
    return [Whose(session_id, account) for session_id in differing]
