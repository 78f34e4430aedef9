"""Idempotency keys: the stored answer again, or a refusal."""

from dataclasses import dataclass, field

from tests.simulator import errors
from tests.simulator.store import Json, Scope

KEPT = 24 * 3600  # seconds; then the key means nothing again


@dataclass(slots=True)
class Saved:
    """The first request under a key and, once it is done, its answer."""

    path: str
    params: Json
    request_id: str
    at: float  # unix time
    status: int | None = None
    body: bytes = b""


@dataclass(slots=True)
class Ledger:
    """One entry for each key, account and mode."""

    entries: dict[tuple[Scope, str], Saved] = field(default_factory=dict)

    def begin(self, scope: Scope, key: str, path: str, params: Json, request_id: str, now: float) -> Saved | None:
        """The answer to replay, or None after noting that this request is under way. Raises ApiError on a conflict."""
        known = self.entries.get((scope, key))
        if known is None or known.at + KEPT <= now:
            self.entries[scope, key] = Saved(path, params, request_id, now)
            return None
        if known.path != path:
            raise errors.key_reused_elsewhere(key, known.path, path)
        if known.params != params:
            raise errors.key_reused(key)
        if known.status is None:
            raise errors.key_in_use(key)
        return known

    def finish(self, scope: Scope, key: str, status: int, body: bytes) -> None:
        entry = self.entries.get((scope, key))
        if entry is not None:  # a reset may have come in between
            entry.status, entry.body = status, body

    def forget(self, scope: Scope, key: str) -> None:
        """Makes the key of a call that failed before it was executed usable again; an executed call stays."""
        entry = self.entries.get((scope, key))
        if entry is not None and entry.status is None:
            del self.entries[scope, key]

    def forget_answered(self) -> None:
        """Forgets all calls but those under way, as after a day."""
        self.entries = {key: entry for key, entry in self.entries.items() if entry.status is None}
