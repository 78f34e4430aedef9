"""What each event means for a record, and what it owes."""

from datetime import datetime
from typing import Any

import pytest

from handlers.record.decide import HANDLERS, Decision, Owed, decide, why_not_owed
from handlers.record.events import KINDS, VerificationEvent, parse
from handlers.tables.models import OutboxAction, Outcome, Status, VerificationRecord, utc_now
from tests.simulator.reasons import reason
from tests.support import shapes

NOON = 1_794_830_400


@pytest.fixture
def record() -> VerificationRecord:
    now = utc_now()
    return VerificationRecord(session_id="vs_1", livemode=False, created_at=now, updated_at=now)


def _event(kind: str, at: int = NOON, **fields: Any) -> VerificationEvent:
    status = {"created": "requires_input", "redacted": fields.pop("status", "verified")}.get(kind, kind)
    about = shapes.session("vs_1", status, **fields)
    event = parse(shapes.as_body(shapes.event(f"evt_{kind}_{at}", kind, at, about)))
    assert isinstance(event, VerificationEvent)
    return event


def _decide(record: VerificationRecord, *events: VerificationEvent) -> Decision:
    decisions = [decide(record, event) for event in events]
    assert decisions[-1] is not None
    return decisions[-1]


def _mails(decision: Decision) -> list[Owed]:
    return [owed for owed in decision.owed if owed.name.startswith("email_")]


def test_there_is_one_handler_for_each_kind_of_event() -> None:
    assert set(HANDLERS) == set(KINDS)


@pytest.mark.parametrize(
    ("event", "status", "mail"),
    [
        (_event("created"), Status.REQUIRES_INPUT, None),
        (_event("processing"), Status.PROCESSING, None),
        (_event("requires_input", code="abandoned"), Status.REQUIRES_INPUT, "email_retry_prompt"),
        (_event("requires_input", code="consent_declined"), Status.REQUIRES_INPUT, "email_alternative"),
        (_event("verified", report="vr_1"), Status.VERIFIED, "email_verified"),
        (_event("canceled"), Status.CANCELED, "email_canceled"),
    ],
    ids=lambda value: value.type.rpartition(".")[2] if isinstance(value, VerificationEvent) else value,
)
def test_each_event_becomes_the_records_status_and_owes_its_mail(
    record: VerificationRecord, event: VerificationEvent, status: Status, mail: str | None
) -> None:
    decision = _decide(record, event)
    assert decision.outcome is Outcome.APPLIED
    assert record.status is status
    assert [owed.name for owed in _mails(decision)] == ([mail] if mail else [])


def test_a_failure_is_kept_with_its_code_reason_and_report(record: VerificationRecord) -> None:
    _decide(record, _event("requires_input", code="document_expired", report="vr_1", reference="ref", user="u"))
    assert record.last_error_code == "document_expired"
    assert record.last_error_reason == reason("document_expired")
    assert (record.last_report_id, record.client_reference_id, record.user_id) == ("vr_1", "ref", "u")


def test_success_clears_the_error(record: VerificationRecord) -> None:
    _decide(record, _event("requires_input", code="document_expired"), _event("verified", NOON + 9, report="vr_2"))
    assert (record.last_error_code, record.last_error_reason) == (None, None)


def test_a_cause_is_the_state_and_no_event(record: VerificationRecord) -> None:
    decision = _decide(record, _event("requires_input", code="document_expired", report="vr_1"))
    assert [owed.cause for owed in _mails(decision)] == ["requires_input:document_expired:vr_1"]
    assert [owed.cause for owed in _mails(_decide(record, _event("canceled", NOON + 1)))] == ["canceled"]


def test_two_events_about_one_change_owe_once(record: VerificationRecord) -> None:
    assert _mails(_decide(record, _event("verified", report="vr_1")))
    assert _decide(record, _event("verified", NOON + 5, report="vr_1")).owed == []
    assert record.change_number == 1


def test_a_stale_event_changes_nothing_and_its_mail_is_written_as_skipped(record: VerificationRecord) -> None:
    decision = _decide(
        record, _event("verified", report="vr_2"), _event("requires_input", NOON - 60, code="abandoned", report="vr_1")
    )
    assert decision.outcome is Outcome.STALE
    assert record.status is Status.VERIFIED
    assert [(owed.name, owed.skipped) for owed in _mails(decision)] == [("email_retry_prompt", "superseded")]


def test_canceled_is_the_end(record: VerificationRecord) -> None:
    _decide(record, _event("canceled"), _event("verified", NOON + 3600, report="vr_1"))
    assert record.status is Status.CANCELED


def test_a_redaction_empties_what_is_personal_and_keeps_the_status(record: VerificationRecord) -> None:
    decision = _decide(
        record, _event("verified", reference="ref", user="u", report="vr_1"), _event("redacted", NOON + 60)
    )
    assert (decision.outcome, _mails(decision)) == (Outcome.APPLIED, [])
    assert record.status is Status.VERIFIED
    assert record.redacted_at == datetime.fromtimestamp(
        NOON + 60, record.redacted_at.tzinfo if record.redacted_at else None
    )
    assert (record.client_reference_id, record.user_id, record.last_error_reason) == (None, None, None)


def test_nothing_brings_back_what_a_redaction_took(record: VerificationRecord) -> None:
    late = _event("requires_input", NOON + 120, code="abandoned", reference="ref", user="u")
    decision = _decide(record, _event("redacted"), late)
    assert record.status is Status.REQUIRES_INPUT
    assert (record.client_reference_id, record.user_id, record.last_error_reason) == (None, None, None)
    assert [owed.skipped for owed in _mails(decision)] == ["redacted"]


def test_a_thin_notification_changes_nothing_when_nobody_can_be_asked(record: VerificationRecord) -> None:
    thin = parse(shapes.as_body(shapes.thin("evt_1", "verified", "2026-11-20T12:00:00Z", "vs_1")))
    assert isinstance(thin, VerificationEvent)
    assert decide(record, thin) == Decision(Outcome.IGNORED, [])
    assert record.status is None
    assert decide(record, thin, can_ask=True) is None


def test_a_mail_is_no_longer_owed_once_its_state_has_passed(record: VerificationRecord) -> None:
    _decide(record, _event("requires_input", code="abandoned"))
    prompt = OutboxAction(session_id="vs_1", name="email_retry_prompt", cause="requires_input:abandoned:")
    assert why_not_owed(record, prompt) is None
    _decide(record, _event("processing", NOON + 60))
    assert why_not_owed(record, prompt) == "superseded"


def test_no_mail_is_owed_after_a_redaction(record: VerificationRecord) -> None:
    _decide(record, _event("verified", report="vr_1"), _event("redacted", NOON + 60))
    assert (
        why_not_owed(record, OutboxAction(session_id="vs_1", name="email_verified", cause="verified::vr_1"))
        == "redacted"
    )
