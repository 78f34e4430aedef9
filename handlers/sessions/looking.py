"""Looking: Stripe is asked where a person stands who has just come back, since its event may take its time."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog
from sqlalchemy import or_, update
from sqlmodel import col

from config.database import now, transaction
from handlers.sessions.writing import apply_observed, notice
from handlers.stripe_api import changing
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import differs

log = structlog.stdlib.get_logger(__name__)

_ONCE_IN = timedelta(seconds=10)


class Looked(NamedTuple):
    """What came of it: whether the record says what Stripe has just said, and the ids of the actions owed now.

    What is gone at Stripe is told, and not written down: with another account's key everything would be gone.
    """

    is_known: bool = False
    is_gone: bool = False
    owed: Sequence[int] = ()


def look(verification_id: str) -> Looked:
    """Applies what Stripe says of the current session, but for a redaction: as entering does.

    Nobody is asked where anybody, on whatever server, has asked within ten seconds, or where there is no session.
    Raises NotNowError where Stripe cannot be asked.
    """
    last = col(Verification.looked_at)
    # rule: who comes back asks Stripe once in ten seconds, on all servers together
    is_due = or_(last.is_(None), last < now(-_ONCE_IN))
    claim = (
        update(Verification)
        .where(col(Verification.id) == verification_id, is_due)
        .values(looked_at=now())
        .returning(col(Verification.session_id), col(Verification.account), col(Verification.livemode))
    )
    with transaction() as session:
        claimed = session.execute(claim).one_or_none()
    if claimed is None or claimed.session_id is None:
        return Looked()
    answer = changing.retrieve(claimed.session_id, claimed.account or None)
    if answer is None:
        log.warning("session.gone", id=verification_id)
        return Looked(is_gone=True)
    # rule: of what is being redacted its event tells; nobody would know whose verification it was
    if answer.state.redaction:
        return Looked()
    owed = apply_observed(notice(answer, claimed.account or None, livemode=claimed.livemode))
    with transaction() as session:
        record = session.get(VerificationRecord, claimed.session_id)
        return Looked(is_known=not differs(record, answer.state), owed=owed)
