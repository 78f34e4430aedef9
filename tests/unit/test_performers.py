"""Each destination of actions has threads of its own: a silent one holds up no other."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from config.database import true_now
from handlers.metrics import heartbeats
from handlers.outbox import perform
from handlers.outbox.perform import Performers
from tests.support.waiting import wait_until


class Outside:
    """The threads' work, in the place of perform(): it holds them until the test lets them go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.together: list[tuple[int, ...]] = []
        self.begun: list[int] = []
        self.done: list[int] = []
        self.waits: list[float] = []
        self.answers: Callable[[int], bool] = lambda _: True

    def __call__(
        self, *action_ids: int, begun: Callable[[], object], answered: Callable[[bool], object], **_: object
    ) -> list[int]:
        self.together.append(action_ids)
        for action_id in action_ids:
            begun()
            self.begun.append(action_id)
            assert self.go.wait(20)
            answered(self.answers(action_id))
            self.done.append(action_id)
        return []


@pytest.fixture
def outside(environment: pytest.MonkeyPatch) -> Outside:
    outside = Outside()
    environment.setattr(perform, "perform", outside)
    return outside


@pytest.fixture
def performers(environment: pytest.MonkeyPatch, outside: Outside) -> Iterator[Performers]:
    """Performers with two threads a destination; ids below 100 are mails, the others calls of the application."""
    stopping = _Stopping(outside.waits)
    environment.setattr(perform, "stopping", stopping)
    environment.setattr(perform, "statement", _Names)
    performers = Performers(lambda _: None, lambda _: None, most=2)
    yield performers
    stopping.set()
    outside.go.set()
    performers.end()


class _Stopping(threading.Event):
    """An event that counts the threads which wait for it."""

    def __init__(self, waits: list[float]) -> None:
        super().__init__()
        self._waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self._waits.append(timeout or 0.0)
        return super().wait(timeout)


class _Names:
    """A database that knows the kind of each action, and since when it is owed."""

    since = true_now()
    given_again: ClassVar[dict[int, str]] = {}  # the sessions of numbers that a failover has lost

    def __enter__(self) -> "_Names":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, _: object, parameters: dict[str, Any]) -> Any:
        for n in parameters["ids"]:
            name, session_id = ("email_verified", f"vs_{n}") if n < 100 else ("notify_app", f"vs_{n % 50}")
            whose = self.given_again.get(n, session_id)
            yield SimpleNamespace(id=n, name=name, session_id=whose, was_tried=n % 10 == 9, created_at=self.since)


def test_a_destination_that_hangs_holds_its_own_threads_alone(performers: Performers, outside: Outside) -> None:
    performers.perform(range(100, 110))
    wait_until(lambda: len(outside.begun) == 2)
    performers.perform(range(10))
    wait_until(lambda: len(outside.begun) == 4)
    assert sorted(outside.begun) == [0, 1, 100, 101]


def test_no_two_of_one_session_are_at_the_same_destination_at_once(performers: Performers, outside: Outside) -> None:
    performers.perform([100, 150, 200, 101])
    wait_until(lambda: len(outside.begun) == 2)
    assert sorted(outside.begun) == [100, 101]
    outside.go.set()
    wait_until(lambda: len(outside.done) == 4)
    assert [one for one in outside.done if one % 50 == 0] == [100, 150, 200]


def test_a_number_that_a_failover_gave_again_keeps_back_no_later_action_of_its_session(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    performers.perform([100])
    wait_until(lambda: outside.begun == [100])
    environment.setattr(_Names, "given_again", {100: "vs_7"})
    performers.perform([100])
    wait_until(lambda: outside.begun == [100, 100])
    outside.go.set()
    performers.perform([107, 108])
    wait_until(lambda: {107, 108} <= set(outside.done))


def test_what_was_tried_before_is_alone_and_the_others_are_together_as_soon_as_they_are_quick(
    performers: Performers, outside: Outside
) -> None:
    outside.go.set()
    performers.perform(range(100, 150))
    wait_until(lambda: len(outside.done) == 50)
    performers.perform(range(50))
    wait_until(lambda: len(outside.done) == 100)
    assert max(len(some) for some in outside.together) > 1
    assert all(len(some) == 1 for some in outside.together if any(one % 10 == 9 for one in some))


def test_everything_is_done_once_and_in_its_order(performers: Performers, outside: Outside) -> None:
    for _ in range(3):
        performers.perform(range(10))
    outside.go.set()
    wait_until(lambda: len(outside.done) >= 10)
    assert sorted(set(outside.done)) == list(range(10))
    assert len(outside.done) <= 10 + 2  # an action that is under way may be named once more: its claim refuses it


def test_who_does_not_answer_is_left_alone_and_tried_by_one_at_a_time(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(perform, "_QUIET_SECONDS", 3600.0)
    environment.setattr(perform, "_MOST_QUIET_SECONDS", 3600.0)
    outside.answers = lambda action_id: action_id < 100
    outside.go.set()
    performers.perform(range(100, 110))
    wait_until(lambda: performers.engaged() == ["notify_app"])
    performers.perform(range(10))
    wait_until(lambda: len([one for one in outside.done if one < 100]) == 10)
    assert len([one for one in outside.done if one >= 100]) <= 2


def test_who_answers_again_is_given_all_that_has_waited(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(perform, "_QUIET_SECONDS", 0.01)
    environment.setattr(perform, "_MOST_QUIET_SECONDS", 0.02)
    outside.answers = lambda _: len(outside.done) > 4
    outside.go.set()
    performers.perform(range(100, 120))
    wait_until(lambda: len(outside.done) == 20)
    assert performers.engaged() == []


def test_what_was_given_back_or_is_owed_no_more_says_nothing_of_the_pace(
    performers: Performers, environment: pytest.MonkeyPatch
) -> None:
    together: list[int] = []

    def nothing_is_begun(*action_ids: int, **_: object) -> list[int]:
        together.append(len(action_ids))
        return []

    environment.setattr(perform, "perform", nothing_is_begun)
    performers.perform(range(100, 150))
    wait_until(lambda: sum(together) == 50)
    assert set(together) == {1}


def test_as_much_is_taken_as_is_done_soon_and_the_rest_is_left_to_others(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    assert performers.perform(range(100, 105), soon=True) == [102, 103, 104]
    wait_until(lambda: len(outside.begun) == 2)
    assert performers.perform([110, 10, 111, 112], soon=True) == [112]
    outside.go.set()
    wait_until(lambda: len(outside.done) == 5)
    assert performers.perform(range(120, 124), soon=True) == []
    wait_until(lambda: len(outside.done) == 9)
    environment.setattr(perform, "_QUIET_SECONDS", 3600.0)
    outside.answers = lambda _: False
    performers.perform([130])
    wait_until(lambda: len(outside.done) == 10)
    assert performers.perform([131, 11], soon=True) == [131]


@pytest.fixture
def crowded(performers: Performers, environment: pytest.MonkeyPatch) -> None:
    """Puts more tasks at hand than the crowd at which actions give way to events, and lets them give way for long."""
    environment.setattr(perform, "_GIVES_WAY", 1e12)
    environment.setattr(_Names, "since", true_now())
    environment.setattr(heartbeats, "EVENTS_IN_HAND", {"1", "2", "3"})
    performers.allow(1, crowd=2)


@pytest.mark.usefixtures("crowded")
def test_while_events_wait_what_is_owed_has_a_share_and_gives_way(performers: Performers, outside: Outside) -> None:
    outside.go.set()
    performers.perform(range(3))
    wait_until(lambda: len(outside.waits) > 2)
    assert outside.done == [0]
    heartbeats.EVENTS_IN_HAND.clear()
    wait_until(lambda: outside.done == [0, 1, 2])


@pytest.mark.usefixtures("crowded")
def test_what_is_owed_for_long_gives_way_to_no_event(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(_Names, "since", true_now() - timedelta(seconds=perform._WAITED_LONG))
    outside.go.set()
    performers.perform(range(3))
    wait_until(lambda: outside.done == [0, 1, 2])


@pytest.mark.usefixtures("crowded")
def test_what_is_owed_from_a_moment_ahead_of_the_measured_clock_gives_way_no_longer(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(perform, "_GIVES_WAY", 1.0)
    environment.setattr(_Names, "since", true_now() + timedelta(days=10_000))
    outside.go.set()
    performers.perform(range(3))
    wait_until(lambda: outside.done == [0, 1, 2])


def test_a_process_that_may_have_no_more_threads_does_the_work_once_it_may(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outside.go.set()
    environment.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        performers.perform(range(10))
    environment.setattr(threading.Thread, "start", start)
    performers.perform([10])
    wait_until(lambda: len(outside.done) == 11)


def test_no_more_is_held_than_is_of_use(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(perform, "_MOST_HELD", 5)
    environment.setattr(perform, "_ENOUGH_HELD", 3)
    for number in range(100, 200):
        performers.perform([number])
    assert performers.engaged() == ["notify_app"]
    outside.go.set()
    wait_until(lambda: performers.engaged() == [])
    assert len(outside.done) < 20


def test_what_cannot_be_done_now_for_the_databases_sake_ends_no_thread(
    performers: Performers, outside: Outside, environment: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("c4nary")

    environment.setattr(perform, "perform", fail)
    performers.perform(range(10))
    environment.setattr(perform, "perform", outside)
    outside.go.set()

    def sweep_finds_them_done() -> bool:
        performers.perform(range(50, 60))
        return set(outside.done) >= set(range(50, 60))

    wait_until(sweep_finds_them_done)
