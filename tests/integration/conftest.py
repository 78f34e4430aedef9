"""Fixtures: the local Stripe with its events in our hands, a post box in the mail server's place, an application."""

from collections.abc import Iterator

import pytest

from tests.integration.stories import Stories
from tests.property.outside import Application, PostBox, outside
from tests.simulator.client import Simulator
from tests.support.operator import stripe_in_use


@pytest.fixture(scope="session")
def _simulator() -> Iterator[Simulator]:
    with Simulator.start(seed=11) as simulator:
        yield simulator


@pytest.fixture
def simulator(_simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A Stripe of our own, empty, that this process has a key for."""
    with stripe_in_use(_simulator, environment) as stripe:
        yield stripe


@pytest.fixture
def stripe(simulator: Simulator) -> Stories:
    """The same, where the events of what happens wait to be delivered."""
    simulator.settings(redaction_step=None)
    simulator.endpoint("http://127.0.0.1:9/", payload="both", hold=True)  # so that there are events of every kind
    return Stories(simulator)


@pytest.fixture
def _outside(environment: pytest.MonkeyPatch) -> Iterator[tuple[PostBox, Application]]:
    with outside(environment) as both:
        yield both


@pytest.fixture
def post_box(_outside: tuple[PostBox, Application]) -> PostBox:
    """Takes the mails of this process."""
    return _outside[0]


@pytest.fixture
def application(_outside: tuple[PostBox, Application]) -> Application:
    """Is told of changes by this process."""
    return _outside[1]
