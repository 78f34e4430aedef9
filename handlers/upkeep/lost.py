"""Lost: fetches the events that were answered 2xx and that the database lacks after a failover or from a backup.

A standby that lags does not have the last commits; Stripe takes their events for delivered and never sends them again.
"""

from datetime import timedelta

import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from config.database import database_now, statement
from config.inserts import NOW
from config.settings import settings
from handlers.stripe_api import sessions
from handlers.tables.models import Bookmark
from handlers.upkeep import progress
from handlers.upkeep.accounts import Accounts, bookmark
from handlers.upkeep.allowance import Asking, Report
from handlers.upkeep.undelivered import AHEAD, take_in, whole_second
from handlers.upkeep.windows import Reading, walk

log = structlog.stdlib.get_logger(__name__)

_LAG = timedelta(hours=1)  # far more than a standby may lag when it is promoted
# A promoted standby and a restored backup begin a timeline of their own, whose number begins the log files' names.
_HISTORY = """
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"""


def recover_lost(report: Report, accounts: Accounts, *, bounded: bool) -> dict[str | None, Asking]:  # noqa: ARG001  # as every look
    """For each account, the work that fetches all events since the last run, if the database is on a new timeline."""
    history = _history()
    if history is None:
        return {}
    names = {account: bookmark(f"history:{history}", account) for account in accounts}
    new = {account: name for account, name in names.items() if not progress.reached(name)}
    if new and not _knew_another(history):  # the first run of all, or an account heard of since
        for name in new.values():
            progress.move(name, NOW)
        return {}
    return {account: _recover(report, account, name) for account, name in new.items()}


def _history() -> str | None:
    if not settings().on_postgres:
        return None
    try:
        with statement() as connection:
            return str(connection.scalar(text(_HISTORY)))
    except DBAPIError:  # a hosting service may forbid the question
        return None


def _knew_another(history: str) -> bool:
    noted = col(Bookmark.name)
    others = select(noted).where(noted.startswith("history:"), ~noted.startswith(f"history:{history}")).limit(1)
    with statement() as connection:
        return connection.scalar(others) is not None


def _recover(report: Report, account: str | None, name: str) -> Asking:
    """Fetches from where the last such run stopped, or from _LAG before the bookmark of undelivered events."""
    so_far, now = f"{name}:so far", database_now()
    start = progress.reached(so_far) or (progress.reached(bookmark("events", account)) or now) - _LAG
    log.warning("database.replaced", account=account, since=str(start))
    reading = Reading(
        ask=lambda start, end, after: sessions.list_events(start, end, account, after=after),
        take=lambda page: take_in(page.items, account, report, undelivered=False),
        reached=lambda end, _: progress.move(so_far, end),
        pass_over=lambda second, error: report.note_second(name, second, error),
    )
    # The standby's clock may be behind the one by which the bookmark was made.
    yield from walk(reading, whole_second(start), whole_second(max(now, start + _LAG) + AHEAD))
    progress.move(name, NOW)
