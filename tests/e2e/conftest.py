"""A local Stripe, and the official CLI in an empty home."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import Cli
from tests.simulator.client import Simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One local Stripe for a module; its retries come a thousand times as fast."""
    with Simulator.start(speed=1000.0) as simulator:
        yield simulator


@pytest.fixture
def cli(simulator: Simulator, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(simulator, tmp_path)
    yield cli
    cli.stop()
