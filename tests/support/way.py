"""The way of one event: `make way` prints the files and functions of ours that one `verified` passes, in order.

One process does all of it, from the POST to the mail, on SQLite and an embedded Redis; the interpreter's own profiler
records Python's calls. An earlier event has opened connections and compiled statements. Of some events, the shortest
way counts: a busy machine only adds calls.
"""

import asyncio
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from config import broker
from config.broker import SILENT_SECONDS
from config.logs import configure_logging
from handlers.tables.schema import migrate
from receiver.app import app
from tests.support import shapes
from tests.support.waiting import PATIENCE, wait_until
from worker.app import celery_app
from worker.run.broker import start_redis

ROOT = Path(__file__).parents[2]
_OURS = tuple(f"{ROOT}/{package}/" for package in ("config", "handlers", "receiver", "worker"))
_INNER = ("comp>", "expr>")
MOST_FILES, MOST_FUNCTIONS, MOST_CHANGES = 18, 95, 65  # nobody follows a longer way
_EVENTS = 8


@dataclass
class Way:
    """Every call of a function of ours, in the order of the calls, of all threads."""

    calls: list[tuple[str, str]] = field(default_factory=list)  # file, function

    @property
    def files(self) -> list[str]:
        """Each file once, in the order of arrival."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def functions(self) -> list[tuple[str, str]]:
        """Each function once, in the order of arrival."""
        return list(dict.fromkeys(self.calls))

    @property
    def changes(self) -> int:
        """The number of calls that are of another file than the call before."""
        return sum(one[0] != other[0] for one, other in zip(self.calls, self.calls[1:], strict=False))


class _Recorder:
    """Notes the calls of all threads that start after it, while it has a way to note them in."""

    def __init__(self) -> None:
        self.way: Way | None = None
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def end(self) -> None:
        """Ends the recording."""
        threading.setprofile(None)
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        # Nobody goes to a comprehension, nor to the code that Jinja makes of a template.
        if self.way and event == "call" and file.startswith(_OURS) and file.endswith(".py") and name[-5:] not in _INNER:
            self.way.calls.append((file.removeprefix(f"{ROOT}/"), name))


def walk() -> Way:
    """Posts one event, works off the messages that it publishes, and returns its way."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"VAR_DIR": folder, "STRIPE_WEBHOOK_SECRET": shapes.SECRET, "LOG_LEVEL": "error"}
        os.environ |= {"EMAIL_LOOKUP": "tests.support.lookups:everybody"}
        server = start_redis(Path(folder))
        try:
            configure_logging()
            migrate()
            recorder = _Recorder()
            ways = asyncio.run(_deliver(Path(folder), recorder))
            recorder.end()
            return min(ways, key=lambda way: (len(way.functions), way.changes))
        finally:
            server.stop()


async def _deliver(folder: Path, recorder: _Recorder) -> list[Way]:
    ways = [Way() for _ in range(_EVENTS)]
    async with app.router.lifespan_context(app):
        await _one_event("vs_before", folder)
        for queue in broker._waiting.values():  # an ordinary event does not pass this look, once a second
            queue._counted_at = time.monotonic() + PATIENCE
        for number, recorder.way in enumerate(ways):
            await _one_event(f"vs_{number}", folder)
        recorder.way = None
    assert len(list((folder / "mail").glob("*.eml"))) == 1 + _EVENTS, "the events sent no mail"
    return ways


async def _one_event(session_id: str, folder: Path) -> None:
    about = shapes.session(session_id, "verified", report=f"vr_{session_id}")
    body = shapes.as_body(shapes.event(f"evt_{session_id}", "verified", int(time.time()), about))
    headers = [(b"stripe-signature", shapes.signature(body).encode()), (b"content-length", b"%d" % len(body))]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        assert message.get("status", 200) == 200

    await app({"type": "http", "method": "POST", "path": "/webhooks/stripe", "headers": headers}, receive, send)
    await asyncio.to_thread(_work_off, "events")
    await asyncio.to_thread(wait_until, partial(_is_done, folder, session_id))


def _is_done(folder: Path, session_id: str) -> bool:
    """Whether the worker's threads have written that the mail is done."""
    with closing(sqlite3.connect(folder / "identity.db")) as database:
        query = "SELECT 1 FROM outbox_action WHERE session_id = ? AND status = 'done'"
        return database.execute(query, [session_id]).fetchone() is not None


@cache
def _connected() -> Any:
    """A connection to the broker, made before the first event, as a worker's."""
    return broker.connected()


def _work_off(queue: str) -> None:
    """Performs the next message, as a worker does; if the broker was too slow, a sweep publishes it again."""
    deadline = time.monotonic() + PATIENCE
    channel = _connected().default_channel
    while (message := channel.basic_get(queue)) is None:
        assert time.monotonic() < deadline, f"nothing was published to {queue}"
        if broker._outage.reason:  # read without a call: the recorder would note it for the event
            time.sleep(SILENT_SECONDS)
            celery_app.tasks["sweep"]()
        time.sleep(0.01)
    message.ack()
    celery_app.tasks[message.headers["task"]](*message.decode()[0])


def main() -> int:
    """Prints the way; returns 1 if it is too long."""
    way = walk()
    for file in way.files:
        functions = ", ".join(name for other, name in way.functions if other == file)
        print(f"{file}: {functions}")
    print(f"{len(way.files)} files, {len(way.functions)} functions, {way.changes} changes of file")
    is_short = len(way.files) <= MOST_FILES and len(way.functions) <= MOST_FUNCTIONS and way.changes <= MOST_CHANGES
    return 0 if is_short else 1


if __name__ == "__main__":
    sys.exit(main())
