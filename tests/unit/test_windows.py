"""A list is read in windows: whole, oldest first, in few requests; an unreadable part holds up itself alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.queue.failures import AwayError, NotAllowedError, NotNowError, UnreadableError
from handlers.stripe_api.sessions import ListPage
from handlers.upkeep.windows import Reading, walk

START = datetime(2026, 11, 1, tzinfo=UTC)
MONTH = timedelta(days=30)
PAGE = 100


@dataclass
class Stripe:
    """A list of items made at these seconds after START; asking about a window that holds a broken one fails."""

    seconds: list[int]
    broken: set[int] = field(default_factory=set)
    spoil: Callable[[list[Any], bool], tuple[list[Any], bool]] = lambda items, more: (items, more)
    error: Exception = field(default_factory=lambda: NotNowError("Stripe answered 500"))
    asked: list[tuple[datetime, datetime, str | None]] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)
    ends: list[datetime] = field(default_factory=list)
    passed_over: list[int] = field(default_factory=list)

    def page(self, start: datetime, end: datetime, after: str | None) -> ListPage:
        """Newest first, as Stripe has it."""
        self.asked.append((start, end, after))
        first, last = (int((moment - START).total_seconds()) for moment in (start, end))
        if any(first <= second < last for second in self.broken):
            raise self.error
        inside = [place for place, second in enumerate(self.seconds) if first <= second < last]
        inside.sort(key=lambda place: (-self.seconds[place], -place))
        if after is not None:
            inside = inside[inside.index(int(after)) + 1 :] if after.isdigit() else []
        created = int(START.timestamp())
        items: list[Any] = [{"id": str(place), "created": created + self.seconds[place]} for place in inside[:PAGE]]
        items, more = self.spoil(items, len(inside) > PAGE)
        return ListPage(items, more, end)

    def read(self, until: datetime = START + MONTH) -> list[str]:
        """The ids in the order in which they were taken."""
        reading = Reading(
            ask=self.page,
            take=lambda page: self.taken.extend(reversed(page.items)),
            reached=lambda end, _: self.ends.append(end),
            pass_over=lambda second, _: self.passed_over.append(int((second - START).total_seconds())),
        )
        for _ in walk(reading, START, until):
            pass
        return [item["id"] for item in self.taken]


def test_an_empty_month_is_one_request() -> None:
    stripe = Stripe([])
    assert (stripe.read(), len(stripe.asked), stripe.ends) == ([], 1, [START + MONTH])


def test_nothing_is_asked_about_no_time() -> None:
    stripe = Stripe([1])
    assert (stripe.read(until=START), stripe.asked) == ([], [])


def test_more_than_a_page_is_read_whole_oldest_first_and_in_few_requests() -> None:
    stripe = Stripe([n * 250 for n in range(10_000)])
    assert stripe.read() == [str(n) for n in range(10_000)]
    assert len(stripe.asked) < 2 * 10_000 / PAGE
    assert stripe.ends == sorted(stripe.ends)


def test_more_than_a_page_within_one_second_is_read_by_its_cursor() -> None:
    stripe = Stripe([777] * 450)
    assert sorted(map(int, stripe.read())) == list(range(450))


def test_bursts_are_found_in_few_requests() -> None:
    stripe = Stripe([*([500_000] * 120), *([2_300_000] * 250), *([2_591_000] * 120)])
    assert sorted(map(int, stripe.read())) == list(range(490))
    assert len(stripe.asked) < 50


def test_bursts_everywhere_are_read_in_few_requests_too() -> None:
    stripe = Stripe([second for second in range(1_000_000, 1_000_060) for _ in range(110)])
    assert sorted(map(int, stripe.read())) == list(range(60 * 110))
    assert len(stripe.asked) < 60 * 5


def test_after_failures_in_a_row_the_first_window_is_narrower() -> None:
    stripe = Stripe([5, 2_000_000])
    reading = Reading(ask=stripe.page, take=lambda _: None, reached=lambda *_: None, pass_over=lambda *_: None)
    for failures, width in ((1, MONTH / 4), (2, MONTH / 16), (50, timedelta(seconds=1))):
        stripe.asked.clear()
        for _ in walk(reading, START, START + MONTH, failures):
            pass
        assert stripe.asked[0][:2] == (START, START + width)
        assert stripe.asked[-1][1] == START + MONTH


def test_each_request_is_announced() -> None:
    stripe = Stripe([777] * 450)
    reading = Reading(ask=stripe.page, take=lambda _: None, reached=lambda *_: None, pass_over=lambda *_: None)
    for announced, _ in enumerate(walk(reading, START, START + MONTH)):
        assert len(stripe.asked) == announced


@pytest.mark.parametrize("second", [0, 1, 1_300_000, 2_591_998])
def test_a_second_that_cannot_be_read_is_passed_over_and_nothing_else_is_lost(second: int) -> None:
    stripe = Stripe([n * 2000 for n in range(1000)], broken={second})
    assert set(stripe.read()) == {str(n) for n in range(1000) if n * 2000 != second}
    assert stripe.passed_over == [second]
    assert stripe.ends[-1] == START + MONTH
    assert len(stripe.asked) < 120


def test_several_seconds_in_a_row_are_passed_over_too() -> None:
    stripe = Stripe([*range(0, 2000, 7)], broken={500, 501, 502, 503, 1400})
    assert len(stripe.read()) == len([n for n in range(0, 2000, 7) if n not in stripe.broken])
    assert sorted(stripe.passed_over) == sorted(stripe.broken)


def test_where_nothing_can_be_read_nothing_is_passed_over() -> None:
    stripe = Stripe([1, 2, 3], broken=set(range(2_592_000)))
    with pytest.raises(NotNowError):
        stripe.read()
    assert (stripe.ends, stripe.passed_over) == ([], [])
    assert len(stripe.asked) < 30


def test_the_last_second_is_not_passed_over_before_a_later_one_could_be_read() -> None:
    stripe = Stripe([1, 2_591_999], broken={2_591_999})
    with pytest.raises(NotNowError):
        stripe.read()
    assert stripe.passed_over == []
    assert stripe.ends[-1] == START + MONTH - timedelta(seconds=1)


@pytest.mark.parametrize("error", [AwayError("away"), NotAllowedError("403")], ids=["away", "not allowed"])
def test_what_is_said_of_everything_is_no_windows_fault(error: Exception) -> None:
    stripe = Stripe([1], broken={1}, error=error)
    with pytest.raises(type(error)):
        stripe.read()
    assert len(stripe.asked) == 1


def test_an_item_that_nobody_thought_of_is_passed_over_with_its_second() -> None:
    stripe = Stripe([n * 250 for n in range(1000)])

    def take(page: ListPage) -> None:
        if any(item["id"] == "444" for item in page.items):
            raise RecursionError
        stripe.taken.extend(page.items)

    passed_over: list[Exception] = []
    reading = Reading(
        ask=stripe.page,
        take=take,
        reached=lambda *_: None,
        pass_over=lambda _, error: passed_over.append(error),
    )
    for _ in walk(reading, START, START + MONTH):
        pass
    assert {item["id"] for item in stripe.taken} == {str(n) for n in range(1000) if n != 444}
    assert [type(error) for error in passed_over] == [RecursionError]


@pytest.mark.parametrize("length", [3, PAGE])
def test_a_list_that_repeats_its_page_ends_and_what_it_shows_is_taken(length: int) -> None:
    first: list[Any] = [{"id": str(n), "created": int(START.timestamp()) + 5} for n in range(length)]

    def repeat(items: list[Any], _: bool) -> tuple[list[Any], bool]:
        return (first, True) if items else (items, False)

    stripe = Stripe([5] * length, spoil=repeat)
    assert set(stripe.read()) == {str(n) for n in range(length)}
    assert stripe.passed_over == [5]
    assert len(stripe.asked) < 60


def test_a_list_that_always_says_there_is_more_ends() -> None:
    stripe = Stripe([5, 9], spoil=lambda items, _: (items, True))
    with pytest.raises(UnreadableError, match="does not end"):
        stripe.read()
    assert len(stripe.asked) < 60


def test_a_list_that_makes_up_more_for_ever_ends() -> None:
    made: list[int] = []

    def more(_: list[Any], __: bool) -> tuple[list[Any], bool]:
        made.append(1)
        return [{"id": f"new{len(made)}", "created": 0}], True

    stripe = Stripe([5], spoil=more)
    with pytest.raises(UnreadableError, match="does not end"):
        stripe.read()
    assert len(stripe.asked) < 2000


@pytest.mark.parametrize("broken", [None, [], "x", {}, {"id": 5}, {"id": "b", "created": "now"}], ids=repr)
def test_an_element_that_is_none_spoils_no_others(broken: Any) -> None:
    stripe = Stripe([n * 250 for n in range(1000)], spoil=lambda items, more: ([*items, broken], more))
    reading = Reading(
        ask=stripe.page, take=lambda page: stripe.taken.extend(page.items), reached=lambda *_: None, pass_over=print
    )
    for _ in walk(reading, START, START + MONTH):
        pass
    assert {item["id"] for item in stripe.taken if item and item != broken} == {str(n) for n in range(1000)}
    assert len(stripe.asked) < 60
