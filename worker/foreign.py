"""The guard against messages that none of ours wrote: they are dropped before Celery sees them.

What the world does (kombu 5.7.0, celery 5.7.0). Text that is no JSON, `[null]` or a limit that is a text raise in the
worker's event loop and end it; an envelope without an id makes it connect anew, and is back by that. A time of the
future keeps a message in memory and unacknowledged, so that one worker after another gets it, for ever. An unknown task
is logged with all it holds.

So what BRPOP brings is parsed here: the name of a task of ours, and the arguments it takes. Celery gets a message made
anew from these two, and whatever else the old one said is heard by nobody, but for the clock that a tick names. Nothing
is lost with a message that is dropped: what is due the sweep publishes again. docs/decisions/0022 has the kinds that
were tried.
"""

import base64
import time
import uuid
from collections.abc import Mapping
from typing import Any, get_type_hints

import orjson
import structlog
from celery import bootsteps
from pydantic import TypeAdapter

from config.broker import CLOCK_QUEUE
from handlers.metrics.counting import DROPPED_MESSAGES
from handlers.metrics.heartbeats import hear, listened

_MOST_BYTES = 65_536  # four times what the longest ids come to
_SAYS_EVERY = 10.0  # seconds: there may be thousands, and the metric counts each

log = structlog.stdlib.get_logger(__name__)

Arguments = Mapping[str, TypeAdapter[Any]]


class ForeignGuard(bootsteps.StartStopStep):  # type: ignore[misc]  # its base is untyped
    """A step of the consumer: reads what its channel is sent, for as long as there is the channel."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._arguments = arguments_of(consumer.app.tasks)
        self._said_at = -_SAYS_EVERY
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Reads before kombu does, and what it kept unacknowledged as well."""
        client, kept = consumer.task_consumer.channel.client, consumer.task_consumer.channel.qos
        read, put_back = client.parse_response, kept.restore_by_tag

        def read_ours(connection: Any, command_name: str, **options: Any) -> Any:
            answer = read(connection, command_name, **options)
            if command_name != "BRPOP":
                return answer
            if not answer or not answer[0].endswith(CLOCK_QUEUE.encode()):  # the clock's is looked into first
                listened()
            if not answer:
                return answer
            queue, text = answer
            message = made_anew(text, queue.decode(), self._arguments)
            if message is None:
                self._count(queue.decode(), len(text))
            return message and (queue, message)  # None is what kombu reads when nothing came

        def put_back_ours(tag: Any, *arguments: Any, **options: Any) -> None:
            try:
                put_back(tag, *arguments, **options)
            except (TypeError, ValueError):  # it would be tried first each time, and keep the others there
                kept._remove_from_indices(tag).execute()
                self._count("unacked", 0)

        client.parse_response, kept.restore_by_tag = read_ours, put_back_ours

    def _count(self, queue: str, size: int) -> None:
        DROPPED_MESSAGES.labels(queue).inc()
        if time.monotonic() - self._said_at >= _SAYS_EVERY:
            self._said_at = time.monotonic()
            log.warning("message.dropped", queue=queue, bytes=size)


def arguments_of(tasks: Mapping[str, Any]) -> Arguments:
    """What each task of ours takes, by its name; Celery's own have a dot in theirs."""
    found: dict[str, TypeAdapter[Any]] = {}
    for name, task in tasks.items():
        if "." not in name:
            hints = get_type_hints(task.run, include_extras=True)
            takes: Any = tuple.__class_getitem__(tuple(of for argument, of in hints.items() if argument != "return"))
            found[name] = TypeAdapter(takes)
    return found


def made_anew(text: bytes, queue: str, arguments: Arguments) -> bytes | None:
    """The message with nothing in it but a task and its arguments; None where it does not name both."""
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
