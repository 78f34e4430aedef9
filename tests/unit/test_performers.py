"""A hanging mail server holds some of a worker's threads, never all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.outbox import perform
from tests.support.waiting import wait_until


def test_a_hanging_server_holds_only_some_threads_and_nothing_is_done_twice(environment: pytest.MonkeyPatch) -> None:
    go, inside, done = threading.Event(), threading.Semaphore(0), []

    def do(action_id: int) -> list[int]:
        inside.release()
        assert go.wait(20)
        done.append(action_id)
        return []

    environment.setattr(perform, "perform", do)
    performers = perform.Performers(lambda _: None, most=2)
    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(performers.perform, [number, number + 1]) for number in range(6)]
        wait_until(lambda: sum(task.done() for task in tasks) == 4)
        assert inside.acquire(timeout=5)
        assert inside.acquire(timeout=5)
        assert not inside.acquire(blocking=False)
        go.set()
    assert sorted(set(done)) == list(range(7))
    assert len(done) <= 7 + 2  # what somebody performs just now may be named once more, and its claim will refuse it
