"""Only sessions with our mark are ours; others' are only noted, and redactions of ours are obeyed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.queries import Filter, find_events
from handlers.outbox.perform import perform
from handlers.record.events import VerificationEvent
from handlers.tables.models import InboxEvent, InboxStatus
from handlers.upkeep.rebuild import rebuild
from handlers.upkeep.reconcile import reconcile
from tests.integration.stories import Stories, perform_everything, process_everything
from tests.property.outside import PostBox
from tests.support import databases, facts, shapes
from tests.support.facts import NOON
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "_marks")
MARKS = ("app=onboarding", "vf_ours")
OURS, THEIRS = {"app": "onboarding"}, {"app": "billing"}


@pytest.fixture
def _marks(environment: pytest.MonkeyPatch, database_url: str) -> None:
    assert database_url
    environment.setenv("OUR_SESSIONS", ",".join(MARKS))
    databases.forget_process_state()


def _event(kind: str, at: int = NOON, session_id: str = "vs_1", **fields: Any) -> VerificationEvent:
    """An event as read where marks are set; a redaction has wiped its metadata."""
    told = {"metadata": OURS, **fields} | ({"metadata": {}} if kind == "redacted" else {})
    return _read(facts.payload(kind, at, session_id, **told))


def _thin(kind: str, session_id: str) -> VerificationEvent:
    return _read(shapes.thin(f"evt_{session_id}_{kind}", kind, "2026-11-16T12:00:00Z", session_id))


def _read(payload: dict[str, Any]) -> VerificationEvent:
    return shapes.parsed(payload, MARKS)


def _settled(*events: VerificationEvent) -> list[InboxEvent]:
    """Receives and processes events one by one, with all that they make due; their rows."""
    facts.applied(*events)
    process_everything()
    rows = facts.event_rows()
    assert {one.status for one in rows} == {InboxStatus.PROCESSED}
    return rows


def test_a_session_is_ours_by_its_metadata_or_its_flow() -> None:
    flow = facts.payload("verified", session_id="vs_2", metadata=THEIRS)
    flow["data"]["object"]["verification_flow"] = "vf_ours"
    facts.applied(_event("verified"), _read(flow), _event("verified", session_id="vs_3", metadata=THEIRS))
    assert [one.session_id for one in find_events(Filter(error="not ours"), None)] == ["vs_3"]
    assert facts.count_records() == 2


def test_without_marks_all_are_ours() -> None:
    event = shapes.parsed(facts.payload("verified", metadata=THEIRS))
    assert (event.is_ours, event.ignored) == (True, None)


def test_others_owe_nothing_and_are_looked_at_by_an_operator() -> None:
    kinds = ("created", "processing", "verified", "redacted")
    rows = _settled(*(_event(kind, NOON + place, metadata=THEIRS) for place, kind in enumerate(kinds)))
    assert {(one.outcome, one.last_error, one.report_id, one.session_status) for one in rows} == {
        ("ignored", "not ours", None, None)
    }
    assert (facts.count_records(), facts.actions(), facts.reports()) == (0, [], set())
    shown = command("events", "--json", "--error", "not ours", OUR_SESSIONS="app=onboarding").json
    assert len(shown) == 4


def _shown(row: InboxEvent) -> set[object]:
    """All that a row says of its session's state."""
    shown = (row.session_status, row.error_code, row.report_id, row.redaction, row.account, row.verification_id)
    return {*shown, row.generation, row.has_flow, row.client_reference_id, row.user_id}


def test_nothing_is_kept_of_another_environments_session_though_it_names_a_verification() -> None:
    names = {**THEIRS, "idv_id": "idv_" + "0" * 32, "idv_generation": "1"}
    fields: dict[str, Any] = {"code": "document_expired", "report": "vr_1", "reference": "ref", "user": "u"}
    [row] = _settled(replace(_event("requires_input", **fields, metadata=names), account="acct_1"))
    assert (row.outcome, row.last_error, _shown(row)) == ("ignored", "not ours", {None, False})


def test_nothing_is_kept_of_a_session_that_is_anothers_by_stripes_word(stripe: Stories) -> None:
    theirs = stripe.simulator.create(metadata=THEIRS)
    told = _event("canceled", NOON, theirs, metadata={}, redaction="processing", report="vr_1", reference="ref")
    facts.applied(told)
    row = facts.event_row(told.id)
    assert (row.outcome, row.last_error, row.is_ours, _shown(row)) == ("ignored", "not ours", False, {None, False})


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_redaction_that_wipes_the_mark_is_obeyed_in_every_order(order: tuple[int, ...]) -> None:
    events = [
        _event("verified", report="vr_1", reference="ref", user="u"),
        _event("redacted", NOON + 60),
        _event("created", NOON - 60),
    ]
    rows = _settled(*(events[place] for place in order))
    record = facts.record()
    assert (record.status, record.user_id, record.client_reference_id) == ("verified", None, None)
    assert record.redacted_at is not None
    assert {one.outcome for one in rows} <= {"applied", "stale"}
    assert {action.status for action in facts.actions() if action.name.startswith("email")} <= {"skipped"}


def test_a_redaction_in_the_same_batch_is_obeyed() -> None:
    events = [_event("redacted", NOON - 60), _event("verified", report="vr_1", user="u")]
    receive(events)
    process([one.id for one in events])
    process_everything()
    assert facts.record().redacted_at is not None


def test_a_state_whose_mark_is_wiped_counts_once_its_session_proves_ours() -> None:
    ended = _event("canceled", NOON + 60, metadata={}, redaction="processing", report="vr_1", reference="ref")
    facts.applied(ended)
    assert (facts.count_records(), facts.reports()) == (0, set())
    assert facts.event_row(ended.id).client_reference_id is None
    _settled(_event("requires_input", code="document_expired", report="vr_1"))
    assert (facts.record().status, facts.reports()) == ("canceled", {"vr_1"})


def test_a_redaction_and_the_first_word_of_its_session_may_come_at_once() -> None:
    def together(number: int) -> None:
        barrier = threading.Barrier(2)

        def work(event: VerificationEvent) -> None:
            receive([event])
            barrier.wait()
            process([event.id])

        session_id = f"vs_{number}"
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (_event("redacted", NOON + 9, session_id), _event("verified", NOON, session_id))))

    for number in range(15):
        together(number)
    process_everything()
    assert [number for number in range(15) if not facts.record(f"vs_{number}").redacted_at] == []


def test_of_a_thin_notification_stripe_says_whose_it_is(stripe: Stories, post_box: PostBox) -> None:
    ours, theirs = (stripe.simulator.create(email="jenny@example.com", metadata=mark) for mark in (OURS, THEIRS))
    for session_id in (ours, theirs):
        stripe.later().simulator.submit(session_id)
        stripe.later().simulator.passed(session_id)
        facts.applied(_thin("verified", session_id))
    perform_everything()
    assert facts.record(ours).status == "verified"
    assert facts.event_rows(theirs)[0].last_error == "not ours"
    assert (facts.count_records(), set(post_box.told)) == (1, {ours})


def test_a_thin_redaction_forgets_ours_and_notes_others(stripe: Stories) -> None:
    ours, theirs = (stripe.simulator.create(email="jenny@example.com", metadata=mark) for mark in (OURS, THEIRS))
    facts.applied(_event("verified", session_id=ours, user="u"))
    for session_id in (ours, theirs):
        stripe.later().simulator.redact(session_id)
        facts.applied(_thin("redacted", session_id))
    assert facts.record(ours).redacted_at is not None
    assert facts.event_rows(theirs)[0].last_error == "not ours"
    assert facts.count_records() == 1


def test_without_a_key_a_thin_notification_of_an_unknown_session_waits_for_its_mark() -> None:
    facts.applied(_thin("redacted", "vs_1"))
    assert facts.count_records() == 0
    _settled(_event("verified", user="u"))
    assert facts.record().redacted_at is not None


def test_upkeep_leaves_others_alone(stripe: Stories) -> None:
    stripe.simulator.endpoint("http://127.0.0.1:9/")
    theirs = stripe.simulator.create(email="jenny@example.com", metadata=THEIRS)
    stripe.later().simulator.passed(theirs)
    # heard of before marks were set
    facts.applied(_event("processing", session_id=theirs))
    for mark in (THEIRS, {}):  # never heard of, and made since we hear of this account
        stripe.later().simulator.passed(stripe.simulator.create(email="jenny@example.com", metadata=mark))
    report = reconcile(bounded=False)
    stripe.later().simulator.create(metadata={"idv_id": "idv_" + "0" * 32, "idv_generation": "1"})
    list(rebuild(facts.event_row(f"evt_{theirs}_processing_{NOON}").created_at, [None], owes_nothing=False))
    process_everything()
    assert (report.recovered, report.drifted) == ([], [])
    assert facts.record(theirs).status == "processing"
    assert not [row.id for row in find_events(Filter(), None) if row.id.startswith("reconcile_")]
    for action_id in facts.due_actions():
        perform(action_id)
    assert not [one for one in facts.actions(theirs) if one.name.startswith("email")]
