"""The writer behind the web process, while its database fails."""

import asyncio

import pytest

from handlers.record.events import VerificationEvent
from receiver.webhooks import intake
from receiver.webhooks.intake import Intake, UnavailableError
from receiver.webhooks.storage import storage
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("database_url")

_SOONER_THAN_THE_DATABASE = 5.0  # seconds; its own timeouts, of ten, would answer too


def test_a_delivery_right_after_the_database_was_restarted_is_stored(database_url: str) -> None:
    if not databases.SERVER_URL:
        pytest.skip("SQLite has no connections to lose")

    async def deliver() -> None:
        inbox = storage()
        for kind in ("created", "verified"):
            assert len((await inbox.receive([event(kind)])).accepted) == 1
            with databases.down(database_url):
                pass
        await inbox.close()

    asyncio.run(deliver())
    assert len(facts.event_rows()) == 2


def test_a_connection_that_can_only_read_is_left_for_another(database_url: str) -> None:
    if not databases.SERVER_URL:
        pytest.skip("SQLite has no connections to leave")
    said = event("created")

    async def deliver() -> str:
        inbox = Intake()
        with databases.read_only(database_url), pytest.raises(UnavailableError):
            await inbox.accept(said)
        outcome = await inbox.accept(said)
        await inbox.close()
        return outcome

    assert asyncio.run(deliver()) == "accepted"


def test_what_waits_for_a_hanging_database_is_refused_in_time_and_what_comes_after_it_is_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_ANSWER_SECONDS", 0.2)
    in_work, waits, late = (event("created", session_id=name) for name in ("vs_1", "vs_2", "vs_3"))

    async def deliver() -> str:
        inbox = Intake()
        with databases.locked(database_url):
            stuck = asyncio.create_task(inbox.accept(in_work))
            await asyncio.sleep(0.05)
            for answer in (inbox.accept(waits), stuck, inbox.accept(late)):
                with pytest.raises(UnavailableError):
                    await asyncio.wait_for(answer, _SOONER_THAN_THE_DATABASE)
        outcome = await _accepted(inbox, late)
        await inbox.close()
        return outcome

    assert asyncio.run(deliver()) == "accepted"
    assert facts.event_rows("vs_3")


def test_what_the_database_did_not_take_is_stored_once_it_can_be_though_nothing_is_delivered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(intake, "_AGAIN_SECONDS", 0.01)

    async def deliver() -> None:
        inbox = Intake()
        with databases.locked(database_url), pytest.raises(UnavailableError):
            await inbox.accept(event("created"))
        async with asyncio.timeout(PATIENCE):
            while not facts.event_rows():
                await asyncio.sleep(0.01)
        await inbox.close()

    asyncio.run(deliver())


async def _accepted(inbox: Intake, said: VerificationEvent) -> str:
    while True:
        try:
            return await inbox.accept(said)
        except UnavailableError:
            await asyncio.sleep(0.01)
