"""The accounts that reconcile asks about: our own, and each connected one that is heard of in this key's mode."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlmodel import col

from config.database import UtcDateTime, database_now, statement, transaction
from config.inserts import insert_new
from config.settings import settings
from handlers.tables.models import Bookmark, Verification, VerificationRecord
from handlers.upkeep import progress, unanswered

Accounts = dict[str | None, datetime]

_COMMITTED_WITHIN = timedelta(hours=1)  # far longer than a transaction may take
_DIFFER = timedelta(minutes=1)  # the database's clock and Stripe's


def heard_of() -> Accounts:
    """The accounts that have sessions here, each with the time at which its first record was made, or the first
    opening began.

    Bookmarks keep them, so a run reads only the records made since the run before; the first run reads all. An account
    whose first session was opened here is heard of by that opening: the session may be known at Stripe alone.
    """
    read, heard, now = bookmark("read", None), bookmark("heard", None), database_now()
    since = progress.reached(read)
    start: datetime | None = min(since, now) - _COMMITTED_WITHIN if since else progress.BEGINNING
    account, opening = col(VerificationRecord.account), col(Verification.created_at)
    # A verification's first session may be older than the first of its records.
    began = func.coalesce(opening, col(VerificationRecord.created_at))
    records = select(account, func.min(began, type_=UtcDateTime)).join(
        Verification, col(Verification.id) == col(VerificationRecord.verification_id), isouter=True
    )
    # Those with a session have its record. The index on session_id finds the others.
    without = col(Verification.session_id).is_(None), col(Verification.livemode) == settings().livemode
    openings = select(col(Verification.account), func.min(opening, type_=UtcDateTime)).where(*without)
    with statement() as connection:
        first = {row[0]: row[1] for row in connection.execute(openings.group_by(col(Verification.account)))}
    while start:
        which, start = progress.page_of_records(start)
        made = records.where(col(VerificationRecord.livemode) == settings().livemode, *which)
        with statement() as connection:
            for name, moment in connection.execute(made.group_by(account)):
                first[name or ""] = min(moment, first.get(name or "", moment))
    with transaction() as session:
        rows = [{"name": bookmark("heard", name), "reached": moment - _DIFFER} for name, moment in first.items()]
        insert_new(session.connection(), Bookmark, rows)
    progress.move(read, now)
    remembered = select(col(Bookmark.name), col(Bookmark.reached)).where(
        col(Bookmark.name).startswith(heard, autoescape=True)
    )
    with statement() as connection:
        return {row.name.removeprefix(heard) or None: row.reached for row in connection.execute(remembered)}


def bookmark(what: str, account: str | None) -> str:
    """The name of an account's bookmark in this key's mode; the other mode has bookmarks of its own."""
    return f"{what}:{'live' if settings().livemode else 'test'}:{account or ''}"


def whose_turn(what: str, accounts: Accounts, *, bounded: bool) -> list[str | None]:
    """The accounts to ask about, asked longest ago first; failing ones come last (bounded: only after their pause)."""
    asked = progress.asked(bookmark(what, None))
    failing = {row.name for row in unanswered.known(what)}
    left_alone = unanswered.waiting(what) if bounded else []
    chosen = [account for account in accounts if (account or "") not in left_alone]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(chosen, key=lambda account: ((account or "") in failing, asked.get(account or "", never)))
