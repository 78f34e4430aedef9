"""Faults at the moment when Stripe is asked for a session, and an opening has no transaction open."""

import os
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import sleep
from typing import Any

import psycopg
from sqlalchemy import or_, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from handlers.sessions.turn import OPENING_LEASE
from handlers.tables.models import Verification
from tests.chaos.faults import Fault, Scene
from tests.chaos.services import command_of, descendants, owner_of, wait_until
from tests.simulator.nonsense import KINDS
from tests.support import databases

_NAME = "asked"
_CREATION = "/v1/identity/verification_sessions$"
_ASKED_WITHIN = 8.0  # seconds; somebody opens nearly every second
_WRITTEN_WITHIN = 30.0
_IMPATIENT = "-c statement_timeout=8000 -c lock_timeout=8000"  # milliseconds: other faults hold the database up, too


@dataclass(frozen=True, slots=True)
class Asker:
    """The process that waits for Stripe's answer, and its verification."""

    pid: int
    verification_id: str


@contextmanager
def asked(scene: Scene, **trouble: object) -> Iterator[bool]:
    """Brings the next request for a session, if one comes, into this trouble; a hanging call goes on at the end."""
    scene.simulator.post("/faults", {"name": _NAME, "path": _CREATION, "method": "POST", **trouble})
    try:
        yield wait_until(lambda: bool(_callers(scene)), _ASKED_WITHIN)
    finally:
        scene.simulator.take_back(_NAME)


def let_leases_end(scene: Scene, died_at: datetime, verification_id: str | None = None) -> None:
    """Ends the leases of processes that are dead or stand still, and no others, as if their time had passed."""
    until = col(Verification.opening_until)
    shown = died_at + timedelta(seconds=scene.clock_ahead)
    # Later leases are those of the living; even later ones are from before the clock stepped back.
    latest = shown + OPENING_LEASE + timedelta(seconds=_WRITTEN_WITHIN)
    theirs = [or_(until <= shown + OPENING_LEASE, until > latest)]
    if verification_id:
        theirs.append(col(Verification.id) == verification_id)
    engine = databases.opened(scene.database)

    def is_written() -> bool:
        with suppress(DBAPIError), engine.begin() as connection:
            connection.execute(update(Verification).where(*theirs).values(opening_until=shown - OPENING_LEASE))
            return True
        return False

    wait_until(is_written, _WRITTEN_WITHIN)
    engine.dispose()


def kill_web(scene: Scene) -> datetime:
    """Kills all processes of web at once; returns the moment: all later leases are of living processes."""
    if "all" in scene.platform.dynos:
        scene.platform.dynos["all"].expect_end()
        for pid in _web(scene):
            _end(pid)
    for name in scene.platform.dynos:
        if name.startswith("web"):
            scene.platform.kill(name)
    return datetime.now(UTC)


def _kill_who_asks(trouble: Mapping[str, object], scene: Scene, _: random.Random) -> bool:
    with asked(scene, hang=True, **trouble) as came:
        if came:
            died_at = kill_web(scene)
    if came:
        let_leases_end(scene, died_at)
    return came


def _kill_it_alone(scene: Scene, dice: random.Random) -> bool:
    """Kills the process that asks, which leaves its lease behind; the other one lives, and so do its leases."""
    with asked(scene, hang=True, after=dice.random() < 0.5):
        if asker := _asker(scene):
            _end(asker.pid)
        return asker is not None


def _kill_before_it_is_written(scene: Scene, _: random.Random) -> bool:
    """Kills web when Stripe's answer has been read, and waits for its row."""
    with asked(scene, hang=True), suppress(psycopg.Error):
        if (asker := _asker(scene)) is None:
            return False
        with psycopg.connect(scene.database, connect_timeout=5, options=_IMPATIENT) as connection:
            connection.execute("SELECT FROM verification WHERE id = %s FOR UPDATE", [asker.verification_id])
            scene.simulator.take_back(_NAME)
            waits = "SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
            came = wait_until(lambda: connection.execute(waits).fetchone() is not None, _ASKED_WITHIN)
            died_at = kill_web(scene)
        let_leases_end(scene, died_at)
        return came
    return False


def _freeze_it(scene: Scene, dice: random.Random) -> bool:
    """Freezes the process that asks for longer than its lease: another one takes over, and then it goes on."""
    with asked(scene, hang=True, after=dice.random() < 0.5):
        if (asker := _asker(scene)) is None:
            return False
        os.kill(asker.pid, signal.SIGSTOP)
        let_leases_end(scene, datetime.now(UTC), asker.verification_id)
        if dice.random() < 0.5:  # Stripe makes the session meanwhile
            scene.simulator.take_back(_NAME)
        sleep(dice.uniform(scene.longest / 2, scene.longest))
        with suppress(ProcessLookupError):
            os.kill(asker.pid, signal.SIGCONT)
        return True


def _lose_answers(trouble: Mapping[str, object], scene: Scene, dice: random.Random) -> bool:
    """Loses the answers to the next few requests for a session."""
    with asked(scene, count=3, **trouble) as came:
        sleep(dice.uniform(0.5, 2.0))
        return came


def _answer_nonsense(scene: Scene, dice: random.Random) -> bool:
    return _lose_answers({"nonsense": dice.choice(sorted(KINDS))}, scene, dice)


def _forget_keys(scene: Scene, _: random.Random) -> bool:
    """Makes Stripe forget the keys after a session was made whose maker got no answer."""
    with asked(scene, status=500, after=True) as came:
        scene.simulator.forget_idempotency_keys()
        return came


def _callers(scene: Scene) -> list[Any]:
    return [one for fault in scene.simulator.faults() if fault["name"] == _NAME for one in fault["callers"]]


def _asker(scene: Scene) -> Asker | None:
    """The process whose request hangs."""
    for caller in _callers(scene):
        if pid := owner_of(caller["port"], _web(scene)):
            return Asker(pid, caller["idempotency_key"].split("-")[1])
    return None


def _web(scene: Scene) -> list[int]:
    """The pids of web's processes."""
    processes = [dyno.process for name, dyno in scene.platform.dynos.items() if name in ("web", "all")]
    pids = [pid for process in processes if process for pid in (process.pid, *descendants(process.pid))]
    return [pid for pid in pids if "all" not in scene.platform.dynos or "receiver" in command_of(pid)]


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


EMBEDDED: dict[str, Fault] = {
    "web killed before Stripe makes a session": partial(_kill_who_asks, {"status": 500}),
    "web killed while Stripe makes a session": partial(_kill_who_asks, {}),
    "web killed before Stripe's answer": partial(_kill_who_asks, {"after": True}),
    "Stripe makes a session and answers 500": partial(_lose_answers, {"status": 500, "after": True}),
    "Stripe makes a session and answers 500 for good": partial(
        _lose_answers, {"status": 500, "after": True, "saved": True}
    ),
    "Stripe makes no session and answers 500 for good": partial(_lose_answers, {"status": 500, "saved": True}),
    "Stripe makes a session and answers nonsense": _answer_nonsense,
    "Stripe makes a session late": partial(_lose_answers, {"delay": 4.0}),
    "Stripe makes a session, says nothing and forgets the key": _forget_keys,
}
ASKING: dict[str, Fault] = {
    **EMBEDDED,
    "web killed with Stripe's answer in its hands": _kill_before_it_is_written,
    "web process that asks Stripe killed alone": _kill_it_alone,
    "web process that asks Stripe frozen beyond its lease": _freeze_it,
}
