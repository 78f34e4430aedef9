"""All changes of several records of one verification lock them in one order: nobody waits in a circle."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlmodel import Session, col

from config.database import database_now, now, transaction
from config.settings import settings
from handlers.record.events import Status, parse_session
from handlers.sessions.closing import redact_verification
from handlers.sessions.refusals import OpeningError
from handlers.sessions.turn import Turn, Wanted, next_generation, take_turn
from handlers.sessions.writing import write
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.conclude import conclude
from handlers.upkeep.relink import relink
from tests.support import databases
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("database_url", "stripe"),
    pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has one writer"),
]
WANTED = Wanted(client_reference_id="user-1", purpose="", account="", livemode=False, params={"type": "document"})


@pytest.fixture
def turn() -> Turn:
    """The opening of a verification whose sessions the table holds in another order than their ids'."""
    turn = take_turn(WANTED)
    assert turn
    for session_id in ("vs_b", "vs_a"):
        with transaction() as session:
            session.add(_record(session_id, verification_id=turn.verification_id, generation=turn.generation))
    return turn


def _record(session_id: str, **linked: Any) -> VerificationRecord:
    at = database_now()
    return VerificationRecord(
        session_id=session_id, livemode=False, status=Status.REQUIRES_INPUT, created_at=at, updated_at=at, **linked
    )


def _burn(turn: Turn) -> None:
    next_generation(turn, WANTED)


def _replace(turn: Turn) -> None:
    known = col(VerificationRecord.session_id) == "vs_b"
    with transaction() as session:
        session.connection().execute(update(VerificationRecord).where(known).values(replacing_at=now()))
    next_generation(replace(turn, session_id="vs_b"), WANTED)


def _take_over_late(turn: Turn) -> None:
    """Writes an opening down whose person was to be forgotten meanwhile."""
    with transaction() as session:
        session.connection().execute(update(Verification).values(redaction_asked_at=now()))
    content = {**_listed("vs_b", turn), "verification_flow": None}
    answer = Answer("vs_b", parse_session(content, ()), content, database_now(), is_replayed=False)
    with pytest.raises(OpeningError):
        write(turn, WANTED, answer, made=False)


def _forget(turn: Turn) -> None:
    with transaction() as session:
        session.connection().execute(update(Verification).values(session_id="vs_b", opening_until=None))
    redact_verification(turn.verification_id)


def _conclude(turn: Turn) -> None:
    since = database_now() - timedelta(hours=1)
    with transaction() as session:
        session.connection().execute(update(Verification).values(generation=turn.generation + 1))
        conclude(session, since, since)


@pytest.mark.parametrize("change", [_burn, _replace, _forget, _take_over_late, _conclude])
def test_who_changes_several_records_holds_none_while_an_earlier_one_is_anothers(
    turn: Turn, change: Callable[[Turn], None]
) -> None:
    with ThreadPoolExecutor(1) as pool, transaction() as events:
        _lock(events, "vs_a")
        changing = pool.submit(change, turn)
        wait_until(lambda: changing.done() or _somebody_waits())
        _lock(events, "vs_b")
        events.commit()
        changing.result()


def test_who_links_sessions_holds_none_while_a_new_one_is_being_written(turn: Turn) -> None:
    listed = [_listed(id_, turn) for id_ in ("vs_a", "vs_c")]
    states = [(item, parse_session(item, settings().our_sessions)) for item in listed]
    with ThreadPoolExecutor(1) as pool, transaction() as events:
        events.add(_record("vs_c"))
        events.flush()
        linking = pool.submit(relink, None, states)
        wait_until(lambda: linking.done() or _somebody_waits())
        _lock(events, "vs_a")
        events.commit()
        linking.result()


def _listed(session_id: str, turn: Turn) -> dict[str, Any]:
    named = {"client_reference_id": "user-1", "metadata": turn.metadata, "livemode": False}
    session = {"id": session_id, "object": "identity.verification_session", "status": "requires_input"}
    return {**session, **named, "created": 1_790_000_000}


def _lock(session: Session, session_id: str) -> None:
    """Locks a record, as the next step of applying a batch; in a circle, another transaction has it."""
    wanted = select(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
    session.scalars(wanted.with_for_update(nowait=True)).one()


def _somebody_waits() -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with transaction() as session:
        return bool(session.connection().execute(waiting).scalar_one())
