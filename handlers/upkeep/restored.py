"""Restored: after a backup was put back, learns from Stripe what happened since, before anything more is done.

Generations have gone back, so an opening would make a session that there is already; mails that were sent are owed
again; and Stripe takes the lost events for delivered.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlmodel import Session, col

from config.database import database_now, transaction
from config.inserts import insert_or
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.queries import backlogs
from handlers.queue.claims import due
from handlers.queue.failures import NotAllowedError, NotNowError, stopping
from handlers.queue.pauses import EVERYTHING, pause, resume
from handlers.record.decide import PERHAPS_SENT
from handlers.record.events import SessionState, VerificationEvent
from handlers.sessions.reminders import hold_back_reminders
from handlers.tables.models import (
    Bookmark,
    Heartbeat,
    InboxEvent,
    OutboxAction,
    Paused,
    ProcessClock,
    Verification,
    VerificationRecord,
)
from handlers.upkeep.accounts import Accounts, heard_of
from handlers.upkeep.allowance import Report, in_turn, no_limit
from handlers.upkeep.conclude import conclude, hold_back_mails, renumber
from handlers.upkeep.relink import differing_sessions, give_way, purposes_of, relink
from handlers.upkeep.undelivered import EVENTS_KEPT, recover_events, whole_second
from handlers.upkeep.whole_lists import WholeLists

log = structlog.stdlib.get_logger(__name__)

BACKUP_REASON = "a backup was put back"
_SINCE = "restored"  # the bookmark of a recovery under way: the time of the backup's newest row
_MARGIN = timedelta(hours=1)  # for transactions that were under way then, and for a clock that differs from Stripe's
_ADOPTED_WITHIN = timedelta(days=30)  # of its creation: a session may be adopted later, and no list shows that
_PATIENCE = 90.0  # seconds for events that wait: another worker's lease is over by then
_PAUSE = 0.5
_MOST = 1000  # events at once
_MOMENTS: tuple[Any, ...] = (InboxEvent.received_at, VerificationRecord.updated_at, Verification.updated_at)
_MOMENTS += (OutboxAction.created_at, ProcessClock.measured_at, Heartbeat.last_at)


class NothingHereError(Exception):
    """No row says when the backup was made."""


@dataclass(slots=True)
class Recovered:
    """The result of a recovery: unless it is whole, everything stays paused."""

    since: datetime | None = None
    mails_held_back: int = 0
    sessions_listed: int = 0
    verifications_found: int = 0  # beyond those of the backup
    generations_moved: int = 0
    events_delivered_before: int = 0
    events_undelivered: int = 0
    sessions_to_cancel: int = 0  # open sessions beside a later one
    events_waiting: int = 0  # not applied yet
    purposes_lost: list[str] = field(default_factory=list)  # ids of verifications whose person has several
    accounts_lost: list[str] = field(default_factory=list)  # ids of accounts that refuse us
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left, so that everything goes on."""
        return not (self.events_waiting or self.failed or self.stopped)


def recover(
    accounts: Iterable[str] = (),
    since: datetime | timedelta | None = None,
    *,
    mail_again: bool = False,
    seen: Callable[[int], object] = int,
) -> Recovered:
    """Learns what a backup lacks, for our account, those it has heard of, and these. May be cut off, and run again.

    1. pauses all actions and openings, and notes the time of the backup: its newest row's, unless `since` gives it;
    2. skips the mails that the backup owes (they were perhaps sent) and counts them as told, unless `mail_again`;
    3. learns from Stripe's list the sessions of each verification, and its current one;
    4. applies the events since then that were delivered, without their mails, unless `mail_again`, and owes the
       application the state of their sessions;
    5. applies the undelivered events, as reconcile does, with all actions that they owe;
    6. writes down the consequences (sessions replaced, sessions to cancel), and resumes everything.

    `seen` is called with the number of sessions or events of each page. Raises NothingHereError if the database is
    empty. If Stripe gives no answer, or an event cannot be applied, everything stays paused.
    """
    found, report = Recovered(), Report()
    if not settings().stripe_api_key:
        found.stopped.append("no STRIPE_API_KEY")
        return found
    found.since, began = _begin(since)
    if not mail_again:
        with transaction() as session:
            held = hold_back_mails(session, found.since)
            found.mails_held_back = held + hold_back_reminders(session, PERHAPS_SENT)
    start = whole_second(found.since - _MARGIN)
    whose: Accounts = {**dict.fromkeys((None, *accounts), start), **heard_of()}
    try:
        for account, heard_of_at in [*whose.items()]:
            lists = WholeLists(report=report, account=account)
            try:
                _catch_up(lists, found, start, heard_of_at, seen, owes_nothing=not mail_again)
            except NotAllowedError as error:
                if account is None:
                    raise
                found.accounts_lost.append(account)  # it has left the platform: Stripe tells nothing more of it
                del whose[account]
                log.warning("restored.account_lost", account=account, error=str(error))
        found.events_waiting = _apply_all()
        with transaction() as session:
            renumber(session, began)
        in_turn("events", recover_events(report, whose, bounded=False), no_limit, report)
        found.events_undelivered = report.undelivered
        found.events_waiting = _apply_all()
    except NotNowError as error:
        found.stopped.append(str(error))
    found.failed = [f"{one.what} {one.name}: {one.reason}" for one in report.failed]
    if found.is_whole:
        with transaction() as session:
            found.sessions_to_cancel = conclude(session, start, began)
            session.connection().execute(delete(Bookmark).where(col(Bookmark.name) == _SINCE))
            resume(session, BACKUP_REASON)
    log.info("restored.ended", is_whole=found.is_whole, events_waiting=found.events_waiting, failed=len(found.failed))
    return found


def _begin(since: datetime | timedelta | None) -> tuple[datetime, datetime]:
    """The time of the backup, and the start of the first run; both are kept until the recovery is whole."""
    said = database_now() - since if isinstance(since, timedelta) else since
    with transaction() as session:
        newest = said or _newest(session)
        if newest is None:
            raise NothingHereError("There is nothing in this database: python -m worker rebuild fills it")
        # A time that is given again replaces the one before.
        again = "(name) DO UPDATE SET reached = excluded.reached" if said else "DO NOTHING"
        row = {"name": _SINCE, "reached": newest}
        insert_or(session.connection(), Bookmark, [row], on_conflict=again, returning="name")
        pause(session, EVERYTHING, BACKUP_REASON)
        began = session.scalars(select(func.min(col(Paused.since))).where(col(Paused.reason) == BACKUP_REASON)).one()
        return session.get_one(Bookmark, _SINCE).reached, began


def _newest(session: Session) -> datetime | None:
    found = [session.scalars(select(func.max(col(moment)))).one() for moment in _MOMENTS]
    return max(filter(None, found), default=None)


def _catch_up(
    lists: WholeLists,
    found: Recovered,
    start: datetime,
    heard_of_at: datetime,
    seen: Callable[[int], object],
    *,
    owes_nothing: bool,
) -> None:
    undelivered: dict[str, str] = {}
    asked: list[datetime] = []
    redacted: set[str] = set()
    purposes: dict[str, str] = {}

    def note(events: list[VerificationEvent], asked_at: datetime) -> None:
        asked.append(asked_at)
        undelivered.update((event.id, event.session_id) for event in events)

    def learn(listed: list[tuple[Any, SessionState]], asked_at: datetime) -> None:
        found.sessions_listed += len(listed)
        seen(len(listed))
        redacted.update(item["id"] for item, state in listed if state.redaction)
        purposes.update(purposes_of(listed))
        made, moved = relink(lists.account, listed)
        found.verifications_found += made
        found.generations_moved += moved
        if is_old:
            others = [(item, state) for item, state in listed if item["id"] not in announced]
            receive(differing_sessions(lists.account, others, asked_at), owes_nothing=owes_nothing)

    def take(events: list[VerificationEvent], _: datetime) -> None:
        seen(len(events))
        # An event that is younger than the first list may be on its way.
        delivered = [one for one in events if one.id not in undelivered and one.created_at < asked[0]]
        found.events_delivered_before += len(receive(delivered, owes_nothing=owes_nothing).accepted)

    lists.events(start, note, undelivered=True)
    announced = set(undelivered.values())  # sessions with an event that is applied later, with its actions
    # Stripe has no events of older changes any more, so that all sessions are looked at.
    is_old = start < database_now() - EVENTS_KEPT
    since = start - _ADOPTED_WITHIN
    lists.sessions(min(since, whole_second(heard_of_at)) if is_old else since, learn)
    found.purposes_lost += give_way(lists.account, redacted, purposes)
    lists.events(start, take, undelivered=False)


def _apply_all() -> int:
    """Applies the events that wait, for _PATIENCE seconds at most; returns how many are left."""
    ends = time.monotonic() + _PATIENCE
    while True:
        not_tried, tried_before = due(InboxEvent, _MOST)
        process([*not_tried, *tried_before])
        if not_tried or tried_before:
            continue
        left = backlogs()["events"].waiting
        if not left or time.monotonic() > ends or stopping.wait(_PAUSE):
            return left
