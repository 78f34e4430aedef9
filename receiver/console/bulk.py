"""Lists of the console, and the changes to all rows of a list that match."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from config.broker import PUBLISH
from handlers.operator.audit import By
from handlers.operator.lists import LISTS, narrowed
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows, retry_rows

AGE_FILTERS = {
    "1h": ("an hour", timedelta(hours=1)),
    "1d": ("a day", timedelta(days=1)),
    "7d": ("a week", timedelta(days=7)),
    "30d": ("thirty days", timedelta(days=30)),
}
# The changes that are offered for all rows of a list.
MAY = {
    **dict.fromkeys(("dead-events", "dead-actions", "waiting-events", "waiting-actions"), ("retry", "discard")),
    "skipped-actions": ("retry",),
}
_CHANGES = {"retry": retry_rows, "discard": discard_rows}
_MOST_SECONDS = 10.0  # for a click, and the batch under way goes on: a router waits for half a minute


@dataclass(frozen=True, slots=True)
class AskedRows:
    """The conditions for a list's rows, as an address has them."""

    kind: str
    error: str
    older: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "AskedRows":
        """Reads them from an address; values that make no sense are left out."""
        kind, error = (query.get(name, "").strip().replace("\0", "")[:100] for name in ("kind", "error"))
        older = query.get("older", "")
        return cls(kind, error, older if older in AGE_FILTERS else "")

    @property
    def wanted(self) -> Filter:
        """The conditions as a filter."""
        return Filter(
            kind=self.kind or None,
            error=self.error or None,
            older=AGE_FILTERS[self.older][1] if self.older else None,
        )

    @property
    def query(self) -> str:
        """The conditions for an address."""
        return urlencode({"kind": self.kind, "error": self.error, "older": self.older})


def cursor(name: str, text: str) -> tuple[datetime, Any] | None:
    """The mark by which handlers.operator.lists begins a page; None for any other text."""
    moment, _, last = text.partition("_")
    id_ = LISTS[name].table.id_of(last)
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (at, id_) if at.tzinfo and id_ is not None else None


def change_all(what: str, name: str, asked: AskedRows, by: By, after: str) -> tuple[int, str]:
    """Changes the matching rows after the last one of the click before, in the order of their ids: so a row that fails
    again meanwhile is left alone. Returns their number, and the last id if there may be more.
    """
    table, count, ends_at = LISTS[name].table, 0, time.monotonic() + _MOST_SECONDS
    for ids in _CHANGES[what](table, narrowed(name, asked.wanted), by, table.id_of(after)):
        count += len(ids)
        if what == "retry":
            PUBLISH[table.NOUN](ids)
        if time.monotonic() > ends_at:
            return count, str(ids[-1])
    return count, ""
