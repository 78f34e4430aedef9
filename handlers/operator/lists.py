"""Lists of rows at no good end, page by page: each goes by an index, however many rows are kept."""

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

PAGE_ROWS = 50  # rows
LOOKED_AT = 10_000  # rows for a page: some 30 ms


@dataclass(frozen=True, slots=True)
class List:
    """A list: its rows of a table, and the column that orders them: rising by `due_at`, or the latest first."""

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
    """The filter for the rows of a list that match `wanted`."""
    its = LISTS[name].wanted
    return replace(wanted, status=its.status, outcome=its.outcome)


def page_of(name: str, wanted: Filter, after: tuple[datetime, Any] | None) -> tuple[Sequence[Any], str | None]:
    """The rows for a page: the matching ones among the LOOKED_AT of the list that follow the mark of the page before;
    and the mark of the last row looked at, None at the end of the list.
    """
    table, by = LISTS[name].table, LISTS[name].by
    moment, id_, is_rising = col(getattr(table, by)), col(table.id), by == "due_at"
    key = tuple_(moment, id_)
    order = (moment, id_) if is_rising else (moment.desc(), id_.desc())
    listed = conditions(table, LISTS[name].wanted)
    if after:
        listed.append(key > after if is_rising else key < after)
    matching = conditions(table, wanted)
    with by_indexes() as session:
        # Without a bound, a page without matching rows would read the whole list.
        last_looked_at = select(moment, id_).where(*listed).order_by(*order).offset(LOOKED_AT - 1).limit(1)
        last = tuple(session.execute(last_looked_at).first() or ()) if matching else ()
        if last:
            listed.append(key <= last if is_rising else key >= last)
        found = session.scalars(select(table).where(*listed, *matching).order_by(*order).limit(PAGE_ROWS + 1)).all()
    if len(found) > PAGE_ROWS:
        end: Any = found[PAGE_ROWS - 1]
        last = (getattr(end, by), end.id)
    return found[:PAGE_ROWS], f"{last[0].isoformat()}_{last[1]}" if last else None
