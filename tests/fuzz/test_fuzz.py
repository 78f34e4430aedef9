"""A short run of `make fuzz`."""

import pytest

from tests.fuzz.__main__ import fuzz, receiver


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_sent_the_receiver_answers_stores_no_nonsense_and_goes_on(seed: int) -> None:
    with receiver() as running:
        findings, figures = fuzz(running, 3000, seed)
    assert not findings.problems, figures
    assert findings.sent >= 3000
