"""The baselines that the receiver is compared with, on the same server software.

python -m tests.bench.baselines NAME PORT [DATABASE]: `verify` only verifies the signature and answers, the limit.
`usual` also does one INSERT and one commit a request: the usual design at its fastest, without an ORM.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import WebhookSignature

from tests.bench.load import PATH, SECRET

_CONNECTIONS = 8  # measured here: 4 and 16 are no faster
_INSERT = "INSERT INTO usual_event (id, type, session_id, created_at, received_at) VALUES"

Insert = Callable[[tuple[Any, ...]], Awaitable[None]]


def main() -> None:
    """Serves until SIGTERM."""
    name, port, database = sys.argv[1:4]
    app = {"verify": verify, "usual": usual}[name](database)
    uvicorn.run(
        app, port=int(port), log_config=None, access_log=False, server_header=False, lifespan="on", log_level="warning"
    )


def verify(_: str) -> Starlette:
    """A server that verifies the signature and answers."""

    async def receive(request: Request) -> Response:
        WebhookSignature.verify_header(await request.body(), request.headers["stripe-signature"], SECRET, 300)
        return _ok("")

    return Starlette(routes=[Route(PATH, receive, methods=["POST"]), Route("/healthz", _healthz)])


def usual(database: str) -> Starlette:
    """A server that verifies the signature, inserts one row, commits, and answers."""
    insert: Insert

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal insert
        insert = await (_sqlite if database.startswith("sqlite") else _postgres)(database)
        yield

    async def receive(request: Request) -> Response:
        body = await request.body()
        WebhookSignature.verify_header(body, request.headers["stripe-signature"], SECRET, 300)
        event = orjson.loads(body)
        created_at = datetime.fromtimestamp(event["created"], UTC)
        session_id = event["data"]["object"]["id"]
        await insert((event["id"], event["type"], session_id, created_at, datetime.now(UTC)))
        return _ok(event["id"])

    return Starlette(routes=[Route(PATH, receive, methods=["POST"]), Route("/healthz", _healthz)], lifespan=lifespan)


async def _postgres(database: str) -> Insert:
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        free.put_nowait(await psycopg.AsyncConnection.connect(database, autocommit=True, prepare_threshold=0))
    statement = _INSERT + " (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"

    async def insert(row: tuple[Any, ...]) -> None:
        connection = await free.get()
        try:
            await connection.execute(statement, row)
        finally:
            free.put_nowait(connection)

    return insert


async def _sqlite(database: str) -> Insert:
    # On the event loop: SQLite has one writer, and a thread for each row would only cost more.
    connection = sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    statement = _INSERT + " (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

    async def insert(row: tuple[Any, ...]) -> None:
        connection.execute(statement, (*row[:3], str(row[3]), str(row[4])))

    return insert


async def _healthz(_: Request) -> Response:
    return Response()


def _ok(event_id: str) -> Response:
    return Response(orjson.dumps({"event": event_id, "outcome": "accepted"}), media_type="application/json")


if __name__ == "__main__":
    main()
