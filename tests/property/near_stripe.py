"""The local Stripe within this process: no socket, no other process, and a time of its own that all clocks follow."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import event, text
from sqlalchemy.pool import Pool
from urllib3 import HTTPHeaderDict, exceptions

from config import database, inserts
from config.database import steady, transaction
from handlers.queue import calls
from handlers.queue.calls import Line, WholeAnswer
from handlers.sessions import turn
from handlers.stripe_api import changing
from tests.property.stepping import current, stand_still
from tests.simulator import app, endpoints, serve
from tests.simulator.store import Scope, Session
from tests.simulator.world import World
from tests.support import databases

KEY = "sk_test_simulator0000000000000000"
# The moment in config.database's words, and so much ahead.
_MOMENT = {
    "postgresql": "(SELECT clock_timestamp() + make_interval(secs => (SELECT seconds FROM ahead){}))",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', ahead(){})",
}
_SECONDS = {"postgresql": " + {}", "sqlite": ", printf('%+.3f seconds', {})"}
_ON_ITS_WAY = 3600.0  # seconds that a call is under way if it is to arrive late


@dataclass
class NearStripe:
    """The local Stripe's world, asked without a socket; all clocks are `ahead` by so many seconds."""

    world: World = field(default_factory=World)
    ahead: float = 0.0
    before: Callable[[str, str, Any], object] = lambda *_: None  # given a call's method, or LATE or DENIED

    def __post_init__(self) -> None:
        self._app = app.build(self.world)
        self._loop = asyncio.new_event_loop()
        self._loop.time = lambda: self._seconds  # type: ignore[method-assign]  # late calls wait for the test
        self._seconds = 0.0
        self._late: list[asyncio.Task[WholeAnswer]] = []
        self.world.settings.base = "http://near"

    def reset(self) -> None:
        """Forgets all objects and calls, and moves the time on beyond every quiet that was asked for."""
        self.arrive()
        self.world.store.clear()
        self.world.ledger.entries.clear()
        self.world.faults.faults.clear()
        self.world.settings.reset()
        self.world.settings.redaction_step = None
        policy = {"payload": "both", "hold": True}
        endpoints.register(self.world, Scope(), "http://us/", serve.EVERY_TYPE, connect=None, policy=policy)
        self.later(3600.0)  # no clock ever goes back

    def close(self) -> None:
        """Executes the late calls, and ends the loop."""
        self.arrive()
        self._loop.close()

    def later(self, seconds: float) -> None:
        """Moves the time on, everywhere."""
        self.ahead += seconds
        self.world.clock.offset = self.ahead
        here = datetime.now(UTC) + timedelta(seconds=self.ahead)
        database._reading = here - timedelta(seconds=database.steady())
        if databases.SERVER_URL:
            with transaction() as session:
                session.connection().execute(text("UPDATE ahead SET seconds = :seconds"), {"seconds": self.ahead})

    def arrive(self) -> None:
        """Executes the calls that were under way."""
        self._seconds += 2 * _ON_ITS_WAY
        if self._late:
            self._loop.run_until_complete(asyncio.gather(*self._late))
            self._late.clear()

    def sessions(self) -> list[Session]:
        """All sessions, in the order in which they were made."""
        return list(self.world.store.sessions.values())

    def exchange(
        self, _: Line, method: str, url: str, headers: Mapping[str, str], body: Any, *__: object
    ) -> WholeAnswer:
        """Stands in the place of Line._exchange: the test says what becomes of a call."""
        stepped = current()
        stand_still(f"{method} {urlsplit(url).path}")
        wanted = "as it is" if stepped is None else stepped.answer
        if stepped:
            stepped.answer = "as it is"
        if wanted == "never arrived":
            raise exceptions.ProtocolError
        if wanted == "on its way" and method.upper() == "POST":
            self.before("LATE", urlsplit(url).path, body)
            self.world.faults.add(delay=_ON_ITS_WAY)
            self._late.append(self._loop.create_task(self._ask(method, url, headers, body)))
            self._loop.run_until_complete(asyncio.sleep(0))
            while self.world.faults.faults and not self.world.faults.faults[0].hits:
                self._loop.run_until_complete(asyncio.sleep(0))
            self.world.faults.faults.clear()
            raise exceptions.TimeoutError
        faults: dict[str, dict[str, Any]] = {
            "500": {"status": 500},
            "500, saved": {"status": 500, "saved": True},
            "500, done": {"status": 500, "after": True},
            "500, done and saved": {"status": 500, "after": True, "saved": True},
            "429": {"status": 429},
        }
        if wanted == "not there" and method.upper() == "GET" and "_sessions/" in url:  # a replica's answer
            faults[wanted] = {"status": 404}
            self.before("DENIED", urlsplit(url).path, body)
        if wanted in faults:
            self.world.faults.add(**faults[wanted])
        self.before(method.upper(), urlsplit(url).path, body)
        answer = self._loop.run_until_complete(self._ask(method, url, headers, body))
        self.world.faults.faults.clear()
        stand_still(f"the answer to {method} {urlsplit(url).path}")
        if wanted == "lost":
            raise exceptions.TimeoutError
        return answer

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> WholeAnswer:
        parts, said = urlsplit(url), [body.encode() if isinstance(body, str) else body or b""]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method.upper(),
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), str(value).encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("near", 80),
        }
        answered: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": said.pop() if said else b"", "more_body": False}

        async def send(message: Any) -> None:
            answered.append(message)

        await self._app(scope, receive, send)
        start, *bodies = answered
        head = HTTPHeaderDict({name.decode(): value.decode() for name, value in start["headers"]})
        return WholeAnswer(start["status"], head, b"".join(one.get("body", b"") for one in bodies))


@contextmanager
def near_stripe() -> Iterator[NearStripe]:
    """Puts it and its clocks into use in this process, until the block ends; the database is set up before."""
    stripe = NearStripe()

    class Ahead:
        monotonic = staticmethod(lambda: time.monotonic() + stripe.ahead)

    def tell(connection: Any, _: object) -> None:
        if not databases.SERVER_URL:
            connection.create_function("ahead", 0, lambda: f"{stripe.ahead:+.3f} seconds")

    event.listen(Pool, "connect", tell)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STRIPE_API_BASE", stripe.world.settings.base)
            patch.setenv("STRIPE_API_KEY", KEY)
            patch.setattr(Line, "_exchange", lambda *arguments: stripe.exchange(*arguments))
            patch.setattr(calls, "time", Ahead)
            for module in (changing, turn):
                patch.setattr(module, "steady", lambda: steady() + stripe.ahead)
            dialect = "postgresql" if databases.SERVER_URL else "sqlite"
            for words, seconds in ((database.CLOCK, ""), (database._LATER, _SECONDS[dialect])):
                patch.setitem(words, dialect, _MOMENT[dialect].format(seconds))
            _forget()
            if databases.SERVER_URL:
                with transaction() as session:
                    session.connection().execute(text("CREATE TABLE ahead AS SELECT 0.0::float AS seconds"))
            yield stripe
    finally:
        event.remove(Pool, "connect", tell)
        stripe.close()
        _forget()


def _forget() -> None:
    """Forgets the statements that were compiled with the words for another clock."""
    databases.forget_process_state()
    inserts._statement.cache_clear()
    database._compiled.cache_clear()
