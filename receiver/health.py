"""Whether this process is alive, whether it can do its work, what waits, and the metrics."""

import asyncio
from collections.abc import Callable, Mapping

import orjson
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from config import broker
from config.database import DATABASE_TROUBLE, engine
from config.settings import settings
from handlers.metrics.exposition import exposition
from handlers.operator import queries
from handlers.tables.models import InboxEvent, OutboxAction

_PROBE_SECONDS = 5.0  # a frozen server neither answers nor fails, and whoever asks gives up soon


async def healthz(_: Request) -> Response:
    """GET /healthz: 200 as long as the process answers."""
    return _json(200, {"status": "ok"})


async def readyz(_: Request) -> Response:
    """GET /readyz: 200 if deliveries can be stored. Without Redis they can, and the answer says which it is."""
    database, reachable = await asyncio.gather(_in_time(_database_answers), _in_time(broker.reachable))
    words = {True: "ok", False: "unreachable"}
    return _json(200 if database else 503, {"database": words[database], "broker": words[reachable]})


async def backlog(_: Request) -> Response:
    """GET /health/backlog: 503 when an event or an action has waited longer than BACKLOG_SECONDS; with the ages.

    For a monitor that calls somebody; a platform's health check that restarts processes wants /healthz.
    """
    try:
        ages = await asyncio.to_thread(_oldest_ages)
    except DATABASE_TROUBLE:
        return _json(503, {"database": "unreachable"})
    return _json(503 if max(ages.values()) > settings().backlog_seconds else 200, ages)


async def metrics(request: Request) -> Response:
    """GET /metrics: what all web and worker processes have counted, and what waits in the tables."""
    try:
        content, content_type = await asyncio.to_thread(exposition, request.headers.get("accept", ""))
    except DATABASE_TROUBLE:
        return _json(503, {"database": "unreachable"})
    return Response(content, media_type=content_type)


async def _in_time(answers: Callable[[], bool]) -> bool:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            return await asyncio.to_thread(answers)
    except TimeoutError:
        return False


def _oldest_ages() -> dict[str, float]:
    return {
        "events_oldest_seconds": round(queries.backlog_of(InboxEvent).oldest_seconds, 1),
        "actions_oldest_seconds": round(queries.backlog_of(OutboxAction).oldest_seconds, 1),
    }


def _database_answers() -> bool:
    try:
        with engine().connect() as connection:
            connection.execute(text("SELECT 1"))
    except DATABASE_TROUBLE:
        return False
    return True


def _json(status: int, content: Mapping[str, str | float]) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
