"""API calls that go wrong on request."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class Fault:
    """The next `count` matching calls (None: all, until cleared) wait `delay` seconds, hang, or get `status`.

    `after`: the call is executed first, so its effect is real and only the answer is lost. `saved`: an idempotency key
    remembers the error, as Stripe does for a 500. `nonsense` (see nonsense.py) comes in the true answer's place,
    and `drip`: it comes byte by byte, with so many seconds between two. `holding`: only a call whose true
    answer names this id. `path` is any part of it, with a `$` at its end. `name`: the fault is taken back by it.
    """

    status: int | None = None
    count: int | None = 1
    delay: float = 0.0
    hang: bool = False
    path: str = ""
    method: str = ""
    retry_after: float | None = None
    after: bool = False
    saved: bool = False
    nonsense: str = ""
    drip: float = 0.0
    holding: str = ""
    name: str = ""
    hits: int = 0
    callers: list[dict[str, Any]] = field(default_factory=list)  # its calls, from their wait on: port, idempotency_key

    def __post_init__(self) -> None:
        if self.status == 429 and self.retry_after is None:
            self.retry_after = 1.0

    def matches(self, method: str, path: str, body: bytes = b"") -> bool:
        open_ = self.count is None or self.hits < self.count
        is_meant = self.path in f"{path}$" and self.method.upper() in ("", method)
        return open_ and is_meant and (self.holding.encode() in body if self.holding else not body)


@dataclass(slots=True)
class Faults:
    """Kept in the order they were asked for; the first that matches is taken."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, **wanted: Any) -> Fault:
        fault = Fault(**wanted)
        self.faults.append(fault)
        return fault

    def take(self, method: str, path: str, body: bytes = b"") -> Fault | None:
        """Takes one of the faults that name no id; with the true answer's body, one of those that do."""
        for fault in self.faults:
            if fault.matches(method, path, body):
                fault.hits += 1
                return fault
        return None

    def take_back(self, name: str) -> None:
        """Ends the faults of this name; the calls that hang by one go on, unless the name is ""."""
        for fault in self.faults:
            fault.hang = fault.hang and (not name or fault.name != name)
        self.faults = [fault for fault in self.faults if fault.name != name]

    def listed(self) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self.faults]
