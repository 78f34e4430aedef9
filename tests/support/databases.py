"""A database of its own for each test: a copied SQLite file, or a copy on DATABASE_URL's PostgreSQL server."""

import os
import re
import shutil
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Dialect, Engine, NullPool, Pool, create_engine, event, make_url, text
from sqlmodel import SQLModel

from config import broker, database, postgres, settings
from handlers.metrics import counting, heartbeats, outside
from handlers.operator import signings, tokens
from handlers.outbox import application, mails, smtp
from handlers.stripe_api import client
from handlers.tables import schema
from receiver import health
from tests.support import templates

# Read before any fixture clears the environment.
SERVER_URL = os.environ.get("DATABASE_URL", "") if os.environ.get("DATABASE_URL", "").startswith("postgres") else ""


def name() -> str:
    """The name of the database that the tests run on."""
    return "PostgreSQL" if SERVER_URL else "SQLite"


@contextmanager
def unsynced() -> Iterator[None]:
    """Until the block ends, SQLite does not wait for the disk at each commit: for tests that cut no power."""

    def hurry(connection: Any, *_: object) -> None:
        if not SERVER_URL:
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Pool, "checkout", hurry)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", hurry)


def forget_process_state() -> None:
    """Makes this process as a fresh one: no settings read, no engine open, no end in sight."""
    database._is_ending = False
    postgres.name_connections("command")
    if database._engines:
        # A thread that looks for idle connections has them in hand, where `dispose` does not find them.
        while looking := [thread for thread in threading.enumerate() if thread.name == database.LOOKER]:
            for thread in looking:
                thread.cancel()  # type: ignore[attr-defined]  # it is a Timer
                thread.join()
        for engine in database._engines.values():
            pool = engine.pool
            engine.dispose()
            # A thread may have a connection in hand: the next test would be blamed when the garbage is collected.
            for left in (pool, engine.pool):
                left._do_return_conn = lambda record: record.close()  # type: ignore[method-assign]
            pool.dispose()  # closes the connections that came back meanwhile
        database._engines.clear()
        database._sessions.cache_clear()
        database._committing.cache_clear()
    for remembered in (
        settings.settings,
        broker.producers,
        mails.email_lookup,
        client.client,
        application.line,
        *templates.REMEMBERED,
    ):
        remembered.cache_clear()
    smtp.hang_up()
    database._reading = database._before_jump = None
    for look in health.LOOKS:
        look._latest = None
    heartbeats._process = heartbeats._Process()
    heartbeats.IN_HAND.clear()
    heartbeats.EVENTS_IN_HAND.clear()
    signings.signed.clear()
    tokens._tokens = tokens.Tokens()
    counting._note_progress()  # takes the figures of the tests before as written
    outside._seen.clear()
    counting._written.update(counting._rows())  # so that none of them reaches the next database


# The dialect and the compiled statements of each kind of database, by its name, its search path and its clock's words,
# which some tests change: an engine of each test's own would compile all statements again.
_compiled: dict[tuple[str, ...], tuple[Dialect, Any]] = {}


def opened_with_what_is_compiled(*, apart: bool) -> Engine:
    """The service's engine; each after the first shares the statements that earlier ones have compiled."""
    engine = _opened(apart=apart)
    name = engine.dialect.name
    options = os.environ.get("DATABASE_URL", "").partition("?")[2]  # a dialect knows the search path
    key = (name, database.CLOCK[name], database._LATER[name], options)
    if key in _compiled:
        engine.dialect, engine._compiled_cache = _compiled[key]
    else:  # the dialect learns the server's version from its first connection
        event.listen(
            engine, "first_connect", lambda *_: _compiled.setdefault(key, (engine.dialect, engine._compiled_cache))
        )
    return engine


_opened = database._opened


@contextmanager
def fresh_database(folder: Path, *, migrated: bool = True) -> Iterator[str]:
    """The DATABASE_URL of a database for one test alone."""
    if SERVER_URL:
        with _postgres_database(migrated=migrated) as url:
            yield url
    else:
        yield _sqlite_file(folder, migrated=migrated)


def dump(url: str, *, without: Sequence[str] = ()) -> str:
    """Every value of every table, as text."""
    reader = opened(url)
    with reader.connect() as connection:
        names = [table.name for table in SQLModel.metadata.sorted_tables if table.name not in without]
        rows: list[Any] = [row for name in names for row in connection.execute(text(f"SELECT * FROM {name}"))]  # noqa: S608  # our own names
    reader.dispose()
    return "\n".join(repr(tuple(row)) for row in rows)


@contextmanager
def down(url: str) -> Iterator[None]:
    """Until the block ends, the database cannot be used by a process that waits a moment only."""
    if SERVER_URL:
        name = make_url(url).database
        administer(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end_connections(name)
        yield
        administer(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    else:
        with locked(url):
            yield


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Makes the database as a primary that became a replica: connections made until the block ends can never write."""
    name = make_url(url).database
    administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    end_connections(name)
    yield
    administer(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Until the block ends, nobody can write to the inbox."""
    holder = opened(url)
    with holder.begin() as connection:  # on SQLite BEGIN IMMEDIATE is the lock
        if SERVER_URL:
            connection.execute(text("LOCK TABLE inbox_event IN EXCLUSIVE MODE"))
        yield
    holder.dispose()


def back_up(url: str, folder: Path) -> Path:
    """Backs the database up as an operator does, and returns the backup."""
    backup = folder / f"{uuid.uuid4().hex[:8]}.backup"
    if SERVER_URL:
        subprocess.run(["pg_dump", "--format=custom", f"--file={backup}", url], check=True)
        return backup
    with closing(sqlite3.connect(str(make_url(url).database))) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    return backup


def put_back(url: str, backup: Path) -> None:
    """Restores the database from a backup, and makes this process forget its state."""
    forget_process_state()
    if SERVER_URL:
        end_connections(make_url(url).database)
        subprocess.run(["pg_restore", "--clean", "--if-exists", f"--dbname={url}", str(backup)], check=True)
        return
    path = str(make_url(url).database)
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    shutil.copy(backup, path)


def refuse(url: str, table: str, column: str, value: str) -> None:
    """Makes the database refuse this row from now on, as it refuses a value that it cannot hold."""
    if SERVER_URL:
        execute(url, f"ALTER TABLE {table} ADD CONSTRAINT refuse CHECK ({column} <> '{value}')")
    else:
        execute(
            url,
            f"CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} WHEN NEW.{column} = '{value}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )


def opened(url: str) -> Engine:
    """An engine of the test's own for a DATABASE_URL, with the service's settings on SQLite and none on PostgreSQL."""
    if url.startswith("sqlite"):
        return database.on_sqlite(make_url(url))
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)


def execute(url: str, statement: str) -> None:
    """Executes a statement as the owner of the database."""
    writer = opened(url)
    with writer.begin() as connection:
        connection.execute(text(statement))
    writer.dispose()


def _sqlite_file(folder: Path, *, migrated: bool) -> str:
    path = folder / f"{uuid.uuid4().hex[:8]}.db"
    if migrated:
        shutil.copy(_sqlite_template(), path)
    return f"sqlite:///{path}"


@cache
def _sqlite_template() -> Path:
    path = _session_folder() / "template.db"
    _migrate(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:  # moves all of its log into the one file that is copied
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


_folders: list[Path] = []


def keep_templates_in(folder: Path) -> None:
    """Notes the folder for this session's template databases."""
    _folders.append(folder)


def _session_folder() -> Path:
    return _folders[0]


@contextmanager
def _postgres_database(*, migrated: bool) -> Iterator[str]:
    name = f"identity_test_{uuid.uuid4().hex[:12]}"
    template = f" TEMPLATE {_postgres_template()}" if migrated else ""
    _drop_left()
    administer(f"CREATE DATABASE {name}{template}")
    try:
        yield _with_database(name)
    finally:
        _left.append(name)


# Databases of tests that have ended. The next test drops them: by then the server has seen their connections go, and
# does not wait a tenth of a second for that.
_left: list[str] = []


def _drop_left() -> None:
    while _left:
        administer(f"DROP DATABASE {_left.pop()} WITH (FORCE)")


@cache
def _postgres_template() -> str:
    name = f"identity_template_{uuid.uuid4().hex[:12]}"
    administer(f"CREATE DATABASE {name}")
    _migrate(_with_database(name))
    return name


def drop_databases() -> None:
    """Drops all databases of this session."""
    _drop_left()
    if SERVER_URL and _postgres_template.cache_info().currsize:
        administer(f"DROP DATABASE {_postgres_template()} WITH (FORCE)")


def _migrate(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        forget_process_state()
        schema.migrate()
    forget_process_state()


def _with_database(name: str) -> str:
    url = make_url(re.sub(r"^postgres:", "postgresql:", SERVER_URL)).set(database=name)
    return url.render_as_string(hide_password=False)


def end_connections(name: str | None) -> None:
    """Ends all connections to this database."""
    administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608


def administer(statement: str) -> None:
    """Executes a statement on the server itself, as a user who may create databases."""
    with psycopg.connect(SERVER_URL, autocommit=True) as connection:
        connection.execute(statement.encode())
