"""How often a link and an address may ask, and how little of it is remembered."""

from collections.abc import Callable

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
        assert len(counted._addresses.events) <= 100
    assert _allowed(lambda: counted.of_link(TWICE, "idv_1")) == 0


def test_what_is_over_makes_room_before_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "_MOST_KEYS", 4)
    counted = Tries()
    for number in range(4):
        counted.of_link(TWICE, f"idv_{number}")
    for key in [key for key in counted._links.events if "idv_0" not in key]:
        counted._links.events[key] = []  # as the library leaves them a minute later
    counted.of_link(TWICE, "idv_new")
    assert _allowed(lambda: counted.of_link(TWICE, "idv_0")) == 1
