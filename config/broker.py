"""The broker: its address, and the publishing of event and action ids.

It publishes by kombu, whose messages a worker's Celery takes (worker/consumer.py): web need not load Celery.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import structlog
from kombu.connection import Connection
from kombu.exceptions import LimitExceeded
from kombu.pools import ProducerPool
from kombu.utils.scheduling import round_robin_cycle

from config.defaults import redis_url
from config.redis_server import Condition, RedisServer, read_redis_url, why_unusable
from config.settings import platform_signs, settings

IDS_PER_MESSAGE = 50  # a batch costs Redis what one id costs; more events would keep one worker thread too long
CLOCK_QUEUE = "clock"
EVENTS_QUEUE = "events"
ACTIONS_QUEUE = "outbox"
TICKS_WAITING = 10  # Redis does not drop expired messages: without a bound a stopped worker finds a day's worth
# Messages a queue, some 4 MB: so many wait only while no worker takes them, and Redis must not be full when one comes.
MOST_WAITING = 2000
# Messages: while more events wait, workers have enough to do, and more messages would only repeat them.
KEEPS_WORKERS_BUSY = 40
_NAMED_MS = 5_000  # a worker leaves its name each second
SILENT_SECONDS = 5.0  # without a try after a failure: the sweep publishes the ids that were left out

log = structlog.stdlib.get_logger(__name__)


class ClockFirst(round_robin_cycle):
    """The order of a worker's queues: the schedule passes any backlog, events and actions take turns.

    After a message of the schedule comes one of theirs: a worker with a slow Redis would take nothing but sweeps.
    """

    def consume(self, n: int) -> list[str]:
        """The queues in the order of asking: the first with a message gives it. The last of `items` gave one before."""
        queues = self.items[:n]
        return queues if queues[-1:] == [CLOCK_QUEUE] else sorted(queues, key=lambda queue: queue != CLOCK_QUEUE)


_REDIS_OPTIONS = {
    "global_keyprefix": "identity:",
    "priority_steps": [0],  # one list per queue instead of four
    "queue_order_strategy": ClockFirst,
    "ack_emulation": False,  # no note at Redis of a message in hand: the sweep names due rows again far sooner
    "socket_connect_timeout": 1,
    "socket_timeout": 2,  # a frozen Redis holds nobody longer; BRPOP waits in the worker's event loop, not here
    "socket_keepalive": True,
    "health_check_interval": 4,  # a BRPOP whose reply is later than this is given up; it is looked at as often
    "max_retries": 0,  # without it a refused connection is tried again for six seconds
}
_CONNECT_SECONDS = 3
_PRODUCERS = 2  # of one process; the smallest Redis plan has 20 connections
_FREE_WITHIN = 2  # seconds: a producer in use is given back, at the latest by the timeouts above


def publish_events(event_ids: Sequence[str]) -> bool:
    """Hands events to the workers. False when the broker could not be reached and the sweep must do it."""
    return _publish(EVENTS_QUEUE, "process_events", event_ids)


def publish_actions(action_ids: Sequence[int]) -> bool:
    """Hands owed actions to the workers. False when the broker could not be reached and the sweep must do it."""
    return _publish(ACTIONS_QUEUE, "perform_actions", action_ids)


# By what the ids are of.
PUBLISH: dict[str, Callable[[Sequence[Any]], bool]] = {"event": publish_events, "action": publish_actions}


def publish_tick(task_name: str, clock: Mapping[str, Any]) -> bool:
    """Asks a worker for one of the schedule's tasks, unless enough of them already wait for a worker to come back.

    The message names the clock that sends it, in a header that a worker of the version before does not read.
    """
    # A second sweep would find the same rows as the first; but the last one of a clock says that the clock ends.
    is_enough = task_name == "sweep" and not clock.get("is_ending")
    is_sent = False

    def send(producer: Any) -> None:
        nonlocal is_sent
        if _length(producer, CLOCK_QUEUE) < (1 if is_enough else TICKS_WAITING):
            _send(producer, CLOCK_QUEUE, task_name, [], clock=dict(clock))
            is_sent = True

    return _reached(send, is_patient=False) and is_sent  # a clock that is silent for seconds would be held for dead


def take_tick() -> bytes | None:
    """The clock's message that has waited longest, taken out of its queue; b"" for none, None without an answer."""
    taken: bytes | None = None

    def take(producer: Any) -> None:
        nonlocal taken
        taken = producer.channel.client.rpop(CLOCK_QUEUE) or b""

    _reached(take)
    return taken


def queue_length(queue: str) -> int:
    """Messages that wait for a worker; 0 also when the broker cannot be asked."""
    length = 0

    def count(producer: Any) -> None:
        nonlocal length
        length = _length(producer, queue)

    _reached(count)
    return length


def reachable() -> bool:
    """Whether the broker answers; a failure of the last seconds is believed without asking again."""
    return _reached(lambda producer: producer.channel)


def server() -> RedisServer:
    """The server that REDIS_URL names, or the embedded one."""
    url = settings().redis_url.get_secret_value() or redis_url(settings().var_dir)
    return read_redis_url(url, _REDIS_OPTIONS, self_signed=platform_signs())


def connected() -> Any:
    """A connection of kombu's, not open yet, for a caller that holds one by itself."""
    chosen = server().settings
    return Connection(  # type: ignore[no-untyped-call]  # kombu ships no types
        chosen["broker_url"],
        transport_options=chosen["broker_transport_options"],
        ssl=chosen["broker_use_ssl"],
        connect_timeout=_CONNECT_SECONDS,
    )


@cache
def producers() -> Any:
    """This process's producers; opened at their first use."""
    return ProducerPool(connected().Pool(_PRODUCERS), _PRODUCERS)  # type: ignore[no-untyped-call]


def say_whom_we_trust() -> None:
    """Logs at a process's start whether the server's certificate is verified; logs nothing without TLS."""
    ours = server()
    if not ours.is_trusted:
        log.warning("broker.not_verified", reached=ours.trust)
    elif ours.settings["broker_use_ssl"] is not None:
        log.info("broker.verified", reached=ours.trust)


def server_info() -> dict[str, Any]:
    """The Redis server's INFO and its setting `save`, also if it then refuses the commands of publishing."""
    found: dict[str, Any] = {}

    def ask(producer: Any) -> None:
        client = producer.channel.client
        client.ping()
        for ask in (client.info, partial(client.config_get, "save")):
            with suppress(Exception):  # some providers do not tell it, and not all users may ask
                found.update(ask())
        _try_out(producer)

    _reached(ask)
    return found


def condition() -> Condition:
    """The server's condition, asked now. A failure of the last seconds is believed."""
    info = server_info()
    return Condition(server(), info, trouble())


def trouble_now() -> str | None:
    """The reason why publishing fails now; None if it works. A failure of the last seconds is believed."""
    _reached(_try_out)
    return trouble()


def trouble() -> str | None:
    """The reason why this process's last use of the broker failed; None if it went well."""
    return _outage.reason


def exchange_names(mine: str) -> str | None:
    """The name that a worker has left here within seconds, in whose place it leaves `mine`."""
    left: list[bytes | None] = []

    def exchange(producer: Any) -> None:
        with suppress(Exception):  # an older server, or a user with few rights: our messages may pass all the same
            left.append(producer.channel.client.set("database", mine, px=_NAMED_MS, get=True))

    _reached(exchange)
    return left[0].decode() if left and left[0] else None


def _try_out(producer: Any) -> None:
    """Tries the commands that send and take a message, on keys of its own; and looks at our queues."""
    for queue in (CLOCK_QUEUE, EVENTS_QUEUE, ACTIONS_QUEUE):
        _length(producer, queue)
    with producer.channel.client.pipeline(transaction=False) as steps:
        steps.set("doctor", "", px=1000)
        steps.lpush("doctor.queue", "").brpop("doctor.queue", 1)
        steps.execute()


def _publish(queue: str, task_name: str, ids: Sequence[str] | Sequence[int]) -> bool:
    def send(producer: Any) -> None:
        waiting = _waiting[queue]
        if waiting.length >= MOST_WAITING:
            waiting.count(producer)
            if waiting.length >= MOST_WAITING:
                return
        for start in range(0, len(ids), IDS_PER_MESSAGE):
            _send(producer, queue, task_name, [list(ids[start : start + IDS_PER_MESSAGE])])
        waiting.count(producer)  # for the next message: one waits for no answer but its own

    return not ids or _reached(send)


class _Waiting:
    """The number of messages that wait in a queue; counted once a second."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._counted_at = 0.0
        self.length = 0

    def count(self, producer: Any) -> None:
        """Counts them, unless that was done within a second."""
        now = time.monotonic()
        if now - self._counted_at > 1.0:
            self._counted_at, self.length = now, _length(producer, self._queue)


_waiting = {queue: _Waiting(queue) for queue in (EVENTS_QUEUE, ACTIONS_QUEUE)}


def _length(producer: Any, queue: str) -> int:
    # Not a passive declare: kombu 5.7.0 forgets the key prefix in its EXISTS, and no queue ever exists.
    return int(producer.channel.queue_declare(queue).message_count)


def _send(producer: Any, queue: str, task_name: str, arguments: Sequence[object], **headers: object) -> None:
    """Publishes a message of Celery's protocol; a worker reads only its task, its arguments and its clock."""
    task = {"lang": "py", "task": task_name, "id": str(uuid.uuid4())}
    producer.publish([arguments, {}, {}], queue, headers=task | headers, serializer="json", retry=False)


def _reached(use: Callable[[Any], object], *, is_patient: bool = True) -> bool:
    """Whether `use` went through with a producer; never raises, never waits for more than the timeouts above."""
    if is_patient and time.monotonic() < _outage.silent_until:
        return False
    try:
        with producers().acquire(block=True, timeout=_FREE_WITHIN) as producer:
            # Another thread may just have found out, while this one waited for a producer.
            if is_patient and time.monotonic() < _outage.silent_until:
                return False
            use(producer)
    except LimitExceeded:  # the threads before us are served, though slowly: the broker is not away
        return False
    except Exception as error:  # kombu's, redis-py's or the server's: the sweep publishes the ids
        _outage.found(error)
        return False
    if _outage.reason is not None:
        _outage.ended()
    return True


class _Outage:
    """The broker's outage as this process knows it: logged when it begins or changes, and once when it ends."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._lock = threading.Lock()
        self.silent_until = 0.0

    def found(self, error: Exception) -> None:
        why = why_unusable(error)
        with self._lock:
            is_new, self.reason = self.reason != why, why
            self.silent_until = time.monotonic() + SILENT_SECONDS
        if is_new:
            log.warning("broker.unreachable", reason=why, error=type(error).__name__, silent_seconds=SILENT_SECONDS)

    def ended(self) -> None:
        with self._lock:
            was, self.reason = self.reason, None
            self.silent_until = 0.0
        if was:
            log.info("broker.recovered")


_outage = _Outage()
