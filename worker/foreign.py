"""The guard against messages that no process of ours wrote: they are dropped before Celery sees them.

The facts (kombu 5.7.0, celery 5.7.0). Text that is no JSON, `[null]` and a limit that is a text raise in the worker's
event loop and end it. An envelope without an id makes the worker connect anew, and comes back by that. A message with
a time in the future stays in memory and unacknowledged, so that one worker after another gets it, for ever. An unknown
task is logged with all its content.

So BRPOP's answers are parsed here: each must hold the name of a task of ours, and its arguments.
Celery gets a new message of these two alone; of the rest of the old one, only a tick's clock is read. A dropped message
loses nothing: the sweep publishes due rows again. docs/decisions/0022 lists the kinds that were tried.
"""

import base64
import time
import uuid
from collections.abc import Mapping
from typing import Any, get_type_hints

import orjson
import structlog
from celery import bootsteps
from kombu.transport.redis import Channel
from pydantic import TypeAdapter

from config.broker import CLOCK_QUEUE, take_tick
from handlers.metrics.counting import DROPPED_MESSAGES
from handlers.metrics.heartbeats import hear, listened

_MOST_BYTES = 65_536  # of a message: four times one with the longest ids
_SAYS_EVERY = 10.0  # seconds between two lines in the log: thousands may be dropped, and the metric counts each

log = structlog.stdlib.get_logger(__name__)

_read_at = time.monotonic()

Arguments = Mapping[str, TypeAdapter[Any]]


class ForeignGuard(bootsteps.StartStopStep):  # type: ignore[misc]  # its base is untyped
    """A step of the consumer: it reads the messages of its channel before kombu does, as long as the channel lives."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self.arguments = arguments_of(consumer.app.tasks)
        self._said_at = -_SAYS_EVERY
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Puts itself before kombu's reading of messages."""
        client = consumer.task_consumer.channel.client
        read = client.parse_response

        def read_ours(connection: Any, command_name: str, **options: Any) -> Any:
            global _read_at
            answer = read(connection, command_name, **options)
            if command_name != "BRPOP":
                return answer
            _read_at = time.monotonic()
            if not answer or not answer[0].endswith(CLOCK_QUEUE.encode()):  # the clock's queue is looked into first
                listened()
            if not answer:
                return answer
            queue, text = answer
            message = made_anew(text, queue.decode(), self.arguments)
            if message is None:
                self.count(queue.decode(), len(text))
            return message and (queue, message)  # kombu reads None when nothing came

        client.parse_response = read_ours

    def count(self, queue: str, size: int) -> None:
        """Counts a dropped message."""
        DROPPED_MESSAGES.labels(queue).inc()
        if time.monotonic() - self._said_at >= _SAYS_EVERY:
            self._said_at = time.monotonic()
            log.warning("message.dropped", queue=queue, bytes=size)


# A message in hand is put back neither at the end of its connection nor of its worker: docs/decisions/0041.
Channel.do_restore = False


def arguments_of(tasks: Mapping[str, Any]) -> Arguments:
    """The types of each task's arguments, by the task's name; a dot in the name is the mark of Celery's own tasks."""
    found: dict[str, TypeAdapter[Any]] = {}
    for name, task in tasks.items():
        if "." not in name:
            hints = get_type_hints(task.run, include_extras=True)
            takes: Any = tuple.__class_getitem__(tuple(of for argument, of in hints.items() if argument != "return"))
            found[name] = TypeAdapter(takes)
    return found


def unread_for() -> float:
    """The seconds since this worker has read messages: while all of its threads have one, it reads none."""
    return time.monotonic() - _read_at


def hear_waiting(arguments: Arguments) -> str:
    """Takes the tick that waits, and hears its clock; returns its task, or "" for none."""
    if (text := take_tick()) == b"":
        listened()
    message = made_anew(text, CLOCK_QUEUE, arguments) if text else None
    return str(orjson.loads(message)["headers"]["task"]) if message else ""


def made_anew(text: bytes, queue: str, arguments: Arguments) -> bytes | None:
    """A new message with the task and the arguments of this one; None if one of the two is missing or wrong."""
    if len(text) > _MOST_BYTES:
        return None
    try:
        envelope = orjson.loads(text)
        headers = envelope["headers"]
        task = headers["task"]
        given = orjson.loads(base64.b64decode(envelope["body"], validate=True))[0]
        body = [arguments[task].validate_json(orjson.dumps(given), strict=True), {}, {}]
        clock = headers.get("clock")
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    if clock is not None:
        hear(clock)
    identity = str(uuid.uuid4())
    return orjson.dumps(
        {
            "body": base64.b64encode(orjson.dumps(body)).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": task, "id": identity},
            "properties": {
                "correlation_id": identity,
                "delivery_tag": identity,
                "body_encoding": "base64",
                "priority": 0,
                "delivery_info": {"exchange": "", "routing_key": queue},
            },
        }
    )
