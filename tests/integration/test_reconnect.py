"""A real Redis goes away under a real worker whose slots are all busy, so that nobody listens on its connection."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from config.defaults import redis_socket
from worker.consumer import celery_app
from worker.run.broker import OwnRedis, start_redis

ROOT = Path(__file__).parents[2]
SLOTS = 3
HELD = [f"held{number}" for number in range(SLOTS)]


class Scene:
    """A Redis, a worker whose slots are all held, and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis: OwnRedis = start_redis(folder)
        self.worker: subprocess.Popen[bytes] | None = None

    def start_worker(self) -> None:
        flags = ["--pool", "threads", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = ["-m", "celery", "-q", "--app", "tests.integration.held_worker", "worker", *flags]
        environment = {**os.environ, "REDIS_URL": self.redis.url, "VAR_DIR": str(self.folder), "LOG_FORMAT": "json"}
        with (self.folder / "worker.log").open("wb") as log:
            self.worker = subprocess.Popen(
                [sys.executable, *command, "--concurrency", str(SLOTS)], cwd=ROOT, env=environment, stderr=log
            )

    def hold_all_slots(self) -> None:
        for name in HELD:
            self.publish(name)
        wait_until(lambda: all(self.has(f"{name}.begun") for name in HELD))

    def let_go(self) -> None:
        """Lets the tasks end."""
        (self.folder / "go").touch()
        wait_until(lambda: all(self.has(f"{name}.ended") for name in HELD))
        time.sleep(3.0)  # an acknowledgement, right after, would be given up after two: before Redis is back

    def publish(self, name: str) -> None:
        with celery_app.connection_for_write(self.redis.url) as connection:
            celery_app.send_task("hold", args=[str(self.folder), name], queue="events", connection=connection)

    def kill_redis(self) -> None:
        with Redis(unix_socket_path=str(redis_socket(self.folder))) as client:
            assert client.exists("identity:unacked", "identity:unacked_index") == 0  # nothing that could fail later
        self.redis.process.kill()
        self.redis.stop()

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.redis.process.send_signal(signal.SIGCONT)
        self.redis.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.end()


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.processes
def test_a_busy_worker_works_on_after_redis_was_restarted(scene: Scene) -> None:
    scene.start_worker()
    scene.hold_all_slots()
    scene.kill_redis()
    scene.let_go()
    scene.redis = start_redis(scene.folder)
    scene.publish("afterwards")
    wait_until(lambda: scene.has("afterwards.ended"))


@pytest.mark.processes
def test_a_busy_worker_works_on_after_redis_was_frozen(scene: Scene) -> None:
    scene.start_worker()
    scene.hold_all_slots()
    scene.redis.process.send_signal(signal.SIGSTOP)
    scene.let_go()
    scene.redis.process.send_signal(signal.SIGCONT)
    scene.publish("afterwards")
    wait_until(lambda: scene.has("afterwards.ended"))
