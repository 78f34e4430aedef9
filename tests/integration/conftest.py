"""Fixtures: the local Stripe with its events in our hands, a post box in the mail server's place, an application."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from receiver.app import app
from tests.integration.openings import TOKEN
from tests.integration.stories import Stories
from tests.integration.visits import HERE, KEYS
from tests.property.outside import Application, PostBox, outside
from tests.simulator.client import Simulator
from tests.support import databases, facts
from tests.support.documented import must_be_documented
from tests.support.operator import stripe_in_use
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="session")
def _simulator() -> Iterator[Simulator]:
    with Simulator.start(seed=11) as simulator:
        yield simulator


@pytest.fixture
def simulator(_simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The local Stripe, empty, with a key of this process's."""
    with stripe_in_use(_simulator, environment) as stripe:
        yield stripe


@pytest.fixture
def stripe(simulator: Simulator) -> Stories:
    """The same Stripe with its clock and its deliveries in the test's hands."""
    simulator.settings(redaction_step=None)
    simulator.endpoint("http://127.0.0.1:9/", payload="both", hold=True)  # else some events are not made
    return Stories(simulator)


@pytest.fixture
def _outside(environment: pytest.MonkeyPatch) -> Iterator[tuple[PostBox, Application]]:
    with outside(environment) as both:
        yield both


@pytest.fixture
def post_box(_outside: tuple[PostBox, Application]) -> PostBox:
    """The box that takes the mails of this process."""
    return _outside[0]


@pytest.fixture
def application(_outside: tuple[PostBox, Application]) -> Application:
    """The application that this process tells of changes."""
    return _outside[1]


@pytest.fixture
def addresses(environment: pytest.MonkeyPatch) -> None:
    """Everybody has an address."""
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    databases.forget_process_state()


@pytest.fixture
def alive(database_url: str) -> None:
    """Every process that there should be lives, as far as the tables say."""
    assert database_url
    facts.all_alive()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def patient(environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment with waits for another opening, or for a thread, that are long enough for a busy machine."""
    environment.setattr("receiver.api.routes._WAITS_SECONDS", PATIENCE)
    environment.setattr("receiver.threads.WAITS_SECONDS", PATIENCE)
    return environment


@pytest.fixture
def api(patient: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An application with a token, which opens verifications."""
    patient.setenv("STRIPE_WEBHOOK_SECRET", "whsec_0123456789")
    patient.setenv("API_TOKENS", f"shop:{TOKEN}")
    patient.setenv("STRIPE_PUBLISHABLE_KEY", "pk_test_simulator0000")
    patient.setenv("RETURN_ORIGINS", "https://app.example,shop:")
    databases.forget_process_state()
    with TestClient(app, "https://verify.example", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.event_hooks = {"response": [must_be_documented]}
        yield client


@pytest.fixture
def pages(patient: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A person's browser, which follows no redirect by itself; the application has a token."""
    for name, value in (KEYS | {"API_TOKENS": f"shop:{TOKEN}"}).items():
        patient.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE, follow_redirects=False) as client:
        yield client
