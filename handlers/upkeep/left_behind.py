"""Left behind: a session whose opening died becomes its verification's, though the person is not opened for again.

Its record comes from its event, or from reconcile's look at Stripe's list; nobody is let in before that.
"""

import structlog
from sqlalchemy import exists, select
from sqlmodel import col

from config.database import transaction
from config.settings import settings
from handlers.inbox.verifications import lock_records
from handlers.record.events import Status
from handlers.sessions.turn import burn, is_free
from handlers.tables.models import Verification, VerificationRecord

log = structlog.stdlib.get_logger(__name__)

_MOST = 1000  # verifications a run: each is locked until all are written


def take_up() -> None:
    """Gives each verification without a session, and without an opening under way, the one of its generation that is
    known; should there be another, that one ends. A slow opener that made it loses the lease.
    """
    is_its = (
        col(VerificationRecord.verification_id) == col(Verification.id),
        col(VerificationRecord.generation) == col(Verification.generation),
    )
    # The index on session_id finds them.
    left = select(Verification).where(
        col(Verification.session_id).is_(None),
        col(Verification.redaction_asked_at).is_(None),
        col(Verification.livemode) == settings().livemode,
        is_free(),  # rule: a session is left to its opener, as long as that has the lease
        exists().where(*is_its),
    )
    with transaction() as session:
        # In the order of an event, and before any record: no deadlock.
        found = session.scalars(
            left.order_by(col(Verification.id)).limit(_MOST).with_for_update(skip_locked=True)
        ).all()
        for one in found:
            theirs = lock_records(
                session,
                col(VerificationRecord.verification_id) == one.id,
                col(VerificationRecord.generation) == one.generation,
            )
            kept = min(theirs, key=lambda record: (record.status == Status.CANCELED, record.created_at))
            one.session_id, one.opening_until = kept.session_id, None
            session.flush()  # before the other records end
            burn(session, one.id, one.generation, but_for=kept.session_id)
    for one in found:
        log.warning("session.taken_up", id=one.id, session_id=one.session_id)
