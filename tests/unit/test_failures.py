"""A failed try's next due time, and the words for its error."""

import pytest

from handlers.queue.failures import (
    NotItsTurnError,
    NotNowError,
    PermanentError,
    RefusedError,
    backoff,
    delay,
    describe,
)


@pytest.mark.parametrize("attempts", [1, 2, 5, 31, 10_000])
def test_a_delay_is_positive_and_never_above_the_cap(attempts: int, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BACKOFF_SECONDS", "40")
    delays = [backoff(attempts).total_seconds() for _ in range(200)]
    assert all(0 <= delay <= min(40, 2 * 2 ** min(attempts - 1, 30)) for delay in delays)
    assert len(set(delays)) > 100  # jitter: not all at one moment


def test_later_tries_wait_longer_on_average() -> None:
    first, fifth = (sum(backoff(n).total_seconds() for _ in range(300)) for n in (1, 5))
    assert fifth > 4 * first


def test_what_waits_its_turn_waits_no_longer_for_having_waited_before() -> None:
    assert max(delay(30, NotItsTurnError("another")).total_seconds() for _ in range(100)) < 5
    assert max(delay(30, NotNowError("away")).total_seconds() for _ in range(100)) > 5


@pytest.mark.parametrize("kind", [PermanentError, NotNowError, RefusedError])
def test_our_own_sentence_is_kept(kind: type[Exception]) -> None:
    assert describe(kind("the server answered 451")) == "the server answered 451"


def test_of_somebody_elses_error_only_the_type_is_kept() -> None:
    assert describe(ValueError("c4nary@example.com is not valid")) == "ValueError"
