"""Lists of what is at no good end, page by page: each goes by an index, however much is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_
from sqlmodel import col

from handlers.operator.queries import Filter, by_indexes, conditions
from handlers.queue.claims import Table
from handlers.record.decide import Outcome
from handlers.tables.models import ActionStatus, InboxEvent, OutboxAction

PAGE = 50  # rows
LOOKED_AT = 10_000  # rows for a page: some 30 ms


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
    """Some rows of a list that match, of the LOOKED_AT that come after one of a page before; and what names the last
    of those that were looked at, None at the end of the list.
    """
    table, by = LISTS[name].table, LISTS[name].by
    moment, id_, is_rising = col(getattr(table, by)), col(table.id), by == "due_at"
    key = tuple_(moment, id_)
    order = (moment, id_) if is_rising else (moment.desc(), id_.desc())
    listed = conditions(table, LISTS[name].wanted)
    if after:
        before = (after[0], int(after[1]) if table is OutboxAction else after[1])
        listed.append(key > before if is_rising else key < before)
    matching = conditions(table, wanted)
    with by_indexes() as session:
        # A page that nothing matches would read the whole list.
        last_looked_at = select(moment, id_).where(*listed).order_by(*order).offset(LOOKED_AT - 1).limit(1)
        last = tuple(session.execute(last_looked_at).first() or ()) if matching else ()
        if last:
            listed.append(key <= last if is_rising else key >= last)
        found = session.scalars(select(table).where(*listed, *matching).order_by(*order).limit(PAGE + 1)).all()
    if len(found) > PAGE:
        end: Any = found[PAGE - 1]
        last = (getattr(end, by), end.id)
    return found[:PAGE], f"{last[0].isoformat()}_{last[1]}" if last else None
