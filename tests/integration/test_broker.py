"""Publishing never raises and never waits long, whatever Redis does; these tests use a real Redis."""

import base64
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import update

from config import broker
from config.broker import (
    ACTIONS_QUEUE,
    CLOCK_QUEUE,
    EVENTS_QUEUE,
    connected,
    publish_actions,
    publish_events,
    publish_tick,
    queue_length,
    reachable,
)
from config.database import now, transaction
from config.redis_server import read_redis_url
from handlers.inbox.receive import receive
from handlers.metrics import heartbeats
from handlers.queue import failures
from handlers.tables.models import InboxEvent
from tests.support import databases, facts
from tests.support.waiting import wait_until
from worker import app, foreign, tasks
from worker.consumer import celery_app
from worker.run.broker import OwnRedis, start_redis


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnRedis]:
    """An embedded Redis that this process publishes to; a failure is forgotten at once."""
    monkeypatch.setattr(broker, "_outage", broker._Outage())
    monkeypatch.setattr(broker, "SILENT_SECONDS", 0.0)
    for queue in (EVENTS_QUEUE, ACTIONS_QUEUE):
        monkeypatch.setitem(broker._waiting, queue, broker._Waiting(queue))
    server = start_redis(tmp_path)
    monkeypatch.setattr(broker, "server", lambda: read_redis_url(server.url, broker._REDIS_OPTIONS, self_signed=False))
    broker.producers.cache_clear()
    yield server
    broker.producers.cache_clear()
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.mark.usefixtures("server")
def test_a_worker_whose_threads_are_all_at_work_hears_the_clock_and_keeps_the_schedule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    databases.forget_process_state()
    monkeypatch.setattr(failures, "stopping", threading.Event())
    monkeypatch.setattr(foreign, "_read_at", -9.0)
    said = {"name": "clock here 1", "version": "1", "host": "here", "age_seconds": 9.0, "is_ending": False}
    assert publish_tick("remind", said)
    assert not publish_tick("sweep", said)
    listening = threading.Thread(target=app._listen)
    listening.start()
    try:
        wait_until(lambda: publish_tick("sweep", said))
        wait_until(lambda: heartbeats._process.listened)
        assert list(heartbeats._process.heard) == ["clock here 1"]
        assert queue_length(CLOCK_QUEUE) == 0
        monkeypatch.setattr(foreign, "_read_at", math.inf)
        wait_until(lambda: queue_length(CLOCK_QUEUE) == 1)  # the reminders, and no sweep
        databases.forget_process_state()
        assert foreign.hear_waiting(foreign.arguments_of(celery_app.tasks)) == "remind"
        assert not heartbeats._process.heard  # the clock's word of some time ago
    finally:
        failures.stopping.set()
        listening.join()


def test_a_clocks_silence_is_not_heard_where_redis_does_not_answer(server: OwnRedis) -> None:
    databases.forget_process_state()
    server.process.kill()
    server.process.wait()
    assert foreign.hear_waiting(foreign.arguments_of(celery_app.tasks)) == ""
    assert heartbeats._process.listened is None


@pytest.mark.usefixtures("server")
def test_ids_travel_in_batches_by_queue() -> None:
    assert publish_events([])
    assert queue_length(EVENTS_QUEUE) == 0
    assert publish_events([f"evt_{number}" for number in range(120)])
    assert publish_actions(range(120))
    assert [queue_length(queue) for queue in (EVENTS_QUEUE, ACTIONS_QUEUE, CLOCK_QUEUE)] == [3, 3, 0]


@pytest.mark.usefixtures("server")
def test_a_stopped_worker_does_not_let_redis_fill_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that comes back would find a Redis without memory, and could take nothing from it."""
    monkeypatch.setattr(broker, "MOST_WAITING", 3)
    assert publish_events([f"evt_{number}" for number in range(200)])
    assert publish_actions(range(200))
    _a_second_later()
    for _ in range(10):
        publish_events(["evt_1"])
        publish_actions([1])
    assert [queue_length(queue) for queue in (EVENTS_QUEUE, ACTIONS_QUEUE)] == [4, 4]
    with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
        client.flushall()
    publish_events(["evt_1"])
    assert queue_length(EVENTS_QUEUE) == 0  # counted a moment ago
    _a_second_later()
    publish_events(["evt_1"])
    assert queue_length(EVENTS_QUEUE) == 1


@pytest.mark.usefixtures("server")
def test_events_and_actions_take_turns_and_the_schedule_passes_both() -> None:
    """However many messages of one kind wait, the next but one is of the other kind, and behind one of the schedule's
    comes one of theirs."""
    assert publish_events([f"evt_{number}" for number in range(300)])
    assert publish_actions(range(150))
    taken: list[str] = []

    def take(_: object, message: Any) -> None:
        taken.append(message.headers["task"])
        message.ack()
        if len(taken) == 3:
            assert all(publish_tick(task, {}) for task in ("sweep", "remind"))

    with (
        connected() as connection,
        celery_app.amqp.TaskConsumer(connection.default_channel, callbacks=[take], accept=["json"]) as consumer,
    ):
        consumer.qos(prefetch_count=1)
        while len(taken) < 11:
            connection.drain_events(timeout=5)
    first, second = (number for number, task in enumerate(taken) if task in ("sweep", "remind"))
    assert first in (3, 4)  # another one may have been taken already
    assert second == first + 2
    theirs = [task for task in taken if task not in ("sweep", "remind")]
    assert theirs in (
        ["process_events", "perform_actions"] * 3 + ["process_events"] * 3,
        ["perform_actions", "process_events"] * 3 + ["process_events"] * 3,
    )


def _a_second_later() -> None:
    for waiting in broker._waiting.values():
        waiting._counted_at = 0.0


@pytest.mark.usefixtures("server")
def test_a_message_is_readable_and_holds_ids_only(tmp_path: Path) -> None:
    publish_events(["evt_1", "evt_2"])
    with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock"), decode_responses=True) as client:
        (message,) = client.lrange("identity:events", 0, -1)
    envelope = json.loads(str(message))
    assert envelope["headers"]["task"] == "process_events"
    assert json.loads(base64.b64decode(envelope["body"]))[:2] == [[["evt_1", "evt_2"]], {}]


@pytest.mark.usefixtures("server")
def test_ticks_do_not_pile_up_while_no_worker_runs() -> None:
    sent = [publish_tick("remind", {}) for _ in range(30)]
    assert sent == [True] * broker.TICKS_WAITING + [False] * (30 - broker.TICKS_WAITING)
    assert queue_length(CLOCK_QUEUE) == broker.TICKS_WAITING


@pytest.mark.usefixtures("server")
def test_one_sweep_waits_at_most_but_for_the_last_one_of_a_clock() -> None:
    """With a slow Redis, where each message takes a second, sweeps would be the only messages taken."""
    assert [publish_tick("sweep", {"is_ending": False}) for _ in range(3)] == [True, False, False]
    assert publish_tick("sweep", {"is_ending": True})


@pytest.mark.usefixtures("server", "database_url")
def test_what_may_be_among_the_messages_that_wait_is_not_named_again_at_once(tmp_path: Path) -> None:
    receive([facts.event("created")])
    assert publish_events(["evt_1"])
    _due_since(timedelta(seconds=3))
    tasks.sweep()
    assert queue_length(EVENTS_QUEUE) == 1
    with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
        client.flushall()
    tasks.sweep()
    assert queue_length(EVENTS_QUEUE) == 1
    _due_since(timedelta(minutes=1))
    tasks.sweep()
    assert queue_length(EVENTS_QUEUE) == 2


def _due_since(span: timedelta) -> None:
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(due_at=now(-span)))


def test_a_frozen_redis_costs_one_timeout_and_then_nothing(server: OwnRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publish_events(["evt_1"])
    monkeypatch.setattr(broker, "SILENT_SECONDS", 60.0)
    server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert not publish_events(["evt_2"])
    one_timeout = time.monotonic() - began
    began = time.monotonic()
    assert not publish_events(["evt_3"])
    assert not publish_actions([1])
    assert queue_length(EVENTS_QUEUE) == 0
    assert not reachable()
    assert time.monotonic() - began < one_timeout


def test_a_restarted_redis_is_published_to_again(server: OwnRedis, tmp_path: Path) -> None:
    assert publish_events(["evt_1"])
    server.process.kill()
    server.process.wait()
    assert not publish_events(["evt_2"])
    assert not reachable()
    os.close(server._lock)
    server.__dict__.update(start_redis(tmp_path).__dict__)
    assert reachable()
    assert publish_events(["evt_3"])


@pytest.mark.usefixtures("server")
def test_a_full_redis_is_an_outage_too(tmp_path: Path) -> None:
    with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
        client.config_set("maxmemory", 1)
    assert not publish_events(["evt_1"])
