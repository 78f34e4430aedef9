"""The engine, transaction(): the one way to a session, how moments are stored, and the one clock that decides."""

import errno
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from math import ceil
from pathlib import Path
from threading import Lock, Timer, local
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import PQGenConn
from psycopg.waiting import Wait
from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    DateTime,
    Engine,
    ExceptionContext,
    Executable,
    Float,
    NullPool,
    QueuePool,
    create_engine,
    event,
    exc,
    literal,
    make_url,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.util.queue import Empty
from sqlmodel import Session

from config import postgres
from config.settings import SettingsError, settings
from config.trouble import FILE_REPLACED, lacks_numbers

BY_ITSELF = "by_itself"  # the option of a connection to PostgreSQL whose statements are each a transaction
_IDLE_SECONDS = 5.0  # after which a connection is given back: others may wait for one
# A thread's longest wait for a free connection of its process, and then for a server that has one free.
_WAITS_SECONDS = 30.0
_APART_WAITS_SECONDS = 5.0  # somebody waits for the answer
_ENDING_WAITS_SECONDS = 1.0  # once this process is asked to end: a platform gives it thirty, for several tries in a row
_ENDING_CONNECT_SECONDS = 2  # the least that libpq knows
_GLANCE_SECONDS = 1.0
_SQLITE_BUSY_SECONDS = 10
_ANSWER_SECONDS = 5.0  # for the server's answer once its own timeout has ended a statement: before any lease is over
# SQLite has no times: a text that sorts as they do, and says that it is UTC.
_SQLITE_MOMENT = "%(year)04d-%(month)02d-%(day)02d %(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06d+00:00"
# A moment in UTC: a bound value is in that zone already, since SQLite would drop any other.
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
# Seconds that no step of a clock touches, and that go on while the machine sleeps, as the database's do.
steady = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
_JUMP = timedelta(seconds=2)  # more than a quick answer or a slewing clock comes to
_LEASES_LAST = 360.0  # seconds after a jump: the longest lease from before it is over by then, whatever the clock shows
_ANY_TIME = datetime(9999, 1, 1, tzinfo=UTC)
_reading: datetime | None = None  # the database's time when steady() was zero
_before_jump: datetime | None = None  # the same before a jump ahead of the last minutes
_jump_seen = 0.0
_kept_connections = 1  # of an operator's command
_beside = 0
_some_stand_apart = False
_is_ending = False
# The engines of the threads that stand apart (True) and of all others (False), and one that keeps no connection.
_engines: dict[bool | None, Engine] = {}
_opening = Lock()


class _Thread(local):
    """A thread's own ways to wait for the database."""

    stands_apart = False
    waits_seconds: float | None = None  # for a connection
    answer_seconds: float | None = None  # for each answer


_thread = _Thread()

# Errors for which the work itself is not to blame: no connection, a deadlock, a timeout, a full disk, a replica, a
# schema or a role that is not as it should be. On PostgreSQL `_sort_out` sorts the errors by SQLSTATE.
DATABASE_TROUBLE = (
    OperationalError,
    InterfaceError,
    InternalError,
    exc.TimeoutError,
    SettingsError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
)
# Data, integrity, and values that are too large for the server, such as an index row of more than 2,704 bytes. A server
# without transaction numbers says the same of itself.
_DATA_CLASSES = ("22", "23", "54")
# A server's answers to a setting that it does not take, or that holds from its start, or from a connection's;
# elsewhere the first two are about stored data.
_NOT_TAKEN = (
    psycopg.DataError,
    psycopg.ProgrammingError,
    psycopg.errors.CantChangeRuntimeParam,
    psycopg.errors.ActiveSqlTransaction,
)
_WAITED_FOR = {pq.PollingStatus.READING: Wait.R, pq.PollingStatus.WRITING: Wait.W}
# A replica, and prepared statements that a pooler has mixed up or a migration has made old: the connection is useless.
_ENDS_CONNECTION = ("25006", "26000", "42P05", "0A000")


def engine() -> Engine:
    """This process's engine, or that of its threads that stand apart; opened at its first use: never before a fork."""
    apart = _some_stand_apart and _thread.stands_apart
    with _opening:  # or each of the threads that come first would open one
        if apart not in _engines:
            _engines[apart] = _opened(apart=apart)
        return _engines[apart]


def keep_connections(most: int, *, beside: int = 0, apart: bool = False) -> None:
    """Sets the most connections of this process to PostgreSQL, unless DATABASE_POOL does; call it before the first.

    `beside` of them do not belong to its engines. With 0 none is kept: each is closed when its work is done. If threads
    stand apart, all but one are theirs.
    """
    global _kept_connections, _beside, _some_stand_apart
    _kept_connections, _beside, _some_stand_apart = most, beside, apart


def stand_apart() -> None:
    """From now on this thread takes no connection that others wait for: its own may be held up by locks of others."""
    _thread.stands_apart = True


def end_soon() -> None:
    """From now on no thread waits long for a connection, also one that waits already: this process shall end."""
    global _is_ending
    _is_ending = True


@contextmanager
def hurry(seconds: float | None = None, *, answer: float | None = None) -> Iterator[None]:
    """Within the block this thread waits for so many seconds at most for a connection, and for each answer over it."""
    before = _thread.waits_seconds, _thread.answer_seconds
    _thread.waits_seconds, _thread.answer_seconds = seconds or before[0], answer or before[1]
    try:
        yield
    finally:
        _thread.waits_seconds, _thread.answer_seconds = before


def transaction() -> AbstractContextManager[Session]:
    """A session whose changes are committed at the end of the block, or rolled back when it raises."""
    return _sessions(engine()).begin()


def statement() -> AbstractContextManager[Connection]:
    """A connection for a single statement, which is a transaction by itself: no round trips for BEGIN and COMMIT."""
    return _committing(engine()).begin()


@contextmanager
def past_sqlalchemy(within: Connection | None = None) -> Iterator[psycopg.Connection[Any]]:
    """As statement(), or within a transaction, over the driver alone: SQLAlchemy takes several times as long as a short
    statement does.
    """
    place: Any = within or engine().raw_connection()
    connection: Any = (within.connection if within else place).driver_connection
    try:
        yield connection
    except psycopg.Error as error:
        if connection.closed or error.sqlstate in _ENDS_CONNECTION:
            place.invalidate(error)
        kind: type[DatabaseError] = OperationalError
        # A value that the driver cannot read or write has no SQLSTATE.
        if is_data(error) if error.sqlstate else isinstance(error, psycopg.DataError):
            kind = IntegrityError if isinstance(error, psycopg.IntegrityError) else DataError
        raise kind(None, None, error, hide_parameters=True) from None
    finally:
        if not within:
            place.close()


def brief(asked: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """The rows of a short statement of the core, as tuples of what the driver gives; it is a transaction by itself."""
    if engine().dialect.name != "postgresql":
        with statement() as connection:
            return connection.execute(asked, parameters).all()
    said = _compiled(asked, tuple(parameters)).construct_expanded_state(dict(parameters))
    with past_sqlalchemy() as driver:
        return driver.execute(said.statement, said.parameters).fetchall()


@cache
def _compiled(asked: Executable, names: tuple[str, ...]) -> Any:
    return asked.compile(dialect=engine().dialect, column_keys=names)  # type: ignore[attr-defined]


@contextmanager
def statement_at_once() -> Iterator[Connection]:
    """As statement(), for a thread in a hurry: if none of its process's connections comes free, over an extra one."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(statement())
        except exc.TimeoutError:
            connection = stack.enter_context(_committing(_one_more()).begin())
        yield connection


def _one_more() -> Engine:
    with _opening:
        if None not in _engines:
            _engines[None] = on_postgres(0)
        return _engines[None]


def reading() -> AbstractContextManager[Session]:
    """A session that only reads: each of its statements is a transaction by itself, as with statement()."""
    return _sessions(_committing(engine())).begin()


class _Moment(FunctionElement[datetime]):
    inherit_cache = True
    type = UtcDateTime


def now(later: timedelta | BindParameter[float] | None = None) -> _Moment:
    """The moment on the database's clock, within a statement, or one so much later; a parameter is in seconds."""
    seconds = literal(later.total_seconds(), Float) if isinstance(later, timedelta) else later
    return _Moment() if seconds is None else _Moment(seconds)


@compiles(_Moment)
def _(moment: _Moment, compiler: Any, **options: Any) -> str:
    dialect, seconds = compiler.dialect.name, compiler.process(moment.clauses, **options)
    return _LATER[dialect].format(seconds) if seconds else CLOCK[dialect]


def database_now() -> datetime:
    """The time on the database's clock, for decisions outside a statement."""
    with statement() as connection:
        return connection.execute(select(now())).scalar_one()


def measure_clock() -> float:
    """Asks the database for its time, for true_now; returns the seconds by which this machine's clock is ahead."""
    global _reading, _before_jump, _jump_seen
    engine().connect().close()  # the time of connecting is no part of the answer's way
    asked = steady()
    shown = database_now()
    answered, here = steady(), datetime.now(UTC)
    at = shown + timedelta(seconds=(answered - asked) / 2)
    # This process was frozen, or the database was.
    # rule: an answer that was long on its way tells no time
    if _reading and answered - asked > _JUMP.total_seconds():
        return (here - true_now()).total_seconds()
    if _reading and at - true_now() > _JUMP:
        _before_jump, _jump_seen = _before_jump or _reading, answered
    _reading = at - timedelta(seconds=answered)
    if _before_jump and (_reading - _before_jump <= _JUMP or answered - _jump_seen > _LEASES_LAST):
        _before_jump = None
    return (here - at).total_seconds()


def host_clock() -> float:
    """This machine's clock less its monotonic one, in seconds: another value says that the clock was set."""
    return datetime.now(UTC).timestamp() - time.monotonic()


def true_now(*, for_leases: bool = False) -> datetime:
    """The time on the database's clock when this process measured it last, plus the seconds since.

    No step of this machine's clock touches it. Before the first measurement it is this machine's clock. `for_leases`, a
    jump of the database's clock ahead counts only once all leases from before it are over, and before the first
    measurement it is any time.
    """
    if _reading is None:
        return _ANY_TIME if for_leases else datetime.now(UTC)
    return min(_reading, (for_leases and _before_jump) or _reading) + timedelta(seconds=steady())


def is_data(error: Exception) -> bool:
    """Whether PostgreSQL refuses values, so that trying again cannot help; anything else is trouble."""
    return (getattr(error, "sqlstate", None) or "")[:2] in _DATA_CLASSES and not lacks_numbers(error)


def on_sqlite(url: URL) -> Engine:
    """An engine for a SQLite file, which nobody else on the machine may read; parameters never show in its errors."""
    _make_private(Path(url.database or ""))
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _SQLITE_BUSY_SECONDS})
    file = _File(Path(url.database or ""))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "connect", file.note)
    event.listen(engine, "handle_error", _say_cause)
    event.listen(engine, "begin", file.begin)
    return engine


def on_postgres(most_connections: int) -> Engine:
    """An engine for DATABASE_URL's server; parameters never show in its errors."""
    pool: dict[str, Any] = {"poolclass": NullPool}
    if most_connections:
        pool = {"poolclass": _Pool, "pool_size": most_connections, "max_overflow": 0, "pool_use_lifo": True}
    engine = create_engine(
        "postgresql+psycopg://", hide_parameters=True, connect_args=postgres.database_address(), **pool
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _sort_out)
    if most_connections:
        event.listen(engine, "checkin", _GivesBack(engine).note)
    return engine


@cache
def _sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, class_=Session, expire_on_commit=False)


def _opened(*, apart: bool) -> Engine:
    if settings().on_postgres:
        most = max((settings().database_pool or _kept_connections) - _beside, min(_kept_connections, 1))
        if apart:
            return on_postgres(max(most - 1, 1))
        return on_postgres(1 if _some_stand_apart else most)
    if settings().embedded_database:
        return on_sqlite(URL.create("sqlite", database=str(settings().embedded_file)))
    return on_sqlite(make_url(settings().database_url.get_secret_value()))


@cache
def _committing(engine: Engine) -> Engine:
    # SQLite makes no round trips, and its BEGIN IMMEDIATE waits for the other writer.
    is_postgres = engine.dialect.name == "postgresql"
    return engine.execution_options(**{BY_ITSELF: True}) if is_postgres else engine


def _patience() -> float:
    """The seconds that this thread waits for a connection."""
    by_default = _APART_WAITS_SECONDS if _thread.stands_apart else _WAITS_SECONDS
    seconds = _thread.waits_seconds or by_default
    return min(seconds, _ENDING_WAITS_SECONDS) if _is_ending else seconds


class _Pool(QueuePool):
    """Waits for as long as its thread does."""

    def _do_get(self) -> ConnectionPoolEntry:
        began = time.monotonic()
        while True:
            try:
                return super()._do_get()
            except exc.TimeoutError:
                if time.monotonic() - began >= _patience():
                    raise

    @property
    def _timeout(self) -> float:
        return min(_patience(), _GLANCE_SECONDS)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        """Sets nothing: each thread has its own."""


class _Connection(psycopg.Connection[Any]):
    """Leaves a server that stands still while its machine answers: its own timeout would have ended each statement."""

    most_seconds: float | None = 20.0  # until the server's own timeout is known

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn["_Connection"]:
        """As psycopg's, with the code of a refusal in its sentence."""
        attempt = pq.PGconn.connect_start(conninfo.encode())
        postgres.say_codes(attempt)
        while (status := pq.PollingStatus(attempt.connect_poll())) in _WAITED_FOR:
            while not (yield attempt.socket, _WAITED_FOR[status]):
                pass
        if status != pq.PollingStatus.OK:
            sentence = attempt.get_error_message()
            attempt.finish()
            raise psycopg.OperationalError(sentence)
        attempt.nonblocking = 1
        return cls(attempt)

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, which by itself waits for ever."""
        try:
            return super().wait(gen, interval, timeout or _thread.answer_seconds or self.most_seconds)
        except psycopg.errors._WaitTimeout:  # psycopg's own code turns it into another error
            self.close()  # a late answer would be taken for that to another statement
            raise psycopg.OperationalError("the server has said nothing for too long") from None


def take_your_time(connection: Connection) -> None:
    """Lets statements on PostgreSQL take as long as they need, as an index of a large table does.

    The server's bound is back with the next transaction, ours with the next connection.
    """
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.connection.driver_connection.most_seconds = None  # type: ignore[union-attr]  # as _connect makes it


def _connect(_: object, __: object, ___: object, parameters: dict[str, Any]) -> _Connection:
    """Opens a connection with the wanted settings; waits while the server has none free."""
    began = time.monotonic()
    while True:
        seconds = _ENDING_CONNECT_SECONDS if _is_ending else ceil(_thread.answer_seconds or 0)
        bound = {"connect_timeout": seconds} if seconds else {}
        try:
            # Without an encoding psycopg would read bytes where the database has none, and no name of a setting.
            connection = _Connection.connect(**parameters | bound, client_encoding="UTF8")
            break
        except psycopg.OperationalError as error:
            if not postgres.is_full(error) or time.monotonic() - began > _patience():
                raise
            time.sleep(random.uniform(0.1, 0.5))
    try:
        connection.autocommit = True
        rows, our_pid = connection.execute(postgres.settings_query()).fetchall(), connection.info.backend_pid
        try:
            connection.execute(postgres.setting(rows, our_pid))
        except _NOT_TAKEN:
            raise postgres.not_taken() from None
        if postgres.is_pooled(rows, our_pid):
            connection.prepare_threshold = None  # a prepared statement may be another's at the next transaction
        ends_within = postgres.statement_seconds(rows, our_pid)
        connection.most_seconds = ends_within and ends_within + _ANSWER_SECONDS
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    """Begins a transaction, unless the statement is one by itself: all connections commit by themselves, since to
    change that and back takes longer than a short statement.
    """
    if not connection.get_execution_options().get(BY_ITSELF):
        connection.exec_driver_sql("BEGIN")


def _sort_out(context: ExceptionContext) -> None:
    """Tells data from trouble, which psycopg's own classes do by halves, and leaves a connection that is of no use."""
    error = context.original_exception
    if not isinstance(error, psycopg.Error) or not error.sqlstate:
        return
    context.is_disconnect |= error.sqlstate in _ENDS_CONNECTION
    is_trouble = isinstance(context.sqlalchemy_exception, DATABASE_TROUBLE)
    if is_trouble == is_data(error):
        kind = DataError if is_trouble else OperationalError
        raise kind(context.statement, None, error, hide_parameters=True)


def _say_cause(context: ExceptionContext) -> None:
    """Makes a damaged file the database's trouble, as the values to be stored are not to blame; and names the obstacle
    to opening or writing a file, which SQLite leaves out.
    """
    error, engine = context.original_exception, context.engine
    if engine and getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        error = sqlite3.OperationalError(_obstacle(Path(engine.url.database or "")) or str(error))
    elif type(error) is not sqlite3.DatabaseError:  # its subclasses are other errors
        return
    raise OperationalError(context.statement, None, error, hide_parameters=True)


def _obstacle(path: Path) -> str:
    """The system's name for the trouble with a file, its folder or the files beside it; empty if there is none.

    It opens none of them: to close it again would end this process's locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return "EROFS"
        files = [file for suffix in ("", "-wal", "-shm") if (file := Path(f"{path}{suffix}")).exists()]
        may_write = [os.access(one, os.R_OK | os.W_OK, effective_ids=True) for one in (path.parent, *files)]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "" if all(may_write) else "EACCES"


LOOKER = "idle connections"  # the name of the thread that looks for them


class _GivesBack:
    """Closes the connections of an engine's pool that nobody has used for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timer: Timer | None = None

    def note(self, _: object, entry: ConnectionPoolEntry) -> None:
        """Notes that a connection has come back to the pool."""
        entry.info["idle_since"] = time.monotonic()
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = Timer(_IDLE_SECONDS, self.look)
        self._timer.name, self._timer.daemon = LOOKER, True
        try:
            self._timer.start()
        except RuntimeError:  # the process ends, or may have no more threads: the next that comes back tries it again
            self._timer = None

    def look(self) -> None:
        """Closes idle connections; their places in the pool stay, and are opened again when they are needed."""
        self._timer = None
        places: Any = self._engine.pool._pool  # type: ignore[attr-defined]  # SQLAlchemy gives nothing back by itself
        entries: list[ConnectionPoolEntry] = []
        with suppress(Empty):
            while True:
                entries.append(places.get(False))
        long_ago = time.monotonic() - _IDLE_SECONDS
        for entry in reversed(entries):  # the last one used comes out first, and is put back last
            if entry.info.get("idle_since", 0.0) <= long_ago:
                entry.invalidate()
            places.put(entry, False)
        if any(entry.dbapi_connection for entry in entries):
            self._look_later()


def _make_private(path: Path) -> None:
    with suppress(OSError):  # SQLite says it, when it is asked to open the file
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT, 0o600))  # its -wal and -shm are made like it


class _File:
    """The file that this process has opened: after its end, what is stored there is lost with the process.

    The file that stands in its place must not be written either, since the old one's log would spoil it. SQLite makes
    the same comparison, but not for a file with such a log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None

    def note(self, *_: object) -> None:
        """Notes the file of the first connection, which has made it if need be."""
        with suppress(OSError):  # SQLite says it
            self._number = self._number or self._path.stat().st_ino

    def begin(self, connection: Connection) -> None:
        """Begins a transaction. Raises OperationalError, one of DATABASE_TROUBLE, if the file is gone or another."""
        number = self._number
        try:
            number = self._path.stat().st_ino
        except FileNotFoundError:
            number = 0
        except OSError:  # SQLite says it
            pass
        if number != self._number:
            raise OperationalError(None, None, sqlite3.OperationalError(FILE_REPLACED), hide_parameters=True)
        file: Any = connection.connection.driver_connection
        file.execute(f"PRAGMA busy_timeout = {(_thread.answer_seconds or _SQLITE_BUSY_SECONDS) * 1000:.0f}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late: reads would not lock
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")
