"""Drift: compares our sessions that are not at their end with Stripe's; each difference goes into the inbox.

It also compares ended sessions that Stripe would not answer about the last time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlmodel import col

from config.database import DATABASE_TROUBLE, database_now, now, transaction
from config.settings import settings
from handlers.inbox.apply import SETTLES_WITHIN
from handlers.inbox.receive import receive
from handlers.metrics import counting
from handlers.queue.failures import AwayError, NotAllowedError, UnreadableError
from handlers.record.events import ANSWERED, SessionState, Status, VerificationEvent
from handlers.sessions.ending import unmark_abandoned
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import ENDED, NOT_ENDED, Bookmark, Verification, VerificationRecord
from handlers.upkeep import progress, unanswered
from handlers.upkeep.accounts import Accounts, bookmark
from handlers.upkeep.allowance import REQUESTS, Asking, Drift, Report

log = structlog.stdlib.get_logger(__name__)


class Whose(NamedTuple):
    """A session and the account it belongs to."""

    session_id: str
    account: str | None


def compare_open(report: Report, accounts: Accounts, *, bounded: bool) -> dict[str | None, Asking]:
    """For each account, the work that asks Stripe about its open sessions that are due (unbounded: about all)."""
    chosen = [None] if None in accounts else _neighbours(only_due=bounded)
    return {account: compared(report, _open(account, only_due=bounded)) for account in chosen}


def compared(report: Report, ours: Iterable[Whose]) -> Asking:
    """Asks about each session, and then once more about those that differ. Yields before each request."""
    doubtful = []
    for one in ours:
        yield
        record, retrieved = _asked(report, one)
        report.compared += 1
        if retrieved and differs(record, retrieved.state):
            _compare(one.session_id, timedelta())  # so it stays due if this run breaks off
            doubtful.append(one)
    yield from confirmed(report, doubtful)


def confirmed(report: Report, doubtful: Iterable[Whose]) -> Asking:
    """Asks again and takes over the sessions that still differ: a replica's answer may be older than it says."""
    for one in doubtful:
        yield
        record, retrieved = _asked(report, one)
        if retrieved and differs(record, retrieved.state):
            _take_over(report, one, record, retrieved)


def differs(record: VerificationRecord | None, state: SessionState) -> bool:
    """Whether Stripe's state of a session of ours differs from our record; None: we have never heard of the session."""
    # rule: a session that is not ours is not compared; its record may be older than the marks
    if state.is_ours is False or not (record or state.is_ours):
        return False
    if record is None or (state.redaction and not record.redacted_at):
        return True
    if record.status == Status.CANCELED:  # no event changes it
        return False
    if record.redacted_at:  # a redaction replaces the texts, and is never taken back
        return record.status != state.status
    ours = record.status, record.last_error_code, record.last_report_id
    return ours != (state.status, state.error_code, state.report_id)


def whose(state: SessionState, account: str | None) -> SessionState:
    """The same state; one that only names a verification is ours if that exists, in the account and our mode."""
    if state.is_ours is not None or state.verification_id is None:
        return state
    named = exists().where(
        col(Verification.id) == state.verification_id,
        col(Verification.account) == (account or ""),
        col(Verification.livemode) == settings().livemode,
    )
    with transaction() as session:
        return replace(state, is_ours=session.execute(select(named)).scalar_one())


def observed(
    session_id: str, account: str | None, livemode: bool, state: SessionState, asked_at: datetime
) -> VerificationEvent | None:
    """Stripe's answer about a session, as an event that shows it; None for an unknown status or a session not ours.

    asked_at is Stripe's time then, or earlier: a lower bound, as it is for an answer (handlers/record/ordering.py).
    """
    if state.status not in list(Status) or state.is_ours is False:  # rule: a session that is not ours makes no event
        return None
    second = asked_at.replace(microsecond=0)
    # Two looks within one second may see two states, and each is an event of its own.
    shown = sha256(repr((state.status, state.error_code, state.report_id, state.redaction)).encode()).hexdigest()[:8]
    return VerificationEvent(
        id=f"{ANSWERED}{session_id}_{int(second.timestamp())}_{shown}",
        type=f"identity.verification_session.{state.status}",
        session_id=session_id,
        account=account,
        livemode=livemode,
        created_at=second,
        state=state,
        is_ours=state.is_ours,
    )


def _neighbours(*, only_due: bool) -> list[str | None]:
    """The connected accounts with sessions to compare, longest due first, and no more than a look can ask about."""
    account, compare_at = col(VerificationRecord.account), col(VerificationRecord.compare_at)
    heard = bookmark("heard", None)
    named = col(Bookmark.name).startswith(heard, autoescape=True), col(Bookmark.name) != heard
    name = select(func.substr(col(Bookmark.name), len(heard) + 1).label("name")).where(*named).subquery().c.name
    # One look into the index for each account: a neighbour with a million sessions holds nobody up.
    first = select(compare_at).where(account == name, NOT_ENDED, *_wanted(only_due=only_due))
    first = first.order_by(account, compare_at).limit(1).correlate(name.table)
    found = select(name, first.scalar_subquery().label("due")).subquery()
    some = select(found.c.name).where(found.c.due.is_not(None)).order_by(found.c.due)
    ended = select(account).where(account.is_not(None), _ended_unread(), *_wanted(only_due=only_due)).distinct()
    left_alone = unanswered.waiting("sessions") if only_due else []
    with transaction() as session:
        names = [*session.scalars(some.limit(REQUESTS) if only_due else some), *session.scalars(ended)]
    return [name for name in dict.fromkeys(names) if name not in left_alone]


def _open(account: str | None, *, only_due: bool) -> Iterator[Whose]:
    """An account's sessions to compare, longest due first, no more than a look can ask about; read when first used."""
    whose, compare_at = col(VerificationRecord.account), col(VerificationRecord.compare_at)
    theirs = select(col(VerificationRecord.session_id), compare_at).where(whose == account, *_wanted(only_due=only_due))
    some = theirs.order_by(whose, compare_at).limit(REQUESTS if only_due else None)
    not_ended, ended = some.where(NOT_ENDED), some.where(_ended_unread())
    with transaction() as session:
        rows = [*session.execute(not_ended), *session.execute(ended)]
    rows.sort(key=lambda row: row.compare_at or progress.BEGINNING)
    yield from (Whose(row.session_id, account) for row in (rows[:REQUESTS] if only_due else rows))


def _wanted(*, only_due: bool) -> list[ColumnElement[bool]]:
    of_this_mode = col(VerificationRecord.livemode) == settings().livemode
    return [of_this_mode, col(VerificationRecord.compare_at) <= now()] if only_due else [of_this_mode]


def _ended_unread() -> ColumnElement[bool]:
    """The condition of ended sessions that Stripe would not answer about the last time."""
    unread = [row.name for row in unanswered.known("session")]
    return and_(col(VerificationRecord.session_id).in_(unread), col(VerificationRecord.status).in_(ENDED))


def _asked(report: Report, one: Whose) -> tuple[VerificationRecord | None, Retrieved | None]:
    """Our record and Stripe's answer; None for an answer if Stripe does not know the session, or would not say."""
    with transaction() as session:
        record = session.get(VerificationRecord, one.session_id)
    if record:
        # The longer a session has been quiet, the later it is asked about: some twenty looks in its first month. The
        # time is written before the question, so a session that holds up or ends its process comes last the next time.
        wait = max(SETTLES_WITHIN, (database_now() - record.updated_at) / 2)
        _compare(one.session_id, wait, unless_changed_since=record.updated_at)
    try:
        retrieved = sessions.retrieve_state(one.session_id, one.account)
        if retrieved and retrieved.state.status not in list(Status):
            raise UnreadableError("its status is unknown to us")
    except NotAllowedError:  # the account's fault: the session stays due
        _compare(one.session_id, timedelta())
        raise
    except DATABASE_TROUBLE:
        raise
    except Exception as error:  # any error of this session: the others go on
        _compare(one.session_id, unanswered.pause_after(report.note("session", one.session_id, error)))
        if isinstance(error, AwayError):
            raise
        return record, None
    unanswered.drop("session", one.session_id)
    if record and retrieved:
        unmark_abandoned(record, retrieved.state.status)
    return record, retrieved and replace(retrieved, state=whose(retrieved.state, one.account))


def _take_over(report: Report, one: Whose, record: VerificationRecord | None, retrieved: Retrieved) -> None:
    ours = _shown(record.status, record.last_error_code) if record else "unheard of"
    theirs = _shown(retrieved.state.status, retrieved.state.error_code)
    report.drifted.append(Drift(one.session_id, ours, theirs))
    counting.DRIFTED_SESSIONS.inc()
    log.warning("session.drifted", session_id=one.session_id, ours=ours, theirs=theirs)
    event = observed(one.session_id, one.account, bool(settings().livemode), retrieved.state, retrieved.asked_at)
    if event:
        receive([event])
        report.to_process.append(event.id)


def _compare(session_id: str, later: timedelta, unless_changed_since: datetime | None = None) -> None:
    """Sets the time until a session is compared next, unless a change of it since then has set another."""
    change = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
    if unless_changed_since:
        change = change.where(col(VerificationRecord.updated_at) == unless_changed_since)
    with transaction() as session:
        session.connection().execute(change.values(compare_at=now(later)))


def _shown(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "unknown"
