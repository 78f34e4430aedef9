"""A short run of `make fuzz`."""

import pytest

from tests.fuzz.__main__ import fuzz, receiver, tracebacks
from tests.fuzz.console import SETTINGS, fuzz_console
from tests.fuzz.pages import SETTINGS as OF_PAGES
from tests.fuzz.pages import fuzz_pages


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_sent_the_receiver_answers_stores_no_nonsense_and_goes_on(seed: int) -> None:
    with receiver() as running:
        findings, figures = fuzz(running, 3000, seed)
    assert not findings.problems, figures
    assert findings.sent >= 3000


def test_whatever_is_sent_to_the_console_or_to_a_persons_page_is_answered_and_kept_by_nobody() -> None:
    with receiver(**SETTINGS | OF_PAGES) as running:
        assert fuzz_console(running.port, 150, 1) + tracebacks(running) == []
        assert fuzz_pages(running.port, running.database, 300, 1) + tracebacks(running) == []
