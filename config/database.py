"""The engine, transaction(): the one way to a session, how moments are stored, and the one clock that decides."""

import socket
import sqlite3
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlencode

import psycopg
from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    DateTime,
    Engine,
    ExceptionContext,
    Float,
    create_engine,
    event,
    literal,
    make_url,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import sessionmaker
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Session

from config.settings import SettingsError, settings

# Shorter than every lease, so that a stuck statement ends before somebody else takes the work over.
_POSTGRES_OPTIONS = "-c statement_timeout=15000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000"
# In libpq's words, where DATABASE_URL leaves them open.
_POSTGRES_DEFAULTS = {
    "connect_timeout": 5,
    # A cut cable is noticed in about 10 s instead of the kernel's two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10000,
}
_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# What asyncpg takes from a URL as libpq does.
_IN_ASYNCPGS_URL = (
    *("user", "password", "passfile", "dbname", "target_session_attrs", "sslmode", "sslnegotiation", "sslcert"),
    *("sslkey", "sslpassword", "sslrootcert", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"),
)
_IN_SERVER_SETTINGS = ("options", "application_name")
# asyncpg speaks UTF-8 whatever client_encoding says, and so the texts are the same.
_POSTGRES_WORDS = {*_IN_ASYNCPGS_URL, *_IN_SERVER_SETTINGS, *_POSTGRES_DEFAULTS, "host", "port", "client_encoding"}
_SQLITE_BUSY_SECONDS = 10
# SQLite has no times: a text that sorts as they do, and says that it is UTC.
_SQLITE_MOMENT = "%(year)04d-%(month)02d-%(day)02d %(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d+00:00"
# A moment in UTC: what is bound is in that zone already, since SQLite would drop any other.
UtcDateTime = DateTime(timezone=True).with_variant(sqlite.DATETIME(storage_format=_SQLITE_MOMENT), "sqlite")  # type: ignore[no-untyped-call]
# The database's own clock in SQL. On PostgreSQL it is not the transaction's start, which a lock may have kept waiting,
# and as a query of its own it is asked once a statement: an index serves it. SQLite's is this machine's.
CLOCK = {
    "postgresql": "(SELECT clock_timestamp())",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')",
}
_LATER = {
    "postgresql": "(SELECT clock_timestamp() + make_interval(secs => {}))",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', printf('%+.3f seconds', {}))",
}
# Seconds that no step of a clock touches, and that go on while the machine sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_JUMP = timedelta(seconds=2)  # more than a slow answer or a slewing clock comes to
_JUMP_BELIEVED_AFTER = 60.0  # seconds: leases taken before it are over by then, whatever the clock shows
_reading: tuple[datetime, float] | None = None  # what the database's clock showed, and when that was
_jump_seen: float | None = None
_most_connections = 10  # of a process that is no worker
_opening = Lock()

# What says nothing against the work itself: no connection, a deadlock, a timeout, a full disk, a replica.
DATABASE_TROUBLE = (
    OperationalError,
    InterfaceError,
    InternalError,
    PoolTimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
)


def engine() -> Engine:
    """This process's engine; opened at the first use, so never before a fork."""
    with _opening:  # or each of the threads that come first would open one
        return _engine()


def keep_connections(most: int) -> None:
    """How many connections this process may keep to PostgreSQL; before the first use of its engine."""
    global _most_connections
    _most_connections = most


def transaction() -> AbstractContextManager[Session]:
    """A session whose changes are committed at the end of the block, or rolled back when it raises."""
    return _sessions(engine()).begin()


def statement() -> AbstractContextManager[Connection]:
    """A connection for a single statement, which is a transaction by itself: no round trips for BEGIN and COMMIT."""
    return _committing(engine()).begin()


class _Moment(FunctionElement[datetime]):
    inherit_cache = True
    type = UtcDateTime


def now(later: timedelta | BindParameter[float] | None = None) -> _Moment:
    """In a statement: the moment that the database's clock shows, or one so much later; a parameter is in seconds."""
    seconds = literal(later.total_seconds(), Float) if isinstance(later, timedelta) else later
    return _Moment() if seconds is None else _Moment(seconds)


@compiles(_Moment)
def _(moment: _Moment, compiler: Any, **options: Any) -> str:
    dialect, seconds = compiler.dialect.name, compiler.process(moment.clauses, **options)
    return _LATER[dialect].format(seconds) if seconds else CLOCK[dialect]


def database_now() -> datetime:
    """What the database's clock shows, for what is not decided in a statement."""
    with statement() as connection:
        return connection.execute(select(now())).scalar_one()


def measure_clock() -> float:
    """Asks the database what time it is, for true_now; by how many seconds this machine's clock is ahead of it."""
    global _reading, _jump_seen
    asked = time.clock_gettime(_STEADY)
    shown = database_now()
    answered, here = time.clock_gettime(_STEADY), datetime.now(UTC)
    at = shown + timedelta(seconds=(answered - asked) / 2)
    if at - true_now(unmeasured=at) > _JUMP:
        _jump_seen = _jump_seen or answered
    if not _jump_seen or answered - _jump_seen > _JUMP_BELIEVED_AFTER:
        _reading, _jump_seen = (at, answered), None
    return (here - at).total_seconds()


def true_now(unmeasured: datetime | None = None) -> datetime:
    """What the database's clock showed when this process measured it last, and the seconds since.

    No step of this machine's clock touches it, and a jump of the database's only after a minute or two. Before the
    first measurement it is what is given, or this machine's clock.
    """
    if not _reading:
        return unmeasured or datetime.now(UTC)
    shown, then = _reading
    return shown + timedelta(seconds=time.clock_gettime(_STEADY) - then)


def asyncpg_addresses() -> list[dict[str, Any]]:
    """What asyncpg.connect takes for each host of DATABASE_URL; of a list the first could use the others' time up."""
    address = _libpq_address()
    hosts, ports = (str(address.get(word, "")).split(",") for word in ("host", "port"))
    said = {word: address[word] for word in _IN_ASYNCPGS_URL if word in address}
    for_all = {
        "dsn": f"postgresql://?{urlencode(said)}",
        "ssl": True if said.get("sslrootcert") == "system" else None,  # which asyncpg would take for a file
        "server_settings": {word: address[word] for word in _IN_SERVER_SETTINGS if word in address},
        "timeout": int(address["connect_timeout"]) or None,
    }
    return [
        {**for_all, "host": host or None, "port": port or None} for host, port in zip(hosts, cycle(ports), strict=False)
    ]


def keep_alive(connection: socket.socket) -> None:
    """What libpq does to its own sockets."""
    if connection.family == socket.AF_UNIX:
        return
    address = _libpq_address()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for word, option in _SOCKET_OPTIONS.items():
        if hasattr(socket, option):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), int(address[word]))


def connect(url: str, most_connections: int = 1) -> Engine:
    """An engine for a PostgreSQL or SQLite URL; parameters never show in its errors."""
    if make_url(url).get_backend_name() == "postgresql":
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_size=most_connections,
            max_overflow=0,
            connect_args=_connect_args(make_url(url)),
        )
        event.listen(engine, "handle_error", _leave_a_replica)
        return engine
    _make_folder(make_url(url).database)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _SQLITE_BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


@cache
def _sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, class_=Session, expire_on_commit=False)


@cache
def _engine() -> Engine:
    return connect(settings().sqlalchemy_url, settings().database_pool or _most_connections)


@cache
def _committing(engine: Engine) -> Engine:
    # SQLite makes no round trips, and its BEGIN IMMEDIATE is what waits for the other writer.
    is_postgres = engine.dialect.name == "postgresql"
    return engine.execution_options(isolation_level="AUTOCOMMIT") if is_postgres else engine


def _libpq_address() -> dict[str, Any]:
    """DATABASE_URL in libpq's words, as the engine's connections have it."""
    _, address = engine().dialect.create_connect_args(engine().url)
    return {**address, **_connect_args(engine().url)}


def _connect_args(url: URL) -> dict[str, Any]:
    """What is ours of it. Raises SettingsError where one of web's two drivers would not do as the URL says."""
    if unknown := set(url.query) - _POSTGRES_WORDS:
        raise SettingsError(
            f"DATABASE_URL names parameters that cannot be followed here; leave them out: {', '.join(sorted(unknown))}"
        )
    ours = {word: value for word, value in _POSTGRES_DEFAULTS.items() if word not in url.query}
    return {**ours, "options": f"{_POSTGRES_OPTIONS} {url.query.get('options', '')}".rstrip()}


def _leave_a_replica(context: ExceptionContext) -> None:
    """A server that a failover has made read-only never writes again for the connections it kept."""
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


def _make_folder(database: str | None) -> None:
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late: reads would not lock
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")
