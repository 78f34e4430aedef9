"""Fixtures: each test in an environment, a folder and, if it asks for one, a database of its own."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment

from config import database
from config.settings import Settings
from tests.support import databases, shapes, templates
from tests.support.servers import FakeStripe, fake_stripe


def pytest_collection_finish() -> None:
    """Keeps the imported and collected objects out of the garbage collector, since they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compiles each statement and each template once, and not once a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_opened", databases.opened_with_what_is_compiled)
        patch.setattr(Environment, "compile", templates.compiled_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    databases.keep_templates_in(tmp_path_factory.mktemp("templates"))
    yield
    databases.drop_databases()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment without any setting but VAR_DIR, in a process that remembers no other test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
    database.keep_connections(10)  # a test is many processes in one
    databases.forget_process_state()
    yield monkeypatch
    databases.forget_process_state()


@pytest.fixture
def database_url(tmp_path: Path, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty migrated database, in use by this process."""
    with databases.fresh_database(tmp_path) as url:
        environment.setenv("DATABASE_URL", url)
        environment.setenv("STRIPE_WEBHOOK_SECRET", shapes.SECRET)  # else one is generated
        if databases.SERVER_URL:  # there, mails would wait for a server
            environment.setenv("SMTP_URL", "file:")
        databases.forget_process_state()
        yield url
        databases.forget_process_state()


@pytest.fixture
def stripe_server(environment: pytest.MonkeyPatch) -> Iterator[FakeStripe]:
    """A fake Stripe, with a key for it."""
    with fake_stripe() as stripe:
        environment.setenv("STRIPE_API_BASE", stripe.url)
        environment.setenv("STRIPE_API_KEY", "sk_test_made_up_for_tests")
        databases.forget_process_state()
        yield stripe
        databases.forget_process_state()
