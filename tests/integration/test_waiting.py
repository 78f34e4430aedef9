"""Waits for a verification, for Stripe or for the database are short, and hold up nobody else."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy import select
from sqlmodel import col

from config import database
from config.database import keep_connections, transaction
from handlers.queue.calls import Line
from handlers.sessions.turn import Turn, Wanted, give_back, take_turn
from handlers.tables.models import Verification
from receiver import threads
from receiver.api import routes
from tests.integration.stories import Stories
from tests.support import databases, facts, shapes
from tests.support.databases import unsynced
from tests.support.servers import running_receiver
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url", "stripe")

TOKEN = "t" * 32
MANY = 200


class Answer(NamedTuple):
    """The answer to one request."""

    status: int
    head: str
    content: Any


@pytest.fixture
def port(patient: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of our application, with the connections that web has."""
    patient.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)
    patient.setenv("API_TOKENS", f"shop:{TOKEN}")
    keep_connections(3, beside=1, apart=True)
    databases.forget_process_state()
    with unsynced(), running_receiver() as port:
        yield port


async def _ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    reader, writer = await _sent(port, method, path, body, **headers)
    answer = (await reader.read()).decode()
    writer.close()
    head, _, content = answer.partition("\r\n\r\n")
    return Answer(int(head.split()[1]), head.lower(), json.loads(content))


async def _sent(
    port: int, method: str, path: str, body: Any, **headers: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {
        "Host": "here",
        "Connection": "close",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
    await writer.drain()
    return reader, writer


async def _open(port: int, reference: str = "user-1") -> Answer:
    return await _ask(port, "POST", "/verifications", {"client_reference_id": reference, "type": "document"})


async def _delivered(port: int) -> Answer:
    body = shapes.as_body(facts.payload("created"))
    return await _ask(port, "POST", "/webhooks/stripe", body, Stripe_Signature=shapes.signature(body))


@contextmanager
def _elsewhere(reference: str = "user-1") -> Iterator[Turn]:
    """Lets another server open this person's verification, until the block ends."""
    wanted = Wanted(client_reference_id=reference, purpose="", account="", livemode=False, params={"type": "document"})
    turn = take_turn(wanted)
    assert turn is not None
    yield turn
    give_back(turn)


def test_hundreds_who_wait_for_one_opening_leave_room_for_everybody_else(
    port: int, stripe: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_WAITS_SECONDS", 60.0)  # no wait ends while we look

    async def look() -> None:
        waiting = [asyncio.create_task(_open(port)) for _ in range(MANY)]
        await asyncio.sleep(0)
        opened = await _open(port, "user-2")
        shown = await _ask(port, "GET", f"/verifications/{opened.content['id']}")
        entered = await _ask(port, "POST", f"/verifications/{opened.content['id']}/entry", {"integration": "redirect"})
        assert (opened.status, shown.status, entered.status) == (201, 200, 200)
        assert (await _delivered(port)).status == 200
        assert (await _ask(port, "GET", "/readyz")).status == 200
        assert not any(one.done() for one in waiting)
        stripe.simulator.fault(429, retry_after=600, count=None)  # the others are answered fast then
        give_back(turn)
        answers = await asyncio.gather(*waiting)
        assert {(one.status, one.content["code"]) for one in answers} == {(503, "stripe-unavailable")}

    with _elsewhere() as turn:
        asyncio.run(look())


def test_who_waits_gets_the_same_session(port: int, stripe: Stories) -> None:
    async def look() -> list[Answer]:
        waiting = [asyncio.create_task(_open(port)) for _ in range(20)]
        await _open(port, "user-2")
        give_back(turn)
        return await asyncio.gather(*waiting)

    with _elsewhere() as turn:
        answers = asyncio.run(look())
    assert sorted(one.status for one in answers) == [*[200] * 19, 201]
    assert len({one.content["session_id"] for one in answers}) == 1
    assert len(stripe.simulator.truth()["sessions"]) == 2


def test_who_has_waited_for_long_enough_is_told_to_come_again(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_WAITS_SECONDS", 0.3)

    async def look() -> list[Answer]:
        return await asyncio.gather(*(_open(port) for _ in range(5)))

    with _elsewhere():
        answers = asyncio.run(look())
    assert {(one.status, one.content["code"]) for one in answers} == {(503, "opening")}
    assert all("retry-after: 5" in one.head for one in answers)


def test_a_client_that_goes_away_does_not_stop_the_work(port: int, stripe: Stories) -> None:
    stripe.simulator.fault(delay=0.5, path="/v1/identity/verification_sessions", method="POST")

    async def leave() -> None:
        _, writer = await _sent(port, "POST", "/verifications", {"client_reference_id": "user-1", "type": "document"})
        while not stripe.simulator.faults()[0]["hits"]:
            await asyncio.sleep(0.01)
        writer.transport.abort()

    asyncio.run(leave())
    wait_until(lambda: _sessions() == [(one["id"], None) for one in stripe.simulator.truth()["sessions"]] != [])


def test_whoever_waits_for_stripe_keeps_nobody_from_what_needs_no_stripe(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_open(port, "shown"))
    with _held(monkeypatch, is_meant=lambda method, _: method == "post") as held:

        async def look() -> None:
            waiting = [asyncio.create_task(_open(port, f"user-{number}")) for number in range(routes._THREADS)]
            while held.count < routes._THREADS:
                await asyncio.sleep(0.01)
            assert (await _ask(port, "GET", "/verifications?client_reference_id=shown")).status == 200
            assert (await _delivered(port)).status == 200
            with monkeypatch.context() as patch:
                patch.setattr(threads, "WAITS_SECONDS", 0.3)
                one_more = await _open(port, "one more")
            assert (one_more.status, one_more.content["code"]) == (503, "stripe-unavailable")
            held.goes_on.set()
            assert {one.status for one in await asyncio.gather(*waiting)} == {201}

        asyncio.run(look())


class Held:
    """The calls to Stripe that stand still until they are let go on."""

    def __init__(self) -> None:
        self.count = 0
        self.goes_on = threading.Event()


@contextmanager
def _held(monkeypatch: pytest.MonkeyPatch, is_meant: Callable[[str, str], bool]) -> Iterator[Held]:
    held, exchange = Held(), Line._exchange

    def stand_still(line: Line, method: str, url: str, *rest: Any) -> Any:
        if is_meant(method, url):
            held.count += 1
            held.goes_on.wait()
        return exchange(line, method, url, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Line, "_exchange", stand_still)
        yield held
        held.goes_on.set()


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no locks on rows")
def test_an_opening_that_waits_for_a_lock_keeps_neither_health_nor_deliveries_waiting(
    port: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_APART_WAITS_SECONDS", 0.3)
    asyncio.run(_open(port))

    async def look(holder: psycopg.Connection[Any]) -> None:
        waiting = asyncio.create_task(_open(port))
        while not await asyncio.to_thread(_waits_for_lock, database_url):
            await asyncio.sleep(0.01)
        assert (await _ask(port, "GET", "/readyz")).status == 200
        assert (await _delivered(port)).status == 200
        shown = await _ask(port, "GET", "/verifications")
        assert (shown.status, shown.content["code"]) == (503, "database-unavailable")
        assert "retry-after: 5" in shown.head
        holder.rollback()
        assert (await waiting).status == 200

    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM verification FOR UPDATE")
        asyncio.run(look(holder))


def _waits_for_lock(database_url: str) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database_url) as connection:
        return connection.execute(waiting).fetchone() is not None


def _sessions() -> list[tuple[str | None, Any]]:
    with transaction() as session:
        rows = session.execute(select(col(Verification.session_id), col(Verification.opening_until)))
        return [tuple(row) for row in rows]
