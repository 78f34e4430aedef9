"""Lists: newest first, filtered by time, cut by cursors."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tests.simulator import errors
from tests.simulator.store import Json


class Item(Protocol):
    """An object that can be listed."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...


T = TypeVar("T", bound=Item)

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda created, bound: created > bound,
    "gte": lambda created, bound: created >= bound,
    "lt": lambda created, bound: created < bound,
    "lte": lambda created, bound: created <= bound,
}


def page(items: list[T], params: Json, *, kind: str, url: str, render: Callable[[T], Json]) -> Json:
    """A page of these items, which are given in the order in which they were made."""
    newest_first = items[::-1]
    newest_first.sort(key=lambda item: -item.created)  # stable: within a second the later one stays first
    kept = [item for item in newest_first if created_within(item.created, params.get("created"))]
    limit = _limit(params)
    if before := params.get("ending_before"):
        end = _position(newest_first, kept, before, "ending_before", kind)
        shown, more = kept[max(0, end - limit) : end], end > limit
    else:
        start = 0
        if after := params.get("starting_after"):
            start = _position(newest_first, kept, after, "starting_after", kind, past=True)
        shown, more = kept[start : start + limit], len(kept) > start + limit
    return {"object": "list", "data": [render(item) for item in shown], "has_more": more, "url": url}


def _position(everything: list[T], kept: list[T], cursor: str, name: str, kind: str, past: bool = False) -> int:
    """The cursor's place among the kept items; it need not be one of them."""
    places = {item.id: place for place, item in enumerate(everything)}
    if cursor not in places:
        raise errors.no_such(kind, cursor, name, status=400)
    bound = places[cursor]
    return sum(1 for item in kept if places[item.id] < bound or (past and places[item.id] == bound))


def _limit(params: Json) -> int:
    try:
        limit = int(params.get("limit", 10))
    except ValueError:
        raise errors.invalid_parameter("limit", f"Invalid integer: {params['limit']}") from None
    if not 1 <= limit <= 100:
        raise errors.invalid_parameter("limit", "Invalid limit: must be between 1 and 100")
    return limit


def created_within(created: int, wanted: Any) -> bool:
    if wanted is None:
        return True
    try:
        if not isinstance(wanted, dict):
            return created == int(wanted)
        return all(COMPARISONS[name](created, int(bound)) for name, bound in wanted.items())
    except (KeyError, ValueError):
        raise errors.invalid_parameter("created", "Invalid created: must be a timestamp or gt, gte, lt, lte") from None
