"""Lists of what is at no good end, page by page: each goes by an index, however much is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_
from sqlmodel import col

from config.database import transaction
from handlers.operator.queries import Filter, conditions
from handlers.queue.claims import Table
from handlers.record.decide import Outcome
from handlers.tables.models import ActionStatus, InboxEvent, OutboxAction

PAGE = 50  # rows


@dataclass(frozen=True, slots=True)
class List:
    """Which rows of a table, and in which order: by when they are due, or the latest first."""

    table: Table
    wanted: Filter
    by: str


LISTS: dict[str, List] = {
    "dead-events": List(InboxEvent, Filter(status=InboxEvent.DEAD), InboxEvent.SINCE),
    "dead-actions": List(OutboxAction, Filter(status=OutboxAction.DEAD), OutboxAction.SINCE),
    "waiting-events": List(InboxEvent, Filter(status=InboxEvent.UNFINISHED), "due_at"),
    "waiting-actions": List(OutboxAction, Filter(status=OutboxAction.UNFINISHED), "due_at"),
    "skipped-actions": List(OutboxAction, Filter(status=ActionStatus.SKIPPED), OutboxAction.SINCE),
    "ignored-events": List(InboxEvent, Filter(outcome=Outcome.IGNORED), InboxEvent.SINCE),
}


def narrowed(name: str, wanted: Filter) -> Filter:
    """What a list shows of those that match `wanted`."""
    its = LISTS[name].wanted
    return replace(wanted, status=its.status, outcome=its.outcome)


def page_of(name: str, wanted: Filter, after: tuple[datetime, str] | None) -> tuple[Sequence[Any], str | None]:
    """Some rows of a list, after one that was the last of the page before, and what names the last of these; None at
    the end of the list.
    """
    table, by = LISTS[name].table, LISTS[name].by
    key = tuple_(col(getattr(table, by)), col(table.id))
    rows = select(table).where(*conditions(table, narrowed(name, wanted))).limit(PAGE + 1)
    if by == "due_at":
        rows = rows.order_by(col(table.due_at), col(table.id))
    else:
        rows = rows.order_by(col(getattr(table, by)).desc(), col(table.id).desc())
    if after:
        last = (after[0], int(after[1]) if table is OutboxAction else after[1])
        rows = rows.where(key > last if by == "due_at" else key < last)
    with transaction() as session:
        found = session.scalars(rows).all()
    if len(found) <= PAGE:
        return found, None
    end: Any = found[PAGE - 1]
    return found[:PAGE], f"{getattr(end, by).isoformat()}_{end.id}"
