"""Looking: Stripe is asked where a person stands who has just come back, since its event may take its time."""

from datetime import timedelta

from sqlalchemy import or_, update
from sqlmodel import col

from config.database import now, transaction
from handlers.sessions.writing import apply_observed, notice
from handlers.stripe_api import changing
from handlers.tables.models import Verification

_ONCE_IN = timedelta(seconds=10)


def look(verification_id: str) -> list[int]:
    """Applies what Stripe says of the current session; the ids of the actions that are owed now.

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
        return []
    answer = changing.retrieve(claimed.session_id, claimed.account or None)
    if answer is None:
        return []
    return apply_observed(notice(answer, claimed.account or None, livemode=claimed.livemode))
