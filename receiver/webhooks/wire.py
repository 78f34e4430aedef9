"""PostgreSQL on the event loop: one prepared statement at a time, spoken by libpq itself.

psycopg's cursors, and its waiting with a timer and two system calls, cost a batch as much as all else it needs here.
"""

import asyncio
import hashlib
import select
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors, pq

from config import database

_ENCODING = "utf-8"
# What the server says of the connection, not of the statement: a pooler has mixed up who prepared what, or a failover
# has left it on a replica. Another connection may do.
_UNUSABLE = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement, errors.ReadOnlySqlTransaction)
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Wire:
    """A connection for one caller, who waits for each answer before the next question."""

    def __init__(self, connection: psycopg.AsyncConnection[object]) -> None:
        self._connection = connection  # psycopg closes with a warning what nobody holds
        self._libpq = connection.pgconn
        self._prepared: dict[str, bytes] = {}
        self._result: pq.abc.PGresult | None = None
        self._answer: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = self._libpq.socket
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self.closed = False  # also when the server has gone away
        self._loop.add_reader(self._socket, self._read)

    @classmethod
    async def connect(cls) -> "Wire":
        """A new connection to this process's database. Raises psycopg.OperationalError."""
        return cls(await database.connect_async())

    async def column(self, statement: str, parameter: str) -> list[str]:
        """Runs a statement with one %s, which is a transaction by itself; the first column's texts.

        Raises psycopg.Error, and closes when the answer can no longer be awaited.
        """
        if statement not in self._prepared:
            # By its text: behind a pooler the same name must never mean another statement.
            name = b"identity_" + hashlib.sha256(statement.encode(_ENCODING)).hexdigest()[:32].encode()
            await self._ask(self._libpq.send_prepare, name, statement.replace("%s", "$1").encode(_ENCODING))
            self._prepared[statement] = name
        values = [parameter.encode(_ENCODING)]
        result = await self._ask(self._libpq.send_query_prepared, self._prepared[statement], values)
        return [str(result.get_value(row, 0), _ENCODING) for row in range(result.ntuples)]  # type: ignore[arg-type]

    def close(self, error: psycopg.OperationalError | None = None) -> None:
        """Ends it; who waits for an answer gets the error."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._libpq.finish()
        self._settle(error or psycopg.OperationalError("the connection was closed"))

    async def _ask(self, send: Callable[[bytes, Any], None], name: bytes, more: object) -> pq.abc.PGresult:
        self._result, self._answer = None, (answer := self._loop.create_future())
        try:
            send(name, more)
            self._write()
            await answer
        except (psycopg.OperationalError, asyncio.CancelledError):
            answer.cancel()  # when sending failed nobody awaits it
            self.close()  # what comes now, if anything, would be taken for the next question's answer
            raise
        result: pq.abc.PGresult | None = self._result
        if result is None:
            self.close()
            raise psycopg.OperationalError("an answer without a result")
        if result.status not in _GOOD:
            raise self._error(result)
        return result

    def _error(self, result: pq.abc.PGresult) -> psycopg.Error:
        error = errors.error_from_result(result, _ENCODING)
        if isinstance(error, _UNUSABLE):
            self.close()
        if self.closed and not isinstance(error, psycopg.OperationalError):
            return psycopg.OperationalError(f"the connection was left: {type(error).__name__}")
        return error

    def _write(self) -> None:
        """Sends what the socket takes now, and the rest when it takes more."""
        try:
            more = self._libpq.flush()
        except psycopg.OperationalError as error:
            self.close(error)
            return
        if more:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Takes all that has come: once a socket has an error libuv calls no more, whatever is still to be read."""
        try:
            while True:
                self._libpq.consume_input()
                self._take_results()
                if not self._readable.poll(0):
                    return
        except psycopg.OperationalError as error:
            self.close(error)

    def _take_results(self) -> None:
        """The answer is whole when there is no more result."""
        while self._answer and not self._libpq.is_busy():
            result = self._libpq.get_result()
            if result is None:
                self._settle()
            elif self._result is None or self._result.status in _GOOD:
                self._result = result

    def _settle(self, error: psycopg.OperationalError | None = None) -> None:
        answer, self._answer = self._answer, None
        if not answer or answer.done():
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(None)
