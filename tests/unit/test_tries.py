"""How often a link and an address may ask, and how little of them is remembered."""

import threading
from collections.abc import Callable
from unittest.mock import patch

import pytest
from limits import RateLimitItemPerMinute

from receiver.pages import tries
from receiver.pages.tries import TooOftenError, Tries

TWICE = RateLimitItemPerMinute(2)


def _allowed(hit: Callable[[], None], most: int = 10_000) -> int:
    for number in range(most):
        try:
            hit()
        except TooOftenError:
            return number
    return most


def test_a_link_may_ask_so_often_and_another_one_too() -> None:
    counted = Tries()
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 2
    assert _allowed(lambda: counted.of_link(TWICE, "idv_2")) == 2
    assert _allowed(lambda: counted.of_link(tries.ENTRIES, "idv_1")) == 10, "what it may otherwise is counted apart"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("unix", "unix"),
    ],
)
def test_an_address_is_what_its_owner_cannot_choose(monkeypatch: pytest.MonkeyPatch, one: str, other: str) -> None:
    monkeypatch.setattr(tries, "OF_AN_ADDRESS", TWICE)
    counted = Tries()
    assert _allowed(lambda: counted.of_address((one, 1))) == 2
    assert _allowed(lambda: counted.of_address((other, 2))) == 0
    assert _allowed(lambda: counted.of_address(("2001:db8:1:3::1", 1))) == 2
    assert _allowed(lambda: counted.of_address(("192.0.2.2", 1))) == 2


def test_all_whose_address_nobody_knows_are_one_who_may_more() -> None:
    counted = Tries()
    assert _allowed(lambda: counted.of_address(None)) == 6000


def test_what_is_remembered_is_bounded_and_no_flood_of_addresses_frees_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "_MOST_KEYS", 100)
    counted = Tries()
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 2
    for number in range(1000):
        counted.of_address((f"192.0.{number // 250}.{number % 250}", 1))
        assert len(counted._addresses.tries) <= 100
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 0


def test_the_key_that_was_tried_the_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "_MOST_KEYS", 3)
    counted = Tries()
    for subject in ("idv_0", "idv_0", "idv_1", "idv_1", "idv_2"):
        counted.of_link(TWICE, subject)
    assert _allowed(lambda: counted.of_link(TWICE, "idv_0")) == 0, "tried again, it is the last to go"
    counted.of_link(TWICE, "idv_new")
    assert _allowed(lambda: counted.of_link(TWICE, "idv_0")) == 0
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 2


def test_the_window_moves_and_what_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, clock = Tries(), [1000.0]
    monkeypatch.setattr(tries, "monotonic", lambda: clock[0])
    counted.of_link(TWICE, "idv_1")
    counted.of_link(TWICE, "idv_2")
    clock[0] += 40
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 1
    clock[0] += 30
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 1, "that of forty seconds still counts"
    assert len(counted._links.tries) == 1


def test_a_try_starts_no_thread() -> None:
    counted = Tries()
    counted._addresses.timer.join()  # the library's first and only timer
    with patch.object(threading.Thread, "start", side_effect=AssertionError):
        for number in range(3):
            counted.of_address((f"192.0.2.{number}", 1))
