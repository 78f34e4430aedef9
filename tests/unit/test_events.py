"""Stripe's JSON becomes a VerificationEvent that holds the allow-list and nothing else, or is refused."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.record.events import (
    EVENT_KINDS,
    EVENT_TYPES,
    ForeignEvent,
    MalformedEventError,
    SessionState,
    VerificationEvent,
    parse,
    parse_session,
)
from tests.simulator.reasons import reason
from tests.support import shapes

CREATED = 1_794_819_600


def _event(kind: str = "requires_input", **session_fields: Any) -> dict[str, Any]:
    about = shapes.session("vs_1", "requires_input", reference="ref_1", user="user_1", **session_fields)
    return shapes.event("evt_1", kind, CREATED, about)


def _changed(path: str, value: Any) -> dict[str, Any]:
    payload = _event(code="abandoned", report="vr_1")
    target: Any = payload
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    target[last] = value
    return payload


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_each_snapshot_type_is_read(kind: str) -> None:
    event = shapes.parsed(_event(kind, code="abandoned", report="vr_1"))
    assert event == VerificationEvent(
        id="evt_1",
        type=f"identity.verification_session.{kind}",
        session_id="vs_1",
        account=None,
        livemode=False,
        created_at=datetime.fromtimestamp(CREATED, UTC),
        state=SessionState(
            status="requires_input",
            error_code="abandoned",
            error_reason=reason("abandoned"),
            report_id="vr_1",
            client_reference_id="ref_1",
            user_id="user_1",
        ),
    )
    assert event.kind == kind


def test_there_are_six_types() -> None:
    assert len(EVENT_TYPES) == 6


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_each_thin_type_is_read_and_has_no_state(kind: str) -> None:
    event = shapes.parsed(shapes.thin("evt_1", kind, "2026-11-16T10:00:00.999+01:00", "vs_1", context="acct_1"))
    assert event.state is None
    assert event.session_id == "vs_1"
    assert event.account == "acct_1"
    assert event.created_at == datetime(2026, 11, 16, 9, 0, 0, tzinfo=UTC)
    assert event.kind == kind


def test_a_connected_account_is_kept() -> None:
    assert shapes.parsed(_event() | {"account": "acct_1"}).account == "acct_1"


def test_redaction_is_read() -> None:
    state = shapes.parsed(_event(redaction="processing")).state
    assert state is not None
    assert state.redaction == "processing"


def test_an_expanded_report_is_its_id() -> None:
    state = shapes.parsed(_event(report={"id": "vr_9", "object": "identity.verification_report"})).state
    assert state is not None
    assert state.report_id == "vr_9"


def test_what_nobody_has_seen_yet_does_no_harm() -> None:
    payload = _changed("data.object.status", "on_hold")
    payload["data"]["object"]["last_error"]["code"] = "address_mismatch"
    payload["data"]["object"]["new_field"] = {"deep": [1, 2, 3]}
    state = shapes.parsed(payload).state
    assert state is not None
    assert (state.status, state.error_code) == ("on_hold", "address_mismatch")


@pytest.mark.parametrize(
    "payload",
    [
        _event() | {"type": "charge.succeeded"},
        _event() | {"type": "identity.verification_session.reopened"},
        _event() | {"type": "identity.verification_report.verified"},
        _event() | {"type": "verified"},
        _event() | {"type": ""},
        _event() | {"object": "v2.core.event"},
        _event() | {"object": None},
        _event() | {"type": "v1.identity.verification_session.verified"},
        shapes.thin("evt_1", "closed", "2026-11-16T10:00:00Z", "vs_1"),
        {"id": "evt_1", "type": "v2.core.event_destination.ping"},
    ],
)
def test_another_type_is_foreign(payload: dict[str, Any]) -> None:
    assert parse(payload) == ForeignEvent(id="evt_1", type=payload["type"])


@pytest.mark.parametrize(
    "body",
    [
        [1],
        None,
        "x",
        1,
        True,
        {},
        {"type": 1, "id": "evt_1"},
        {"type": "charge.succeeded"},
        {"type": "charge.succeeded", "id": 7},
        {"type": "charge.succeeded", "id": ""},
        {"type": "charge.succeeded", "id": "evt 1"},
        {"type": "charge.succeeded", "id": "evt_1\n"},
        {"type": "charge.succeeded", "id": "evt_\0"},
        {"type": "charge\0", "id": "evt_1"},
    ],
)
def test_what_is_no_event_is_refused(body: object) -> None:
    with pytest.raises(MalformedEventError):
        parse(body)


WRONG = [
    ("id", None),
    ("id", 1),
    ("id", "evt_c4nary\0"),
    ("id", "e" * 256),
    ("id", "../c4nary"),
    ("created", None),
    ("created", True),
    ("created", "1794819600"),
    ("created", 1.5),
    ("created", 1e308),
    ("created", -1),
    ("created", 10**18),
    ("created", 253402300800),
    ("livemode", None),
    ("livemode", 0),
    ("livemode", "false"),
    ("account", 1),
    ("account", {"id": "acct_c4nary"}),
    ("context", ["c4nary"]),
    ("data", None),
    ("data", []),
    ("data", "c4nary"),
    ("data.object", None),
    ("data.object", "vs_c4nary"),
    ("data.object", [1]),
    ("data.object.object", "charge"),
    ("data.object.id", None),
    ("data.object.id", "vs c4nary"),
    ("data.object.status", None),
    ("data.object.status", 1),
    ("data.object.status", "verified\0"),
    ("data.object.last_error", "c4nary"),
    ("data.object.last_error", [1]),
    ("data.object.last_error.code", 1),
    ("data.object.last_error.code", ["c4nary"]),
    ("data.object.last_error.reason", {"c4nary": 1}),
    ("data.object.last_error.reason", "c4nary\0"),
    ("data.object.last_error.reason", "c4nary" * 1000),
    ("data.object.last_verification_report", 1),
    ("data.object.last_verification_report", ["vr_c4nary"]),
    ("data.object.last_verification_report", {}),
    ("data.object.last_verification_report", {"id": 1}),
    ("data.object.client_reference_id", 1),
    ("data.object.client_reference_id", "c4nary\0"),
    ("data.object.metadata", "c4nary"),
    ("data.object.metadata", [["user_id", "c4nary"]]),
    ("data.object.metadata.user_id", 42),
    ("data.object.metadata.user_id", {"c4nary": 1}),
    ("data.object.redaction", "redacted"),
    ("data.object.redaction", {"status": 1}),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_field_of_the_wrong_shape_is_refused_by_name_and_never_quoted(path: str, value: Any) -> None:
    with pytest.raises(MalformedEventError) as refusal:
        shapes.parsed(_changed(path, value))
    assert "c4nary" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_number_too_large_for_any_type_is_refused() -> None:
    with pytest.raises(MalformedEventError):
        parse(_event() | {"created": 10**308})


@pytest.mark.parametrize(
    "created", [None, 1794819600, "yesterday", "", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2026-11-16\0"]
)
def test_a_thin_notification_needs_an_iso_time(created: Any) -> None:
    with pytest.raises(MalformedEventError, match=r"^created "):
        shapes.parsed(shapes.thin("evt_1", "verified", created, "vs_1"))


@pytest.mark.parametrize("related", [None, {}, {"id": None}, "vs_1", ["vs_1"], {"id": "vs 1"}])
def test_a_thin_notification_needs_its_session(related: Any) -> None:
    with pytest.raises(MalformedEventError):
        shapes.parsed(shapes.thin("evt_1", "verified", "2026-11-16T10:00:00Z", "vs_1") | {"related_object": related})


def test_a_text_has_a_longest_length() -> None:
    reason = _changed("data.object.last_error.reason", "x" * 5000)
    assert shapes.parsed(reason).state is not None
    with pytest.raises(MalformedEventError):
        shapes.parsed(_changed("data.object.last_error.reason", "x" * 5001))


@pytest.mark.parametrize("path", ["last_error.code", "last_verification_report", "status", "id", "account"])
def test_ids_and_codes_are_short_words(path: str) -> None:
    """An index row of PostgreSQL's holds 2,704 bytes, and each of these is a part of a key, or may become one."""
    place = path if path == "account" else f"data.object.{path}"
    assert isinstance(shapes.parsed(_changed(place, "x" * 255)), VerificationEvent)
    for value in ("x" * 256, "é"):
        with pytest.raises(MalformedEventError):
            shapes.parsed(_changed(place, value))


def test_nothing_outside_the_allow_list_survives() -> None:
    planted = {
        "client_secret": "vs_1_secret_c4nary",
        "url": "https://verify.stripe.com/start/c4nary",
        "provided_details": {"email": "c4nary@example.com", "phone": "+49c4nary"},
        "verified_outputs": {"first_name": "c4nary", "dob": {"year": 1980}, "address": {"line1": "c4nary"}},
        "last_verification_report": {"id": "vr_1", "document": {"first_name": "c4nary"}},
        "last_error": {"code": "abandoned", "reason": "You left.", "detail": "c4nary"},
        "metadata": {"user_id": "user_1", "email": "c4nary@example.com", "idv_id": "idv_c4nary"},
        "unknown": "c4nary",
        "related_person": {"person": "c4nary"},
    }
    payload = _event()
    payload["data"]["object"] |= planted
    payload["data"]["previous_attributes"] = {"status": "c4nary"}
    payload["request"] = {"id": "c4nary", "idempotency_key": "c4nary"}
    assert "c4nary" not in json.dumps(dataclasses.asdict(shapes.parsed(payload)), default=str)


def test_an_event_prints_nothing_personal() -> None:
    shown = repr(shapes.parsed(_event(code="abandoned")))
    for personal in ("ref_1", "user_1", "The session was abandoned."):
        assert personal not in shown


def test_a_retrieved_session_is_read_like_an_events() -> None:
    about = shapes.session("vs_1", "verified", report="vr_1", user="user_1")
    assert parse_session(about) == SessionState(status="verified", report_id="vr_1", user_id="user_1")
