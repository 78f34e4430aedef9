"""Stripe's JSON, snapshot or thin, parsed once into a frozen VerificationEvent: an allow-list.

Shapes: stripe/_event.py and stripe/v2/core/_event.py of stripe-python 16.1.0, and
docs.stripe.com/api/identity/verification_sessions/object.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

# The last word of each event type, and its rank: of two states in one second the higher rank is the later one.
RANKS = {"created": 0, "processing": 1, "requires_input": 2, "verified": 3, "canceled": 4}
EVENT_KINDS = (*RANKS, "redacted")
EVENT_TYPES = tuple(f"identity.verification_session.{kind}" for kind in EVENT_KINDS)
_SNAPSHOT_TYPES = frozenset(EVENT_TYPES)
_THIN_TYPES = frozenset(f"v1.{type_}" for type_ in EVENT_TYPES)

ANSWERED = "reconcile_"  # the prefix of ids of events made of Stripe's answers; Stripe's own begin with evt_
_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
OUR_KEYS = ("idv_id", "idv_generation")  # metadata keys by which a session names its verification
PURPOSE = "idv_purpose"  # the metadata key of its purpose: read only to restore a verification that a backup lacks
WRITTEN_HERE = (*OUR_KEYS, PURPOSE)
_NAME = re.compile(r"idv_[0-9a-f]{32}"), re.compile(r"[1-9][0-9]{0,8}")
_LATEST = 253402300799  # the last second a datetime can hold
_LONGEST_WORD = 255  # as Stripe's ids; codes and ids are parts of keys, which PostgreSQL bounds to 2,704 bytes
_LONGEST_TEXT = 5000  # Stripe's own texts stay far below; a longer one is none of Stripe's


# Reasons why an event is ignored.
OTHER_MODE = "other mode"
NOT_OURS = "not ours"


class MalformedEventError(ValueError):
    """A body that is no event of Stripe's; the message names the field and never quotes the body."""


class Status(StrEnum):
    """Stripe's four session statuses."""

    REQUIRES_INPUT = "requires_input"
    PROCESSING = "processing"
    VERIFIED = "verified"
    CANCELED = "canceled"


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionState:
    """The state of a verification session at one moment, as Stripe shows it."""

    status: str | None  # an open enumeration of Stripe's: any word
    error_code: str | None = None
    error_reason: str | None = field(default=None, repr=False)
    report_id: str | None = None
    client_reference_id: str | None = field(default=None, repr=False)
    user_id: str | None = field(default=None, repr=False)
    has_flow: bool = False  # the session belongs to a verification flow, so it may have come from a static link
    redaction: str | None = None
    # The verification that its metadata names; believed only if that one exists.
    verification_id: str | None = None
    generation: int | None = None
    is_ours: bool | None = True  # None: unknown, as the metadata is wiped or shows only a verification's name


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationEvent:
    """One event about one session. A thin notification has no state: it only says that the session has changed."""

    id: str
    type: str
    session_id: str
    account: str | None
    livemode: bool
    created_at: datetime  # Stripe's clock, whole seconds
    state: SessionState | None
    is_ours: bool | None = True  # as its state shows; None: unknown
    ignored: str | None = None  # the reason why it is kept without a state and never applied
    kind: str = field(init=False)  # the last word of the type: one of KINDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.type.rpartition(".")[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignEvent:
    """An event of a type that this service does not use."""

    id: str
    type: str


def parse(
    payload: object, marks: Collection[str] = (), livemode: bool | None = None
) -> VerificationEvent | ForeignEvent:
    """The event in the JSON of a verified request, or in an item of a list. Raises MalformedEventError.

    A session is ours if it has one of the marks (a flow's id, or `key=value` of its metadata) or if there are no marks,
    and if it is of this mode, where one is given.
    """
    if not isinstance(payload, dict):
        raise MalformedEventError("the body is not a JSON object")
    type_ = _required(_word(payload, "type"), "type")
    if type_ in _SNAPSHOT_TYPES and payload.get("object") == "event":
        event = _snapshot(payload, marks)
    elif type_ in _THIN_TYPES and payload.get("object") == "v2.core.event":
        event = _thin(payload, marks)
    else:
        return ForeignEvent(id=_id(payload, "id"), type=type_)
    # rule: test and live never mix; one address may get both, and the key can ask about one of them
    if livemode not in (None, event.livemode):
        return replace(event, ignored=OTHER_MODE, account=None, state=None)
    # rule: the state of a session that is not ours is not kept
    return replace(event, ignored=NOT_OURS, account=None, state=None) if event.is_ours is False else event


def parse_session(session: dict[str, Any], marks: Collection[str] = ()) -> SessionState:
    """The state of a session in Stripe's JSON, from an event or a retrieve; marks as in `parse`.

    Raises MalformedEventError.
    """
    error = _mapping(session, "last_error")
    metadata = _mapping(session, "metadata")
    flow, redaction = _text(session, "verification_flow"), _word(_mapping(session, "redaction"), "status")
    is_ours = not marks or flow in marks or any(f"{key}={value}" in marks for key, value in metadata.items())
    named = _named(metadata) if OUR_KEYS[0] in metadata else None
    # rule: a session that names a verification of ours is ours
    cannot_tell = redaction or named
    return SessionState(
        status=_required(_word(session, "status"), "status"),
        error_code=_word(error, "code"),
        error_reason=_text(error, "reason"),
        report_id=_report_id(session),
        client_reference_id=_text(session, "client_reference_id"),
        user_id=_text(metadata, "user_id"),
        has_flow=flow is not None,
        redaction=redaction,
        verification_id=named and named[0],
        generation=named and named[1],
        # rule: a session with wiped metadata does not show its owner
        is_ours=None if cannot_tell and not is_ours else is_ours,
    )


def parse_item(item: object, marks: Collection[str], livemode: bool | None) -> tuple[str, SessionState]:
    """The id and the state of a session in an item of a list; marks as in `parse`. Raises MalformedEventError."""
    if not isinstance(item, dict) or item.get("object") != "identity.verification_session":
        raise MalformedEventError("it is not a verification session")
    # rule: a listed session of the other mode is not read
    if _flag(item, "livemode") is not livemode:
        raise MalformedEventError("it is of the other mode")
    _moment(item.get("created"))
    return parse_id(item), parse_session(item, marks)


def parse_id(content: dict[str, Any]) -> str:
    """The id in Stripe's JSON. Raises MalformedEventError."""
    return _id(content, "id")


def _snapshot(payload: dict[str, Any], marks: Collection[str]) -> VerificationEvent:
    session = _mapping(_mapping(payload, "data"), "object")
    if session.get("object") != "identity.verification_session":
        raise MalformedEventError("data.object is not a verification session")
    state = parse_session(session, marks)
    # rule: a redaction is never taken for another owner's, whatever its metadata says
    is_redaction = payload["type"].endswith(".redacted") and not state.is_ours
    return VerificationEvent(
        id=_id(payload, "id"),
        type=payload["type"],
        session_id=_id(session, "id"),
        account=_account(payload),
        livemode=_flag(payload, "livemode"),
        created_at=_moment(payload.get("created")),
        state=None if is_redaction else state,  # the type says all that matters
        is_ours=None if is_redaction else state.is_ours,
    )


def _thin(payload: dict[str, Any], marks: Collection[str]) -> VerificationEvent:
    return VerificationEvent(
        id=_id(payload, "id"),
        type=payload["type"],
        session_id=_id(_mapping(payload, "related_object"), "id"),
        account=_account(payload),
        livemode=_flag(payload, "livemode"),
        created_at=_iso_moment(_required(_text(payload, "created"), "created")),
        state=None,
        is_ours=None if marks else True,
    )


def _named(metadata: dict[str, Any]) -> tuple[str, int] | None:
    values = [value if isinstance(value, str) else "" for value in (metadata.get(name) for name in OUR_KEYS)]
    is_name = all(form.fullmatch(value) for form, value in zip(_NAME, values, strict=True))
    return (values[0], int(values[1])) if is_name else None


def _account(payload: dict[str, Any]) -> str | None:
    return _word(payload, "account") or _word(payload, "context")


def _report_id(session: dict[str, Any]) -> str | None:
    report = session.get("last_verification_report")
    if isinstance(report, dict):  # expanded: a retrieve may ask for that
        return _id(report, "id")
    return _word(session, "last_verification_report")


def _mapping(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedEventError(f"{name} is not an object")
    return value


def _id(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise MalformedEventError(f"{name} is not an id of Stripe's")
    return value


def _text(parent: dict[str, Any], name: str) -> str | None:
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or "\0" in value:
        raise MalformedEventError(f"{name} is not a text")
    return value


def _word(parent: dict[str, Any], name: str) -> str | None:
    value = _text(parent, name)
    if value is not None and (len(value) > _LONGEST_WORD or not value.isascii()):
        raise MalformedEventError(f"{name} is not a word of Stripe's")
    return value


def _required(value: str | None, name: str) -> str:
    if value is None:
        raise MalformedEventError(f"{name} is missing")
    return value


def _flag(parent: dict[str, Any], name: str) -> bool:
    value = parent.get(name)
    if not isinstance(value, bool):
        raise MalformedEventError(f"{name} is not true or false")
    return value


def _moment(seconds: object) -> datetime:
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 <= seconds <= _LATEST:
        raise MalformedEventError("created is not a time in seconds")
    return datetime.fromtimestamp(seconds, UTC)


def _iso_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (
            moment.astimezone(UTC).replace(microsecond=0)
            if moment.tzinfo
            else moment.replace(microsecond=0, tzinfo=UTC)
        )
    except (ValueError, OverflowError):
        raise MalformedEventError("created is not an ISO 8601 time") from None
