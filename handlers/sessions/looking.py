"""Looking: asks Stripe about the session of a person who has just come back, since its event may take its time."""

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
    """The result of a look: whether the record agrees with Stripe's answer, and the ids of the actions owed now.

    A session that is gone at Stripe is reported, and not written down: with another account's key all would be gone.
    """

    is_known: bool = False
    is_gone: bool = False
    owed: Sequence[int] = ()


def look(verification_id: str) -> Looked:
    """Applies Stripe's answer about the current session, except a redaction, as entering does.

    Stripe is not asked if any server has asked within ten seconds, or if there is no session. Raises NotNowError if
    Stripe cannot be asked.
    """
    last = col(Verification.looked_at)
    # rule: the returns to a verification ask Stripe once in ten seconds, on all servers together
    is_due = or_(last.is_(None), last < now(-_ONCE_IN), last > now())  # also by a clock that has gone back
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
    # rule: a redaction is applied by its event, and not by a look; the answer does not tell whose verification it was
    if answer.state.redaction:
        return Looked()
    owed = apply_observed(notice(answer, claimed.account or None, livemode=claimed.livemode))
    with transaction() as session:
        record = session.get(VerificationRecord, claimed.session_id)
        return Looked(is_known=not differs(record, answer.state), owed=owed)
