"""The meaning of each event for a record, and the actions that it owes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.owed.kinds import BURNED_CAUSE, LIMIT_CAUSE, Owed
from handlers.record.decide import HANDLERS, Decision, Outcome, decide, why_not_owed
from handlers.record.events import RANKS, Status, VerificationEvent
from handlers.record.ordering import RecordState, seen_in
from tests.simulator.reasons import reason
from tests.support import shapes

NOON = 1_794_830_400


def _event(kind: str, at: int = NOON, **fields: Any) -> VerificationEvent:
    status = {"created": "requires_input", "redacted": fields.pop("status", "verified")}.get(kind, kind)
    about = shapes.session("vs_1", status, **fields)
    return shapes.parsed(shapes.event(f"evt_{kind}_{at}", kind, at, about))


def _decide(*events: VerificationEvent) -> Decision:
    """The decision about the last event, after those before it."""
    record, decision = RecordState(), None
    for event in events:
        decision = decide(record, event, seen_in(event))
        assert decision is not None
        record = decision.record
    assert decision is not None
    return decision


def _mails(decision: Decision) -> list[Owed]:
    return [owed for owed in decision.owed if owed.kind.startswith("email_")]


def test_there_is_one_handler_for_each_kind_of_event_that_shows_a_state() -> None:
    assert set(HANDLERS) == set(RANKS)


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
    event: VerificationEvent, status: Status, mail: str | None
) -> None:
    decision = _decide(event)
    assert decision.outcome is Outcome.APPLIED
    assert decision.record.status is status
    assert [owed.kind for owed in _mails(decision)] == ([mail] if mail else [])


def test_a_failure_is_kept_with_its_code_report_and_texts() -> None:
    decision = _decide(_event("requires_input", code="document_expired", report="vr_1", reference="ref", user="u"))
    record = decision.record
    assert (record.status, record.error_code, record.report_id) == (Status.REQUIRES_INPUT, "document_expired", "vr_1")
    assert decision.texts is not None
    assert decision.texts.error_reason == reason("document_expired")
    assert (decision.texts.client_reference_id, decision.texts.user_id) == ("ref", "u")


def test_success_clears_the_error() -> None:
    failure, success = _event("requires_input", code="document_expired"), _event("verified", NOON + 9, report="vr_2")
    decision = _decide(failure, success)
    assert decision.record.error_code is None
    assert decision.texts is not None
    assert decision.texts.error_reason is None


def test_a_cause_is_the_state_and_no_event() -> None:
    decision = _decide(_event("requires_input", code="document_expired", report="vr_1"))
    assert [owed.cause for owed in _mails(decision)] == ["requires_input:document_expired:vr_1"]
    assert [owed.cause for owed in _mails(_decide(_event("canceled", NOON + 1)))] == ["canceled"]


def test_two_events_about_one_change_owe_once() -> None:
    assert _mails(_decide(_event("verified", report="vr_1")))
    again = _decide(_event("verified", report="vr_1"), _event("verified", NOON + 5, report="vr_1"))
    assert (again.owed, again.record.changes) == ([], 1)


def test_a_stale_event_changes_nothing_and_its_mail_is_written_as_skipped() -> None:
    decision = _decide(
        _event("verified", report="vr_2"), _event("requires_input", NOON - 60, code="abandoned", report="vr_1")
    )
    assert decision.outcome is Outcome.STALE
    assert (decision.record.status, decision.texts) == (Status.VERIFIED, None)
    assert [(owed.kind, owed.skipped) for owed in _mails(decision)] == [("email_retry_prompt", "superseded")]


def test_canceled_is_the_end() -> None:
    decision = _decide(_event("canceled"), _event("verified", NOON + 3600, report="vr_1"))
    assert decision.record.status is Status.CANCELED


def test_a_redaction_says_the_status_of_a_session_that_was_only_heard_of() -> None:
    assert _decide(_event("redacted", status="canceled")).record.status is Status.CANCELED
    assert _decide(_event("processing"), _event("redacted", status="canceled")).record.status is Status.PROCESSING


def test_a_redaction_keeps_the_status_and_owes_nothing() -> None:
    decision = _decide(_event("verified", report="vr_1"), _event("redacted", NOON + 60))
    assert (decision.outcome, _mails(decision)) == (Outcome.APPLIED, [])
    assert decision.record.status is Status.VERIFIED
    assert decision.record.redacted_at == datetime.fromtimestamp(NOON + 60, UTC)


@pytest.mark.parametrize("times", [(NOON, NOON + 60), (NOON + 60, NOON)])
def test_the_person_is_forgotten_since_the_first_event_that_says_so(times: tuple[int, int]) -> None:
    decision = _decide(*(_event("redacted", at) for at in times))
    assert decision.record.redacted_at == datetime.fromtimestamp(NOON, UTC)


def test_what_is_owed_after_a_redaction_is_written_as_skipped() -> None:
    decision = _decide(_event("redacted"), _event("requires_input", NOON + 120, code="abandoned"))
    assert decision.record.status is Status.REQUIRES_INPUT
    assert [owed.skipped for owed in _mails(decision)] == ["redacted"]


def test_a_thin_notification_changes_nothing_when_nobody_can_be_asked() -> None:
    thin = shapes.parsed(shapes.thin("evt_1", "verified", "2026-11-20T12:00:00Z", "vs_1"))
    nothing = RecordState()
    assert decide(nothing, thin, None) == Decision(outcome=Outcome.IGNORED, record=nothing, owed=[])
    assert decide(nothing, thin, None, can_ask=True) is None


def test_a_mail_is_no_longer_owed_once_its_state_has_passed() -> None:
    failure, prompt = _event("requires_input", code="abandoned"), ("email_retry_prompt", "requires_input:abandoned:")
    assert why_not_owed(_decide(failure).record, *prompt) is None
    assert why_not_owed(_decide(failure, _event("processing", NOON + 60)).record, *prompt) == "superseded"


def test_at_the_limit_a_prompt_is_written_as_skipped_and_the_end_is_owed() -> None:
    failure = _event("requires_input", code="document_expired", report="vr_3")
    decision = decide(RecordState(submissions=3), failure, seen_in(failure), limit=3)
    assert decision is not None
    owed = {(one.kind, one.cause): one.skipped for one in decision.owed}
    assert owed["email_retry_prompt", "requires_input:document_expired:vr_3"] == "submission limit"
    assert owed["cancel_session", LIMIT_CAUSE] is owed["alert_review", LIMIT_CAUSE] is None


def test_a_stale_failure_that_uses_up_the_submissions_owes_the_end() -> None:
    before, failure = (
        _decide(_event("requires_input", code="abandoned", report="vr_2")).record,
        _event("requires_input", NOON - 60, code="document_expired", report="vr_1"),
    )
    decision = decide(replace(before, submissions=2), failure, seen_in(failure), limit=2)
    assert decision is not None
    owed = {(one.kind, one.cause): one.skipped for one in decision.owed}
    assert (decision.outcome, owed["cancel_session", LIMIT_CAUSE]) == (Outcome.STALE, None)


def test_what_the_limit_owes_is_owed_only_while_it_is_reached_and_input_required() -> None:
    failure, success = _event("requires_input", code="abandoned"), _event("verified", NOON + 60, report="vr_3")
    failed, passed = (replace(_decide(*events).record, submissions=3) for events in ([failure], [failure, success]))
    assert why_not_owed(failed, "cancel_session", LIMIT_CAUSE, limit=3) is None
    assert why_not_owed(failed, "cancel_session", LIMIT_CAUSE, limit=4) == "superseded"
    assert why_not_owed(passed, "cancel_session", LIMIT_CAUSE, limit=3) == "superseded"


def test_a_burned_session_is_ended_while_it_is_open_and_mails_nobody() -> None:
    burned = RecordState(burned_at=datetime.fromtimestamp(NOON, UTC))
    for event, end in (
        (_event("requires_input", code="abandoned"), None),
        (_event("processing"), "superseded"),
        (_event("canceled"), "superseded"),
    ):
        decision = decide(burned, event, seen_in(event))
        assert decision is not None
        owed = {one.kind: one.skipped for one in decision.owed if one.kind != "notify_app"}
        mails = {kind: "burned" for kind in owed if kind.startswith("email_")}
        assert owed == mails | {"cancel_session": end}
        assert why_not_owed(decision.record, "cancel_session", BURNED_CAUSE) == end
        assert {why_not_owed(decision.record, kind, "any") for kind in mails} <= {"burned"}


def test_no_mail_is_owed_after_a_redaction() -> None:
    decision = _decide(_event("verified", report="vr_1"), _event("redacted", NOON + 60))
    assert why_not_owed(decision.record, "email_verified", "verified::vr_1") == "redacted"
