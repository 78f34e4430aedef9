"""The application is told of verifications: one rising number for all sessions of one, in turn, nothing personal."""

import random
import threading
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from config.database import now, transaction
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.record.events import VerificationEvent
from handlers.sessions.forgetting import forget_sessions
from handlers.tables.models import ActionStatus, Verification, VerificationRecord
from tests.integration.stories import perform_all, perform_everything
from tests.property.outside import Application, PostBox
from tests.support import facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "post_box")


@pytest.fixture
def verification(database_url: str, post_box: PostBox) -> str:
    """A verification of two generations, vs_1 and vs_2, without a record of either."""
    assert database_url
    assert not post_box.sent
    with transaction() as session:
        session.add(_verification("idv_1", "user-1", "vs_2"))
        session.add_all(_record(f"vs_{generation}", "idv_1", generation) for generation in (1, 2))
    return "idv_1"


def _verification(id_: str, reference: str, session_id: str) -> Verification:
    at = datetime.now(UTC)
    about: dict[str, Any] = {"client_reference_id": reference, "purpose": "age", "session_id": session_id}
    return Verification(id=id_, livemode=False, generation=2, created_at=at, updated_at=at, **about)


def _record(session_id: str, verification_id: str | None, generation: int | None) -> VerificationRecord:
    at = datetime.now(UTC)
    whose: dict[str, Any] = {"verification_id": verification_id, "generation": generation}
    return VerificationRecord(session_id=session_id, livemode=False, created_at=at, updated_at=at, **whose)


def _told(application: Application) -> list[tuple[str, int]]:
    changes = [caught.event["data"] for caught in application.caught]
    return [(change["session_id"], change["change_number"]) for change in changes]


def _stories() -> list[VerificationEvent]:
    return [
        event("created", NOON, "vs_1"),
        event("requires_input", NOON + 5, "vs_1", code="document_expired", report="vr_1"),
        event("created", NOON + 10, "vs_2"),
        event("verified", NOON + 20, "vs_2", report="vr_2"),
    ]


def test_a_change_tells_whose_it_is(application: Application, verification: str) -> None:
    facts.applied(event("verified", session_id="vs_2", report="vr_1"))
    perform_everything()
    [caught] = application.caught
    assert caught.event["data"] == {
        "session_id": "vs_2",
        "change_number": 1,
        "status": "verified",
        "error_code": None,
        "account": None,
        "livemode": False,
        "verification_id": verification,
        "purpose": "age",
        "generation": 2,
        "client_reference_id": "user-1",
        "replaced": False,
    }


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.usefixtures("verification")
def test_sessions_of_one_verification_share_one_number_that_rises_in_every_order(
    application: Application, order: tuple[int, ...]
) -> None:
    stories = _stories()
    facts.applied(*(stories[place] for place in order))
    perform_everything()
    told = _told(application)
    assert [number for _, number in told] == list(range(1, len(told) + 1))
    assert {session_id: facts.record(session_id).change_number for session_id, _ in told} == dict(told)


@pytest.mark.usefixtures("verification")
def test_events_of_one_batch_share_the_number_too(application: Application) -> None:
    receive(_stories())
    process([one.id for one in _stories()])
    perform_everything()
    assert _told(application) == [("vs_1", 1), ("vs_1", 2), ("vs_2", 3), ("vs_2", 4)]


@pytest.mark.usefixtures("verification")
def test_several_workers_at_once_give_no_number_twice(application: Application) -> None:
    kinds = ("processing", "requires_input") * 6
    events = {
        session_id: [
            event(kind, NOON + 10 * place, session_id, code="abandoned" if kind == "requires_input" else None)
            for place, kind in enumerate(kinds)
        ]
        for session_id in ("vs_1", "vs_2")
    }
    workers = [threading.Thread(target=facts.applied, args=some) for some in events.values()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    perform_everything()
    assert [number for _, number in _told(application)] == list(range(1, 2 * len(kinds) + 1))


@pytest.mark.usefixtures("verification")
def test_what_changes_nothing_takes_no_number(application: Application) -> None:
    facts.applied(*_stories())
    before = facts.record("vs_1")
    facts.applied(event("created", NOON + 1, "vs_1", "evt_late"))
    after = facts.record("vs_1")
    assert (after.state, after.updated_at) == (before.state, before.updated_at)
    perform_everything()
    assert len(application.caught) == 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("verification")
def test_an_older_number_never_arrives_after_a_newer_one_of_the_same_verification(
    application: Application, seed: int
) -> None:
    facts.applied(*_stories())
    ids = [one.id or 0 for name in ("vs_1", "vs_2") for one in facts.actions(name) if one.name == "notify_app"]
    random.Random(seed).shuffle(ids)
    perform_all(ids)
    assert [number for _, number in _told(application)] == [1, 2, 3, 4]


@pytest.mark.usefixtures("verification")
def test_a_change_waits_for_the_lower_one_of_another_session(application: Application) -> None:
    application.status = 503
    facts.applied(event("created", NOON, "vs_1"), event("created", NOON + 10, "vs_2"))
    [first] = [one for one in facts.actions("vs_1") if one.name == "notify_app"]
    [second] = [one for one in facts.actions("vs_2") if one.name == "notify_app"]
    assert perform(second.id or 0) == []
    assert application.caught == []
    application.status = 200
    assert perform(first.id or 0) == [second.id]
    perform_all([second.id or 0])
    assert _told(application) == [("vs_1", 1), ("vs_2", 2)]


def test_a_session_that_was_replaced_says_so(application: Application, verification: str) -> None:
    with transaction() as session:
        session.connection().execute(
            update(VerificationRecord).where(col(VerificationRecord.session_id) == "vs_1").values(replaced_at=now())
        )
    facts.applied(event("verified", session_id="vs_1", report="vr_1"))
    perform_everything()
    [caught] = application.caught
    told = caught.event["data"]
    assert (told["verification_id"], told["generation"], told["replaced"]) == (verification, 1, True)


@pytest.mark.usefixtures("verification")
def test_an_end_that_was_asked_for_to_replace_says_so_and_nothing_else_does(application: Application) -> None:
    with transaction() as session:
        session.get_one(VerificationRecord, "vs_1").replacing_at = datetime.now(UTC)
    for kind, at in (("processing", NOON), ("canceled", NOON + 60)):
        facts.applied(event(kind, at, session_id="vs_1"))
        perform_everything()
    told = [(one.event["data"]["status"], one.event["data"]["replaced"]) for one in application.caught]
    assert told == [("processing", False), ("canceled", True)]


@pytest.mark.parametrize("by", ["Stripe", "us"])
def test_nothing_personal_is_told_after_a_redaction(application: Application, verification: str, by: str) -> None:
    facts.applied(event("verified", session_id="vs_2", report="vr_1"))
    if by == "Stripe":
        facts.applied(event("redacted", NOON + 9, "vs_2"))
    else:
        with transaction() as session:
            session.connection().execute(update(Verification).values(client_reference_id=None))
            forget_sessions(session, col(VerificationRecord.verification_id) == verification)
    perform_everything()
    told: list[dict[str, Any]] = [caught.event["data"] for caught in application.caught]
    assert [(change["verification_id"], change["client_reference_id"]) for change in told] == [(verification, None)]


def test_a_session_of_no_verification_keeps_its_own_number(application: Application, verification: str) -> None:
    assert verification
    facts.applied(*_stories(), event("created", session_id="vs_3"), event("created", session_id="vs_4"))
    perform_everything()
    assert application.taken["vs_3"] == application.taken["vs_4"] == [1]
    assert {one.status for one in facts.actions("vs_3")} == {ActionStatus.DONE}
