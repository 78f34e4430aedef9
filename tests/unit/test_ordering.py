"""Which of two states is the later one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from handlers.record.events import RANKS, SessionState, Status, VerificationEvent
from handlers.record.ordering import Order, RecordState, Seen, answered, order, order_by_rank, overtakes, seen_in
from tests.support import shapes

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def _record(kind: str, at: datetime = NOON, code: str | None = None, report: str | None = None) -> RecordState:
    status = Status.REQUIRES_INPUT if kind == "created" else Status(kind)
    return RecordState(status=status, error_code=code, report_id=report, stamp=at, rank=RANKS[kind])


def _seen(
    kind: str, at: datetime = NOON, code: str | None = None, report: str | None = None, *, is_answer: bool = False
) -> Seen:
    return Seen(
        kind=kind, stamp=at, state=SessionState(status=kind, error_code=code, report_id=report), is_answer=is_answer
    )


@pytest.mark.parametrize("kind", RANKS)
def test_anything_is_newer_than_nothing(kind: str) -> None:
    empty = RecordState()
    assert order(empty, _seen(kind)) is Order.NEWER
    assert order_by_rank(empty, _seen(kind)) is Order.NEWER


def test_an_older_stamp_is_stale_and_a_later_one_newer() -> None:
    record = _record("processing")
    assert order(record, _seen("requires_input", NOON - SECOND, "abandoned")) is Order.STALE
    assert order(record, _seen("requires_input", NOON + SECOND, "abandoned")) is Order.NEWER


@pytest.mark.parametrize(
    ("earlier", "report", "place"),
    [
        (SECOND, "vr_2", Order.AMBIGUOUS),
        (300 * SECOND, "vr_2", Order.AMBIGUOUS),
        (301 * SECOND, "vr_2", Order.STALE),
        (SECOND, "vr_1", Order.STALE),
    ],
)
@pytest.mark.parametrize("is_answer", [False, True])
def test_what_contradicts_an_answer_is_asked_about_unless_it_is_far_older(
    earlier: timedelta, report: str, place: Order, is_answer: bool
) -> None:
    record = replace(_record("verified", report="vr_1"), by_answer=True)
    assert order(record, _seen("verified", NOON - earlier, report=report, is_answer=is_answer)) is place
    assert order(replace(record, by_answer=False), _seen("verified", NOON - earlier, report=report)) is Order.STALE


@pytest.mark.parametrize("event_id", ["evt_1", "reconcile_vs_1_1794819600"])
def test_what_reconcile_makes_of_an_answer_is_one(event_id: str) -> None:
    seen = seen_in(replace(_event("processing"), id=event_id))
    assert seen is not None
    assert (seen.by_answer, seen.is_answer) == (event_id.startswith("reconcile_"), False)


@pytest.mark.parametrize("kind", ["processing", "requires_input", "verified"])
@pytest.mark.parametrize("apart", [-SECOND, 0 * SECOND, SECOND])
def test_canceled_absorbs_whatever_the_stamps_say(kind: str, apart: timedelta) -> None:
    assert order(_record("canceled"), _seen(kind, NOON + apart)) is Order.STALE
    assert order(_record(kind), _seen("canceled", NOON + apart)) is Order.NEWER


def test_a_tie_with_the_creation_contradicts_nothing() -> None:
    assert order(_record("created"), _seen("verified")) is Order.NEWER
    assert order(_record("verified"), _seen("created")) is Order.STALE


def test_a_tie_between_contradicting_states_is_ambiguous() -> None:
    assert order(_record("requires_input", code="abandoned"), _seen("verified", report="vr_1")) is Order.AMBIGUOUS


def test_the_same_state_again_is_no_contradiction() -> None:
    assert order(_record("verified", report="vr_1"), _seen("verified", report="vr_1")) is Order.NEWER


def test_leaving_verified_for_processing_is_ambiguous_unless_stripe_itself_says_so() -> None:
    later = NOON + SECOND
    assert order(_record("verified"), _seen("processing", later)) is Order.AMBIGUOUS
    assert order(_record("verified"), _seen("processing", later, is_answer=True)) is Order.NEWER


def test_a_reviewer_may_override_verified() -> None:
    assert (
        order(_record("verified"), _seen("requires_input", NOON + SECOND, "document_unverified_other")) is Order.NEWER
    )


def test_rank_puts_any_order_of_arrival_into_one_order() -> None:
    tied = [_seen("created"), _seen("processing"), _seen("requires_input", code="abandoned"), _seen("verified")]
    assert {_last(arrival) for arrival in permutations(tied)} == {"verified"}


def test_between_two_failures_of_one_second_any_order_of_arrival_ends_alike() -> None:
    tied = [_seen("requires_input", code=code, report=report) for code in "ab" for report in ("vr_1", "vr_2")]
    ends = set()
    for arrival in permutations(tied):
        record = _record("created", NOON - SECOND)
        for seen in arrival:
            if order_by_rank(record, seen) is Order.NEWER:
                record = _record(seen.kind, seen.stamp, seen.state.error_code, seen.state.report_id)
        ends.add((record.report_id, record.error_code))
    assert ends == {("vr_2", "b")}


def test_requires_input_without_an_error_ranks_as_created() -> None:
    asked = answered(_event("processing"), SessionState(status="requires_input"), NOON)
    assert asked is not None
    assert asked.kind == "created"


def test_an_answer_is_not_older_than_the_event_that_asked() -> None:
    event = _event("processing")
    early, late = (
        answered(event, SessionState(status="verified"), event.created_at + apart) for apart in (-SECOND, SECOND)
    )
    assert early is not None
    assert late is not None
    assert (early.stamp, late.stamp) == (event.created_at, event.created_at + SECOND)


def test_an_answer_with_a_status_nobody_knows_settles_nothing() -> None:
    assert answered(_event("processing"), SessionState(status="on_hold"), NOON) is None


def test_a_redaction_and_a_thin_notification_show_no_state() -> None:
    assert seen_in(_event("redacted")) is None
    assert seen_in(shapes.parsed(shapes.thin("evt_1", "verified", "2026-11-20T12:00:00Z", "vs_1"))) is None


def _last(arrival: tuple[Seen, ...]) -> str:
    record, kind = RecordState(), ""
    for seen in arrival:
        if order_by_rank(record, seen) is Order.NEWER:
            record, kind = _record(seen.kind, seen.stamp, seen.state.error_code, seen.state.report_id), seen.kind
    return kind


def _event(kind: str) -> VerificationEvent:
    return shapes.parsed(shapes.event("evt_1", kind, 1_794_819_600, shapes.session("vs_1", kind)))


@pytest.mark.parametrize(
    ("by_answer", "earlier", "is_overtaken"),
    [(False, 0, False), (False, 1, True), (True, 299, False), (True, 300, False), (True, 301, True)],
)
def test_a_thin_notification_is_overtaken_by_what_is_later_for_sure(
    by_answer: bool, earlier: int, is_overtaken: bool
) -> None:
    record = replace(_record("verified", report="vr_1"), by_answer=by_answer)
    assert overtakes(record, NOON - earlier * SECOND) is is_overtaken
    assert not overtakes(RecordState(), NOON)
