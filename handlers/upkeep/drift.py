"""Drift: our sessions that are not at their end, compared with Stripe's; what differs goes into the inbox."""

from datetime import datetime
from hashlib import sha256

import structlog
from sqlalchemy import or_, select, update
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.inbox.apply import SETTLES_WITHIN
from handlers.inbox.receive import receive
from handlers.metrics import counting
from handlers.queue.failures import UnreadableError
from handlers.record.events import ANSWERED, SessionState, Status, VerificationEvent
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import Retrieved
from handlers.tables.models import VerificationRecord
from handlers.upkeep.allowance import REQUESTS, Drift, Report, Spend

log = structlog.stdlib.get_logger(__name__)

_NON_FINAL = (Status.REQUIRES_INPUT, Status.PROCESSING)


def compare_sessions(report: Report, spend: Spend, *, bounded: bool) -> None:
    """Asks Stripe about each whose turn it is (unbounded: about all). Raises EnoughError, NotNowError."""
    for session_id in _non_final(only_due=bounded):
        spend()
        with transaction() as session:
            its = col(VerificationRecord.session_id) == session_id
            record, asked_at = session.execute(select(VerificationRecord, now()).where(its)).one()
        try:
            retrieved = sessions.retrieve_state(record.session_id, record.account)
        except UnreadableError as error:  # of this session's alone
            log.error("session.unreadable", session_id=session_id, error=str(error))
        else:
            if retrieved and _differs(record, retrieved.state):
                _take_over(record, retrieved, report)
        _compare_later(record, asked_at)
        report.compared += 1


def observed(
    session_id: str, account: str | None, livemode: bool, state: SessionState, asked_at: datetime
) -> VerificationEvent | None:
    """What Stripe has answered about a session, as the event that would have said so; None for a status unknown to us.

    asked_at is Stripe's time then, or earlier: a lower bound, as it is for an answer (handlers/record/ordering.py).
    """
    if state.status not in list(Status):
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
    )


def _non_final(*, only_due: bool) -> list[str]:
    # Without an index of its own: one scan a run costs less than an index that every event's update has to keep.
    wanted = select(col(VerificationRecord.session_id)).where(
        or_(col(VerificationRecord.status).is_(None), col(VerificationRecord.status).in_(_NON_FINAL)),
        col(VerificationRecord.redacted_at).is_(None),
        col(VerificationRecord.livemode) == settings().livemode,
    )
    if only_due:
        compare_at = col(VerificationRecord.compare_at)
        wanted = wanted.where(or_(compare_at.is_(None), compare_at <= now())).order_by(compare_at).limit(REQUESTS)
    with transaction() as session:
        return list(session.scalars(wanted))


def _differs(record: VerificationRecord, state: SessionState) -> bool:
    ours = record.status, record.last_error_code, record.last_report_id, record.redacted_at is not None
    return ours != (state.status, state.error_code, state.report_id, state.redaction is not None)


def _take_over(record: VerificationRecord, retrieved: Retrieved, report: Report) -> None:
    ours = _words(record.status, record.last_error_code)
    theirs = _words(retrieved.state.status, retrieved.state.error_code)
    report.drifted.append(Drift(record.session_id, ours, theirs))
    counting.DRIFTED_SESSIONS.inc()
    log.warning("session.drifted", session_id=record.session_id, ours=ours, theirs=theirs)
    event = observed(record.session_id, record.account, record.livemode, retrieved.state, retrieved.asked_at)
    if event:
        receive([event])
        report.to_process.append(event.id)


def _compare_later(record: VerificationRecord, asked_at: datetime) -> None:
    # The longer a session has been quiet, the longer it may stay so: some twenty looks in its first month.
    wait = max(SETTLES_WITHIN, (asked_at - record.updated_at) / 2)
    put_off = update(VerificationRecord).where(
        col(VerificationRecord.session_id) == record.session_id,
        col(VerificationRecord.updated_at) == record.updated_at,
    )
    with transaction() as session:
        session.connection().execute(put_off.values(compare_at=asked_at + wait))


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "unknown"
