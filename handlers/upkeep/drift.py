"""Drift: our sessions that are not at their end, compared with Stripe's; what differs goes into the inbox.

Also those at their end that Stripe would not answer about the last time.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import structlog
from sqlalchemy import exists, func, or_, select, update
from sqlmodel import col

from config.database import DATABASE_TROUBLE, database_now, now, transaction
from config.settings import settings
from handlers.inbox.apply import SETTLES_WITHIN
from handlers.inbox.receive import receive
from handlers.metrics import counting
from handlers.queue.failures import AwayError, NotAllowedError, UnreadableError
from handlers.record.events import ANSWERED, SessionState, Status, VerificationEvent
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep import unanswered
from handlers.upkeep.accounts import Accounts
from handlers.upkeep.allowance import REQUESTS, Asking, Drift, Report

log = structlog.stdlib.get_logger(__name__)

_OPEN = (Status.REQUIRES_INPUT, Status.PROCESSING)
_SEVERAL = 10  # accounts' full shares are looked up for one look


class Whose(NamedTuple):
    """A session and the account it belongs to."""

    session_id: str
    account: str | None


def compare_open(report: Report, accounts: Accounts, *, bounded: bool) -> dict[str | None, Asking]:
    """What asks Stripe about each open session whose turn it is (unbounded: about all), for each account."""
    by_account: dict[str | None, list[Whose]] = defaultdict(list)
    if not accounts:  # a scan of all records would say so
        return {}
    for one in _open(ours=None in accounts, only_due=bounded):
        by_account[one.account].append(one)
    return {account: compared(report, ours) for account, ours in by_account.items()}


def compared(report: Report, ours: Iterable[Whose]) -> Asking:
    """Asks about each of them, and once more, after the others, about those that differ. Yields before each request."""
    doubtful = []
    for one in ours:
        yield
        record, retrieved = _asked(report, one)
        report.compared += 1
        if retrieved and differs(record, retrieved.state):
            _compare(one.session_id, timedelta())  # whatever becomes of this run
            doubtful.append(one)
    yield from confirmed(report, doubtful)


def confirmed(report: Report, doubtful: Iterable[Whose]) -> Asking:
    """Takes over what still differs when it is asked about again: an answer may be older than it says (a replica's)."""
    for one in doubtful:
        yield
        record, retrieved = _asked(report, one)
        if retrieved and differs(record, retrieved.state):
            _take_over(report, one, record, retrieved)


def differs(record: VerificationRecord | None, state: SessionState) -> bool:
    """Whether Stripe has a session of ours otherwise than we do; record is None if we have never heard of it."""
    # rule: another one's session is no business of ours; it may be here from before there was a mark
    if state.is_ours is False or not (record or state.is_ours):
        return False
    if record is None or (state.redaction and not record.redacted_at):
        return True
    if record.status == Status.CANCELED:  # nothing changes it
        return False
    if record.redacted_at:  # which replaces texts, and nothing takes back
        return record.status != state.status
    ours = record.status, record.last_error_code, record.last_report_id
    return ours != (state.status, state.error_code, state.report_id)


def whose(state: SessionState, account: str | None) -> SessionState:
    """The same; one that only names a verification is ours where there is that one, of its account and our mode."""
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
    """What Stripe has answered about a session, as the event that would have said so; None for a status unknown to us.

    asked_at is Stripe's time then, or earlier: a lower bound, as it is for an answer (handlers/record/ordering.py).
    """
    if state.status not in list(Status) or state.is_ours is False:  # rule: another one's session is not observed
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


def _open(*, ours: bool, only_due: bool) -> list[Whose]:
    """Of our own account or of the connected ones, longest due first, and as many of each: the first of all, the second
    of all, and so on."""
    status, account = col(VerificationRecord.status), col(VerificationRecord.account)
    compare_at = col(VerificationRecord.compare_at)
    # Without an index of its own: one scan a run costs less than an index that every event's update has to keep.
    unread = [row.name for row in unanswered.known("session")]
    is_open = or_(status.is_(None), status.in_(_OPEN), col(VerificationRecord.session_id).in_(unread))
    wanted = [is_open, col(VerificationRecord.livemode) == settings().livemode]
    wanted.append(account.is_(None) if ours else account.is_not(None))
    if only_due:
        left_alone = unanswered.waiting("sessions")
        wanted += [or_(compare_at.is_(None), compare_at <= now()), func.coalesce(account, "").not_in(left_alone)]
    place = func.row_number().over(partition_by=account, order_by=compare_at)
    rows = select(col(VerificationRecord.session_id), account, place.label("place"), compare_at).where(*wanted)
    due = rows.subquery()
    chosen = select(due.c.session_id, due.c.account).order_by(due.c.place, due.c.compare_at)
    if only_due:
        chosen = chosen.where(due.c.place <= REQUESTS).limit(_SEVERAL * REQUESTS)
    with transaction() as session:
        return [Whose(*row) for row in session.execute(chosen)]


def _asked(report: Report, one: Whose) -> tuple[VerificationRecord | None, Retrieved | None]:
    """What we have and what Stripe has; nothing of Stripe's where it does not know it, or would not say."""
    with transaction() as session:
        record = session.get(VerificationRecord, one.session_id)
    if record:
        # The longer a session has been quiet, the longer it may stay so: some twenty looks in its first month. Written
        # before it is asked about, so that one that holds up or ends its process comes last the next time.
        wait = max(SETTLES_WITHIN, (database_now() - record.updated_at) / 2)
        _compare(one.session_id, wait, unless_changed_since=record.updated_at)
    try:
        retrieved = sessions.retrieve_state(one.session_id, one.account)
        if retrieved and retrieved.state.status not in list(Status):
            raise UnreadableError("its status is unknown to us")
    except NotAllowedError:  # of the account, so it stays due
        _compare(one.session_id, timedelta())
        raise
    except DATABASE_TROUBLE:
        raise
    except Exception as error:  # whatever it is, the others are not to blame
        _compare(one.session_id, unanswered.pause(report.note("session", one.session_id, error)))
        if isinstance(error, AwayError):
            raise
        return record, None
    unanswered.forget("session", one.session_id)
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
    """Sets in what time a session is compared next: what changes it knows better."""
    change = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
    if unless_changed_since:
        change = change.where(col(VerificationRecord.updated_at) == unless_changed_since)
    with transaction() as session:
        session.connection().execute(change.values(compare_at=now(later)))


def _shown(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "unknown"
