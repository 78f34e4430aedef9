"""The migrations and the models describe the same tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from config.database import engine
from handlers.tables import models, schema
from tests.support import databases

TABLES = {"inbox_event", "verification_record", "submission", "outbox_action"}


@pytest.fixture
def empty_database(tmp_path: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    with databases.fresh_database(tmp_path, migrated=False) as url:
        environment.setenv("DATABASE_URL", url)
        databases.forget_process_state()
        yield
        databases.forget_process_state()


@pytest.mark.usefixtures("empty_database")
def test_the_migrations_make_what_the_models_describe() -> None:
    schema.migrate()
    assert _differences() == []


@pytest.mark.usefixtures("empty_database")
def test_a_database_is_at_head_only_after_the_migrations() -> None:
    assert not schema.is_at_head()
    schema.migrate()
    assert schema.is_at_head()


@pytest.mark.usefixtures("empty_database")
def test_migrating_twice_changes_nothing() -> None:
    schema.migrate()
    schema.migrate()
    assert _tables() >= TABLES


@pytest.mark.usefixtures("empty_database")
def test_the_migrations_can_be_taken_back_and_applied_again() -> None:
    schema.migrate()
    command.downgrade(schema._config(), "base")
    assert _tables() <= {"alembic_version"}
    schema.migrate()
    assert _differences() == []


def _tables() -> set[str]:
    return set(inspect(engine()).get_table_names())


def _differences() -> list[Any]:
    with engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, models.InboxEvent.metadata))
