"""An operator's changes to rows: they are tried again, or discarded for good."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlmodel import Session, col

from config.database import now, transaction
from handlers.operator.audit import By, note
from handlers.operator.queries import Filter, conditions
from handlers.owed.kinds import TELLING
from handlers.owed.owe import note_told
from handlers.queue.claims import Table
from handlers.tables.models import ActionStatus, OutboxAction

log = structlog.stdlib.get_logger(__name__)

_BATCH = 1000  # rows a transaction: on SQLite it keeps all other writers waiting


def retry_rows(table: Table, wanted: Filter, by: By, after: Any = None) -> Iterator[list[Any]]:
    """Makes dead rows, and those that wait after a try, due now, with all their tries anew. Yields their ids, by the
    batch, of the rows that come after the id `after`.

    Also actions that were skipped for want of a setting, if they are named by id, or if the filter asks for skipped
    ones. Whether an action is still owed is decided when it is performed, as ever.
    """
    # Attempts never fall, as they fence late writers; the tries do: they are attempts less waits.
    again: dict[str, Any] = {"status": table.UNFINISHED, "waits": table.attempts, "due_at": now(), "last_error": None}
    again |= table.without_end()
    which = _is_left(table)
    if wanted.ids or wanted.status == ActionStatus.SKIPPED:
        which = or_(which, table.is_unset())
    yield from _change(table, which, wanted, again, "retry", by, after)


def discard_rows(table: Table, wanted: Filter, by: By, after: Any = None) -> Iterator[list[Any]]:
    """Ends rows for good, with the reason in them: dead ones, those that wait after a try, and any that is named by its
    id. Yields their ids, by the batch, of the rows that come after the id `after`.

    A worker that has one of them right now loses the claim, and its writes to the database. A mail that may have
    arrived counts as told: if the record says something else, its own mail is due again.
    """
    ended, is_open = table.discarded(f"discarded: {by.reason}"), col(table.status).in_((table.UNFINISHED, table.DEAD))
    yield from _change(table, is_open if wanted.ids else _is_left(table), wanted, ended, "discard", by, after)


def _change(
    table: Table, which: ColumnElement[bool], wanted: Filter, values: Mapping[str, Any], what: str, by: By, last: Any
) -> Iterator[list[Any]]:
    """Changes each row once: a row that has failed again meanwhile is left alone."""
    some = select(col(table.id), col(table.session_id)).where(which, *conditions(table, wanted))
    some = some.order_by(col(table.id)).limit(_BATCH)
    while True:
        with transaction() as session:
            page = some if last is None else some.where(col(table.id) > last)
            if what == "discard" and table.GIVES_AWAY:
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
    """Notes mails that may have arrived as told. It locks the records first, by the order of their ids, as the end of a
    mail does: no deadlock. It runs before the rows are chosen: an action that is owed because of it is none of them.
    """
    mails = select(OutboxAction).where(col(OutboxAction.id).in_(ids), col(OutboxAction.name).in_(TELLING))
    in_order = (col(OutboxAction.session_id), col(OutboxAction.given_away_at))
    for mail in session.scalars(mails.where(col(OutboxAction.given_away_at).is_not(None)).order_by(*in_order)).all():
        note_told(session, mail, mail.cause, is_certain=False)  # rule: a mail that was given away is told if discarded


def _is_left(table: Table) -> ColumnElement[bool]:
    """True for rows that are dead, or put back: a claim clears the error, so that no worker has a row with one."""
    # rule: a row that a worker has is not made due
    waits = and_(col(table.status) == table.UNFINISHED, col(table.last_error).is_not(None))
    return or_(col(table.status) == table.DEAD, waits)
