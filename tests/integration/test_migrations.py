"""The migrations and the models describe the same tables."""

import os
import re
import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, make_url, text

from config.database import engine, statement
from config.settings import SettingsError
from handlers.tables import models, revisions, schema
from tests.support import databases

TABLES = {"inbox_event", "verification_record", "verification_submission", "outbox_action"}
_ON_POSTGRESQL = pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has neither roles nor schemas")


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
    assert not revisions.is_at_head()
    schema.migrate()
    assert revisions.is_at_head()


def test_a_migration_changes_the_inbox_last_since_deliveries_wait_from_there_to_its_commit() -> None:
    for script in ScriptDirectory.from_config(schema.config()).walk_revisions():
        written = StringIO()
        options = {"as_sql": True, "output_buffer": written}
        with Operations.context(MigrationContext.configure(dialect_name="postgresql", opts=options)):
            script.module.upgrade()
        changed = re.findall(
            r"^(?:ALTER TABLE|CREATE (?:UNIQUE )?INDEX \w+ ON) (\w+)", written.getvalue(), re.MULTILINE
        )
        if script.down_revision:  # the first migration finds no table that anybody waits for
            assert "inbox_event" not in changed[: -changed.count("inbox_event") or None], script.revision


@pytest.mark.usefixtures("empty_database")
def test_migrating_twice_changes_nothing() -> None:
    schema.migrate()
    schema.migrate()
    assert _tables() >= TABLES


@pytest.mark.usefixtures("empty_database")
def test_the_release_says_each_migration_in_a_line() -> None:
    *applied, last = schema.migrate().splitlines()
    assert [line[:12] for line in applied] == [f"Applied {number:04}" for number in range(1, len(applied) + 1)]
    assert last == "The schema is up to date."


@pytest.mark.usefixtures("empty_database")
def test_the_migrations_can_be_taken_back_and_applied_again() -> None:
    schema.migrate()
    command.downgrade(schema.config(), "base")
    assert _tables() <= {"identity_schema_version"}
    schema.migrate()
    assert _differences() == []


@pytest.mark.usefixtures("empty_database")
def test_the_version_of_before_is_taken_over() -> None:
    schema.migrate()
    _execute("ALTER TABLE identity_schema_version RENAME TO alembic_version")
    assert schema.migrate() == "The schema is up to date."
    assert "alembic_version" not in _tables()
    assert revisions.is_at_head()


@pytest.mark.usefixtures("empty_database")
@pytest.mark.parametrize("version", ["ae1027a6acf", "0001"])
def test_another_applications_version_is_left_alone(version: str) -> None:
    _execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    _execute(f"INSERT INTO alembic_version VALUES ('{version}')")  # noqa: S608  # ours
    _execute("CREATE TABLE submission (title TEXT)")
    schema.migrate()
    assert _tables() >= {*TABLES, "submission", "alembic_version"}
    with statement() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == version


@pytest.mark.usefixtures("empty_database")
@pytest.mark.parametrize("is_table", [True, False], ids=["table", "view"])
def test_a_table_of_our_name_that_is_not_ours_is_named(is_table: bool) -> None:
    _execute("CREATE TABLE inbox_event (subject TEXT)" if is_table else "CREATE VIEW inbox_event AS SELECT 1 AS one")
    with pytest.raises(SettingsError, match="have not made: inbox_event"):
        schema.migrate()
    assert "verification_record" not in _tables()


@pytest.mark.usefixtures("empty_database")
def test_the_tables_of_an_unreleased_version_are_named() -> None:
    schema.migrate()
    _execute("ALTER TABLE identity_schema_version RENAME TO alembic_version")
    _execute("ALTER TABLE verification_submission RENAME TO submission")
    with pytest.raises(SettingsError, match=r"have not made: .*identity_bookmark"):
        schema.migrate()


@pytest.mark.usefixtures("empty_database")
def test_the_code_before_finds_a_newer_schema_good() -> None:
    schema.migrate()
    _execute("UPDATE identity_schema_version SET version_num = '9999'")
    assert schema.migrate() == "The schema is newer than this code, which runs on it as well."
    assert revisions.is_at_head()


@_ON_POSTGRESQL
@pytest.mark.usefixtures("empty_database")
def test_a_role_that_may_not_create_is_told_so(environment: pytest.MonkeyPatch) -> None:
    """Since PostgreSQL 15 only its owner may create tables in `public`."""
    name = f"nobody_{uuid.uuid4().hex[:8]}"
    _execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    _execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        _connect_as(environment, username=name, password="x")
        with pytest.raises(SettingsError, match="may not do this"):
            schema.migrate()
    finally:
        databases.administer(f"DROP ROLE {name}")


@_ON_POSTGRESQL
@pytest.mark.usefixtures("empty_database")
def test_a_schema_of_its_own_beside_another_services(environment: pytest.MonkeyPatch) -> None:
    schema.migrate()
    _execute("CREATE SCHEMA stage")
    _connect_as(environment, options="-csearch_path=stage,public")
    with pytest.raises(SettingsError, match="another schema than stage"):
        schema.migrate()
    _connect_as(environment, options="-csearch_path=stage")
    schema.migrate()
    assert _tables() >= TABLES
    _connect_as(environment, options="-csearch_path=nowhere")
    with pytest.raises(SettingsError, match="names no schema that exists"):
        schema.migrate()


def _connect_as(environment: pytest.MonkeyPatch, *, options: str = "", **words: str) -> None:
    url = make_url(os.environ["DATABASE_URL"]).set(**words)  # type: ignore[arg-type]  # names of its parts
    query = {name: value for name, value in url.query.items() if name != "options"}
    url = url.set(query=query | ({"options": options} if options else {}))
    environment.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    databases.forget_process_state()


def _execute(words: str) -> None:
    with statement() as connection:
        connection.execute(text(words))


def _tables() -> set[str]:
    return set(inspect(engine()).get_table_names())


def _differences() -> list[Any]:
    with engine().connect() as connection:
        options = {"compare_type": True, "version_table": revisions.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, models.InboxEvent.metadata))
