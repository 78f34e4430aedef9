"""Hooks of schemathesis: every other right opening replaces an existing session of the same verification."""

from itertools import cycle
from typing import Any

import schemathesis

_MOST_GENERATIONS = 3  # fewer than OPENINGS_PER_DAY
_opened: dict[str, dict[str, Any]] = {}  # the latest answer about each verification, by its id
_turns = cycle((True, False))


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: dict[str, Any]) -> None:
    """Puts the session and the person of the verification that was opened last into the request: by itself,
    schemathesis names sessions that do not exist.
    """
    is_right = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_right or not isinstance(case.body, dict) or "client_reference_id" not in case.body:
        return
    known = next(reversed(_opened.values()), None)
    if known and not case.body.get("adopt") and case.operation.path == "/verifications" and next(_turns):
        replaced = {name: known[name] for name in ("client_reference_id", "purpose")}
        case.body = {**case.body, **replaced, "replaces": known["session_id"]}
    elif case.body.get("replaces"):
        case.body = {**case.body, "replaces": None}


@schemathesis.hook
def after_call(_context: Any, _case: Any, response: Any) -> None:
    """Keeps the open verifications; the reference of a person who was forgotten finds nobody any more."""
    found = response.json() if response.status_code in (200, 201, 202) else {}
    is_opened = "entry" in found and found.get("generation", _MOST_GENERATIONS) < _MOST_GENERATIONS
    if is_opened or response.status_code == 202:
        _opened.pop(found["id"], None)
    if is_opened:
        _opened[found["id"]] = found
