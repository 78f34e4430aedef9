"""RECORD_DAYS after its last change a record that has ended holds nothing personal, and nothing brings it back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from config.database import transaction
from config.settings import settings
from handlers.inbox.receive import receive
from handlers.outbox.perform import perform
from handlers.record.events import VerificationEvent
from handlers.sessions.turn import Wanted, take_turn
from handlers.tables.models import OutboxAction, Verification, VerificationRecord
from handlers.upkeep import purge, wipe
from handlers.upkeep.purge import Purged
from tests.support import databases, facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "record_days")
PERSONAL: dict[str, Any] = {"user": "c4nary user", "reference": "c4nary reference"}


@pytest.fixture
def record_days(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RECORD_DAYS", "100")
    settings.cache_clear()


def _ended(kind: str = "verified", at: int = NOON, session_id: str = "vs_1", **fields: Any) -> VerificationEvent:
    told = event(kind, at, session_id, **{"report": f"vr_{at}", **PERSONAL, **fields})
    assert told.state is not None
    return replace(told, state=replace(told.state, error_reason="c4nary reason"))


def _done(*events: VerificationEvent) -> None:
    for action_id in facts.applied(*events):
        perform(action_id)


def _age(days: float = 101, session_id: str = "vs_1") -> None:
    then = datetime.now(UTC) - timedelta(days=days)
    with transaction() as session:
        of_it = col(VerificationRecord.session_id) == session_id
        session.connection().execute(update(VerificationRecord).where(of_it).values(updated_at=then))
        session.connection().execute(update(Verification).values(updated_at=then))


def _verification(*session_ids: str) -> None:
    """Gives these sessions a verification, whose current one is the last of them."""
    then = datetime.now(UTC)
    whose: dict[str, Any] = {"id": "idv_1", "client_reference_id": "c4nary reference", "livemode": False}
    where: dict[str, Any] = {"return_url": "https://app.example/c4nary", "locale": "c4nary"}
    with transaction() as session:
        session.add(
            Verification(
                **whose,
                **where,
                generation=len(session_ids),
                session_id=session_ids[-1],
                created_at=then,
                updated_at=then,
            )
        )
        for generation, session_id in enumerate(session_ids, start=1):
            theirs = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
            session.connection().execute(theirs.values(verification_id="idv_1", generation=generation))


def _stored() -> Verification:
    with transaction() as session:
        return session.exec(select(Verification).where(Verification.id == "idv_1")).one()


def test_without_it_records_are_kept(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("RECORD_DAYS")
    settings.cache_clear()
    _done(_ended())
    _age(30_000)
    assert purge.purge() == Purged()
    assert facts.record().client_reference_id == "c4nary reference"


def test_what_has_ended_long_ago_holds_nothing_personal_and_all_that_decides(database_url: str) -> None:
    _done(_ended("requires_input", code="document_expired"), _ended(at=NOON + 9))
    before = facts.record().state
    _age(99)
    assert purge.purge() == Purged()
    _age()
    assert purge.purge() == Purged(records=1)
    assert "c4nary" not in databases.dump(database_url)
    assert facts.record().state == before
    assert purge.purge() == Purged()


@pytest.mark.parametrize("kind", ["created", "processing", "requires_input"])
def test_what_has_not_ended_is_kept(kind: str) -> None:
    _done(_ended(kind, code="document_expired" if kind == "requires_input" else None, report=None))
    _age()
    assert purge.purge() == Purged()


def test_what_is_owed_keeps_whom_it_is_owed_to() -> None:
    [owed] = facts.applied(_ended())
    _age()
    assert purge.purge() == Purged()
    perform(owed)
    assert purge.purge() == Purged(records=1)


def test_what_comes_late_brings_nothing_back_and_mails_nobody_again(database_url: str) -> None:
    story = [_ended("requires_input", code="document_expired"), _ended(at=NOON + 9)]
    _done(*story)
    _age()
    purge.purge()
    with transaction() as session:  # as after RETENTION_DAYS
        session.connection().execute(OutboxAction.__table__.delete())  # type: ignore[attr-defined]  # SQLModel hides it
    assert facts.applied(*(replace(late, id=f"{late.id}_twin") for late in story)) == []
    assert "c4nary" not in databases.dump(database_url)
    # A new change is told, as ever.
    overridden = facts.applied(_ended("requires_input", NOON + 20, code="document_expired", report=f"vr_{NOON + 9}"))
    assert [facts.action(one).name for one in overridden] == ["email_retry_prompt"]
    assert "c4nary" not in databases.dump(database_url)


def test_a_verification_is_wiped_once_all_its_sessions_have_ended(database_url: str) -> None:
    _done(_ended("canceled"), _ended("created", session_id="vs_2", report=None))
    _verification("vs_1", "vs_2")
    _age(session_id="vs_1")
    _age(session_id="vs_2")
    assert purge.purge() == Purged()
    _done(_ended(session_id="vs_2", at=NOON + 5))
    _age(session_id="vs_2")
    assert purge.purge() == Purged(verifications=1)
    assert "c4nary" not in databases.dump(database_url)
    assert (_stored().session_id, _stored().generation) == ("vs_2", 2)
    assert purge.purge() == Purged()


def test_whom_it_wiped_is_new_when_opened_again_under_the_same_reference() -> None:
    _done(_ended())
    _verification("vs_1")
    wanted = Wanted(client_reference_id="c4nary reference", purpose="", account="", livemode=False, params={})
    turn = take_turn(wanted)
    assert turn
    assert turn.verification_id == "idv_1"
    _age()
    assert purge.purge() == Purged(), "it is being opened"
    with transaction() as session:
        session.connection().execute(update(Verification).values(opening_until=datetime.now(UTC)))
    _age()
    assert purge.purge() == Purged(verifications=1)
    anew = take_turn(wanted)
    assert anew
    assert (anew.verification_id != "idv_1", anew.is_new) == (True, True)


def test_openings_that_never_came_to_a_session_are_wiped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wipe, "_LOOKED_THROUGH", 1)
    for number in range(3):
        take_turn(Wanted(client_reference_id=f"c4nary {number}", purpose="", account="", livemode=False, params={}))
    with transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(days=101)
        session.connection().execute(update(Verification).values(opening_until=long_ago, updated_at=long_ago))
    assert purge.purge() == Purged(verifications=3)


@pytest.mark.parametrize("looked_through", [1, 3, 10])
def test_more_than_a_batch_is_wiped_in_batches(monkeypatch: pytest.MonkeyPatch, looked_through: int) -> None:
    monkeypatch.setattr(purge, "BATCH", 2)
    monkeypatch.setattr(wipe, "_LOOKED_THROUGH", looked_through)
    for number in range(5):
        _done(_ended(session_id=f"vs_{number}"))
        _age(session_id=f"vs_{number}")
    assert purge.purge() == Purged(records=5)


def test_what_still_waits_in_the_inbox_is_wiped_with_its_record(database_url: str) -> None:
    _done(_ended())
    receive([_ended("requires_input", NOON + 50, code="document_expired")])
    _age()
    assert purge.purge() == Purged(records=1)
    assert "c4nary" not in databases.dump(database_url)
