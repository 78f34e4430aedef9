"""Differences between an open session and the wanted parameters: those that can still be changed, and the others.

Pure: Stripe's parameters as they were given, and the session as Stripe answers it.
"""

from collections.abc import Mapping
from typing import Any

from handlers.record.events import OUR_KEYS, PURPOSE, WRITTEN_HERE

MOST_KEYS = 50  # of a session's metadata (docs.stripe.com/api/metadata)
_FIXED = ("verification_flow", "related_customer", "related_customer_account", "related_person")


def fixed_differences(params: Mapping[str, Any], session: Mapping[str, Any]) -> list[str]:
    """The names of given parameters that differ in the session, and that Stripe cannot change."""
    return [name for name in _FIXED if params.get(name) and session.get(name) != params[name]]


def changes(params: Mapping[str, Any], session: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the update that gives the session the wanted configuration; empty if it has it."""
    found = {
        "metadata": _metadata(params.get("metadata"), session.get("metadata") or {}),
        "options": _options(params.get("options") or {}, session.get("options") or {}),
        "provided_details": _differing(params.get("provided_details") or {}, session.get("provided_details") or {}),
        "type": params.get("type") if params.get("type") not in (None, session.get("type")) else None,
    }
    return {name: value for name, value in found.items() if value}


def _metadata(wanted: Mapping[str, str] | None, has: Mapping[str, str]) -> dict[str, str]:
    """The metadata to update; empty if none is given. A key that is left out is unset by an empty value, which stands
    for no key; our own keys stay, except a purpose that leaves no room for the given keys.
    """
    if wanted is None:
        return {}
    kept = WRITTEN_HERE if len({*wanted, *WRITTEN_HERE} - {PURPOSE}) < MOST_KEYS else OUR_KEYS
    unset = {name: "" for name in has if name not in wanted and name not in kept}
    return {**unset, **{name: value for name, value in wanted.items() if has.get(name, "") != value}}


def _options(wanted: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, Any]:
    document, theirs = wanted.get("document"), has.get("document") or {}
    if document == "":
        return {"document": ""} if theirs else {}
    # An option that Stripe leaves out of a session is off.
    differing = {name: value for name, value in (document or {}).items() if _plain(theirs.get(name)) != _plain(value)}
    return {"document": differing} if differing else {}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or False


def _differing(wanted: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if has.get(name) != value}
