"""What an operator does to rows: tries them again, or discards what shall never be done."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, case, or_, select, update
from sqlmodel import Session, col

from config.database import now, transaction
from handlers.operator.audit import By, note
from handlers.operator.queries import Filter, conditions
from handlers.outbox.perform import note_told
from handlers.owed.kinds import TELLING
from handlers.queue.claims import Table
from handlers.tables.models import ActionStatus, OutboxAction

log = structlog.stdlib.get_logger(__name__)

# Why an action was skipped for want of a setting, or of what a setting leads to.
UNSET = ("no STRIPE_API_KEY", "no REVIEW_EMAIL", "no address", "no outputs")
_BATCH = 1000  # rows a transaction, which on SQLite keeps all other writers waiting


def retry_rows(table: Table, wanted: Filter, by: By, after: Any = None) -> Iterator[list[Any]]:
    """Makes dead rows, and those that wait after a try, due now, all their tries before them; their ids, by the batch;
    those that come after one of a batch before.

    Also what a setting has skipped, where it is named by its id, or where the filter asks for what is skipped. Whether
    it is still owed is decided when it is done, as ever.
    """
    # Attempts never fall, as they fence late writers; what they are worth does: tries are attempts less waits.
    again: dict[str, Any] = {"status": table.UNFINISHED, "waits": table.attempts, "due_at": now(), "last_error": None}
    which = _is_left(table)
    if table is OutboxAction and (wanted.ids or wanted.status == ActionStatus.SKIPPED):
        is_unset = and_(col(table.status) == ActionStatus.SKIPPED, col(OutboxAction.reason).in_(UNSET))
        which = or_(which, is_unset)
        # rule: what may have been told stays so when it is tried again
        given_away_at = case((is_unset, None), else_=col(OutboxAction.given_away_at))
        again |= {"reason": None, "done_at": None, "given_away_at": given_away_at}
    yield from _change(table, which, wanted, again, "retry", by, after)


def discard_rows(table: Table, wanted: Filter, by: By, after: Any = None) -> Iterator[list[Any]]:
    """Ends rows for good, with the reason in them: dead ones, those that wait after a try, and any that is named by its
    id; their ids, by the batch; those that come after one of a batch before.

    Whoever works on one of them right now loses the claim, and what it does to the database. A mail that may have
    arrived counts as told: where the record says something else, its own mail is due again.
    """
    ended, is_open = table.discarded(f"discarded: {by.reason}"), col(table.status).in_((table.UNFINISHED, table.DEAD))
    yield from _change(table, is_open if wanted.ids else _is_left(table), wanted, ended, "discard", by, after)


def _change(
    table: Table, which: ColumnElement[bool], wanted: Filter, values: Mapping[str, Any], what: str, by: By, last: Any
) -> Iterator[list[Any]]:
    """Each row once: what has failed again meanwhile is left alone."""
    some = select(col(table.id), col(table.session_id)).where(which, *conditions(table, wanted))
    some = some.order_by(col(table.id)).limit(_BATCH)
    while True:
        with transaction() as session:
            page = some if last is None else some.where(col(table.id) > last)
            if what == "discard" and table is OutboxAction:
                _note_what_may_be_told(session, session.scalars(page).all())
            rows = session.execute(page.with_for_update()).all()
            ids = [row.id for row in rows]
            session.connection().execute(update(table).where(col(table.id).in_(ids)).values(**values))
            if ids:
                note(session, by, what, (word for row in rows for word in (row.session_id, row.id)))
        if not ids:
            return
        log.info(f"rows.{what}", table=table.__tablename__, ids=ids, by=by.who, reason=by.reason)
        yield ids
        last = ids[-1]


def _note_what_may_be_told(session: Session, ids: Sequence[int]) -> None:
    """First the records, each by the order of its id, as whoever ends a mail does: no deadlock. And before the rows are
    discarded: what is owed because of it is none of them.
    """
    mails = select(OutboxAction).where(col(OutboxAction.id).in_(ids), col(OutboxAction.name).in_(TELLING))
    in_order = (col(OutboxAction.session_id), col(OutboxAction.given_away_at))
    for mail in session.scalars(mails.where(col(OutboxAction.given_away_at).is_not(None)).order_by(*in_order)).all():
        note_told(session, mail, mail.cause, is_certain=False)  # rule: what may have been told is so when discarded


def _is_left(table: Table) -> ColumnElement[bool]:
    """Dead, or put back: a claim clears the error, so that nobody is at work on a row that has one."""
    # rule: what somebody works on is not made due
    waits = and_(col(table.status) == table.UNFINISHED, col(table.last_error).is_not(None))
    return or_(col(table.status) == table.DEAD, waits)
