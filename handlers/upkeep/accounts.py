"""Whom reconcile asks about: our own account, and the connected ones that sessions of this key's mode belong to."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlmodel import col

from config.database import transaction
from config.settings import settings
from handlers.tables.models import VerificationRecord
from handlers.upkeep import progress, unanswered

Accounts = dict[str | None, datetime]


def heard_of() -> Accounts:
    """Each account that has sessions here, and when the first of them was heard of."""
    first = func.min(col(VerificationRecord.created_at), type_=VerificationRecord.__table__.c.created_at.type)  # type: ignore[attr-defined]  # SQLModel hides it
    rows = (
        select(col(VerificationRecord.account), first)
        .where(col(VerificationRecord.livemode) == settings().livemode)
        .group_by(col(VerificationRecord.account))
    )
    with transaction() as session:
        return {row[0]: row[1] for row in session.execute(rows)}


def bookmark(what: str, account: str | None) -> str:
    """Of an account in this key's mode: the other one's is another."""
    return f"{what}:{'live' if settings().livemode else 'test'}:{account or ''}"


def whose_turn(what: str, accounts: Accounts, *, bounded: bool) -> list[str | None]:
    """Those that answered last time, longest not asked first; then those that did not, if their pause is over."""
    asked = progress.asked(bookmark(what, None))
    failing = {row.name for row in unanswered.known(what)}
    left_alone = unanswered.waiting(what) if bounded else []
    chosen = [account for account in accounts if (account or "") not in left_alone]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(chosen, key=lambda account: ((account or "") in failing, asked.get(account or "", never)))
