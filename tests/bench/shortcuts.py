"""The shortcuts of the service in the bench alone, and never anywhere else: each breaks a promise.

python -m tests.bench.shortcuts unsynced|unstored: a web process whose database confirms commits before it flushes
them, or that answers before it has stored anything. `ends ACTIONS BATCHES`: performs mails in batches, in turn with the
service's ends and with all ends of a batch in one transaction; prints the milliseconds an action as JSON.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import orjson

from config import postgres
from config.database import engine, keep_connections
from config.logs import configure_logging
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox import perform as outbox
from handlers.record.events import VerificationEvent, parse
from receiver import __main__ as web
from receiver.webhooks.intake import Intake
from tests.bench import load

UNSYNCED, UNSTORED, ENDS = "unsynced", "unstored", "ends"


def main() -> None:
    """Serves, or performs mails."""
    name, *numbers = sys.argv[1:]
    if name == ENDS:
        configure_logging()  # to standard error
        keep_connections(2)  # the one that is held, and one for a claim
        json.dump(_mailed(*map(int, numbers)), sys.stdout)
        return
    sys.argv[1:] = []
    if name == UNSYNCED:
        postgres._OURS["synchronous_commit"] = "off"
    else:
        patch.object(Intake, "accept", _accept).start()
    sys.exit(web.main())


async def _accept(intake: Intake, event: VerificationEvent) -> str:
    intake._waiting.append((event, intake._loop.create_future()))
    intake._wake.set()
    return "accepted"


def _mailed(actions: int, batches: int) -> dict[str, list[float]]:
    """The milliseconds an action of each batch, without the first of each way, which opens connections and compiles."""
    took: dict[str, list[float]] = {"kept": [], "left out": []}
    for number in range(2 * batches + 2):
        owed = _owed(f"P{number}x", actions)
        is_kept = number % 4 in (0, 3)  # the first of a pair is another one each time
        with nullcontext() if is_kept else _one_transaction():
            began = time.perf_counter()
            outbox.perform(*owed)
        took["kept" if is_kept else "left out"].append((time.perf_counter() - began) * 1000 / len(owed))
    return {name: some[1:] for name, some in took.items()}


def _owed(tag: str, actions: int) -> list[int]:
    bodies = (request.partition(b"\r\n\r\n")[2] for _, request in load.deliveries(tag, actions, story=("verified",)))
    events = [one for one in (parse(orjson.loads(body)) for body in bodies) if isinstance(one, VerificationEvent)]
    receive(events)
    return process([one.id for one in events])


@contextmanager
def _one_transaction() -> Iterator[None]:
    """Gives perform one connection for all its statements, and commits only after the last."""
    with engine().begin() as connection:
        driver = connection.connection.driver_connection
        with (
            patch.object(outbox, "statement", lambda: nullcontext(connection)),
            patch.object(outbox, "past_sqlalchemy", lambda: nullcontext(driver)),
        ):
            yield


if __name__ == "__main__":
    main()
