"""Hooks of schemathesis: what a request would replace is a session that there is, of the same verification."""

from typing import Any

import schemathesis

_MOST_GENERATIONS = 3  # fewer than OPENINGS_PER_DAY
_opened: dict[str, dict[str, Any]] = {}  # verifications as they were answered last, by their ids


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: dict[str, Any]) -> None:
    """A right request names a session, and the person, of the verification that was opened last; a wrong one is left
    alone, since the answer tells what is wrong with it.
    """
    is_right = case.meta is not None and case.meta.generation.mode.is_positive
    if is_right and isinstance(case.body, dict) and case.body.get("replaces"):
        known = next(reversed(_opened.values()), None)
        person = {name: known[name] for name in ("client_reference_id", "purpose")} if known else {}
        case.body = {**case.body, **person, "replaces": known and known["session_id"]}


@schemathesis.hook
def after_call(_context: Any, _case: Any, response: Any) -> None:
    """Whose person is forgotten is not found by its reference any more."""
    found = response.json() if response.status_code in (200, 201, 202) else {}
    is_opened = "entry" in found and found.get("generation", _MOST_GENERATIONS) < _MOST_GENERATIONS
    if is_opened or response.status_code == 202:
        _opened.pop(found["id"], None)
    if is_opened:
        _opened[found["id"]] = found
