"""Restored: a backup was put back, and what happened since is learnt from Stripe before anything more is done.

Generations have gone back, so an opening would make a session that there is already; mails that were sent are owed
again; and Stripe holds for delivered what is not here any more.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from config.database import database_now, now, transaction
from config.inserts import insert_or
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.queries import backlogs
from handlers.queue.claims import due
from handlers.queue.failures import NotAllowedError, NotNowError, stopping
from handlers.queue.pauses import EVERYTHING, pause, resume
from handlers.record.events import SessionState, VerificationEvent
from handlers.sessions.reminders import hold_back_reminders
from handlers.tables.models import (
    ActionStatus,
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
from handlers.upkeep.conclude import MAILS, PERHAPS_SENT, conclude, renumber
from handlers.upkeep.relink import differing, give_way, purposes_of, relink
from handlers.upkeep.undelivered import EVENTS_KEPT, recover_events, whole_second
from handlers.upkeep.whole_lists import WholeLists

log = structlog.stdlib.get_logger(__name__)

REASON = "a backup was put back"
_SINCE = "restored"  # the bookmark of what is under way: the newest row that the backup had
_MARGIN = timedelta(hours=1)  # what was under way then; a host's clock and Stripe's may differ, too
_ADOPTED_WITHIN = timedelta(days=30)  # since it was made; nothing lists what was adopted
_PATIENCE = 90.0  # seconds for events that wait: a lease of somebody else's is over by then
_PAUSE = 0.5
_MOST = 1000  # events at once
_MOMENTS: tuple[Any, ...] = (InboxEvent.received_at, VerificationRecord.updated_at, Verification.updated_at)
_MOMENTS += (OutboxAction.created_at, ProcessClock.measured_at, Heartbeat.last_at)


class NothingHereError(Exception):
    """No row says when the backup was made."""


@dataclass(slots=True)
class Recovered:
    """What was learnt, and what is left: unless it is whole, everything stays paused."""

    since: datetime | None = None
    mails_held_back: int = 0
    sessions_listed: int = 0
    verifications_found: int = 0  # that the backup did not have
    generations_moved: int = 0
    events_delivered_before: int = 0
    events_undelivered: int = 0
    sessions_to_cancel: int = 0  # open ones beside a later one
    events_waiting: int = 0  # that could not be applied yet
    purposes_lost: list[str] = field(default_factory=list)  # of persons who have several: the verifications' ids
    accounts_lost: list[str] = field(default_factory=list)  # which refuse us
    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether everything goes on."""
        return not (self.events_waiting or self.failed or self.stopped)


def recover(
    accounts: Iterable[str] = (),
    since: datetime | timedelta | None = None,
    *,
    mail_again: bool = False,
    seen: Callable[[int], object] = int,
) -> Recovered:
    """What a backup lacks, for our own account, those it has heard of, and these. May be cut off, and run again.

    1. pauses all that is owed, and openings, and notes the newest row of the backup, unless `since` says when that was;
    2. holds the mails that the backup owes for sent, unless they shall go out (again);
    3. learns from Stripe's list which sessions the verifications have by now, and which is each one's current;
    4. applies the events since then that were delivered, and so acted upon, with a mail to nobody, and tells the
       application how their sessions are;
    5. applies those that never were, as reconcile does, with all that they owe;
    6. writes down what follows: who was told what, which sessions were replaced, which are to end; and goes on.

    `seen` hears how many sessions and events more were read. Raises NothingHereError where the database is empty.
    Where Stripe or an event gives no answer, everything stays paused.
    """
    found, report = Recovered(), Report()
    if not settings().stripe_api_key:
        found.stopped.append("no STRIPE_API_KEY")
        return found
    found.since, began = _begin(since)
    if not mail_again:
        found.mails_held_back = _hold_back_mails(found.since)
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
                found.accounts_lost.append(account)  # it has left the platform: nobody can learn more of it
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
            resume(session, REASON)
    log.info("restored.ended", is_whole=found.is_whole, events_waiting=found.events_waiting, failed=len(found.failed))
    return found


def _begin(since: datetime | timedelta | None) -> tuple[datetime, datetime]:
    """When the backup was made, and when the first run of this began; both are kept until it is whole."""
    said = database_now() - since if isinstance(since, timedelta) else since
    with transaction() as session:
        newest = said or _newest(session)
        if newest is None:
            raise NothingHereError("There is nothing in this database: python -m worker rebuild fills it")
        # Who says it again is believed.
        again = "(name) DO UPDATE SET reached = excluded.reached" if said else "DO NOTHING"
        row = {"name": _SINCE, "reached": newest}
        insert_or(session.connection(), Bookmark, [row], on_conflict=again, returning="name")
        pause(session, EVERYTHING, REASON)
        began = session.scalars(select(func.min(col(Paused.since))).where(col(Paused.reason) == REASON)).one()
        return session.get_one(Bookmark, _SINCE).reached, began


def _newest(session: Session) -> datetime | None:
    found = [session.scalars(select(func.max(col(moment)))).one() for moment in _MOMENTS]
    return max(filter(None, found), default=None)


def _hold_back_mails(since: datetime) -> int:
    """How many; whoever is about to send one loses its claim."""
    owed = update(OutboxAction).where(
        col(OutboxAction.status) == ActionStatus.PENDING,
        col(OutboxAction.name).in_(MAILS),
        col(OutboxAction.created_at) <= since,
    )
    ended = owed.values(status=ActionStatus.SKIPPED, reason=PERHAPS_SENT, done_at=now())
    with transaction() as session:
        return session.connection().execute(ended).rowcount + hold_back_reminders(session, PERHAPS_SENT)


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
            receive(differing(lists.account, others, asked_at), owes_nothing=owes_nothing)

    def take(events: list[VerificationEvent], _: datetime) -> None:
        seen(len(events))
        # What is younger than the first list may be on its way.
        delivered = [one for one in events if one.id not in undelivered and one.created_at < asked[0]]
        found.events_delivered_before += len(receive(delivered, owes_nothing=owes_nothing).accepted)

    lists.events(start, note, undelivered=True)
    announced = set(undelivered.values())  # by an event that is to come, and owes something
    # What changed before that has no events any more, so that all sessions are looked at.
    is_old = start < database_now() - EVENTS_KEPT
    since = start - _ADOPTED_WITHIN
    lists.sessions(min(since, whole_second(heard_of_at)) if is_old else since, learn)
    found.purposes_lost += give_way(lists.account, redacted, purposes)
    lists.events(start, take, undelivered=False)


def _apply_all() -> int:
    """Applies whatever waits, with some patience; how many events are left."""
    ends = time.monotonic() + _PATIENCE
    while True:
        not_tried, tried_before = due(InboxEvent, _MOST)
        process([*not_tried, *tried_before])
        if not_tried or tried_before:
            continue
        left = backlogs()[InboxEvent].waiting
        if not left or time.monotonic() > ends or stopping.wait(_PAUSE):
            return left
