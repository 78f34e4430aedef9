"""Health: whether this process is alive, whether it can do its work, the backlog, and the metrics.

Anybody may ask, as often as they like: one look answers all requests within a second, and the looks at the database
take turns.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Generic, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from config import broker
from config.database import DATABASE_TROUBLE, hurry
from config.defaults import lacks_webhook_secret
from config.settings import settings
from handlers.metrics import heartbeats
from handlers.metrics.exposition import OPENMETRICS, exposition
from handlers.operator import findings
from handlers.operator.figures import Figures
from receiver.sender import is_this_machine

_LOOK_SECONDS = 5.0  # a frozen server neither answers nor fails, and a monitor gives up soon
_AGES_SECONDS = 1.0  # for an answer of the database's, after the findings
_GOOD_FOR_SECONDS = 1.0
_MOST_WAITING = 20  # for one look; monitors are fewer, and each holds a connection meanwhile

_Seen = TypeVar("_Seen")


class _Look(Generic[_Seen]):
    """A question that a thread answers, for all requests meanwhile and a moment later."""

    def __init__(self, find: Callable[[], _Seen], thread: ThreadPoolExecutor) -> None:
        self._find = find
        self._thread = thread
        self._latest: Future[_Seen] | None = None
        self._ended_at = 0.0
        self._waiting = 0

    async def __call__(self) -> _Seen:
        """The answer. Raises the question's errors, and TimeoutError if it takes too long or too many wait for it."""
        if self._latest is None or (self._latest.done() and time.monotonic() - self._ended_at > _GOOD_FOR_SECONDS):
            self._latest = self._thread.submit(self._look)
        if self._waiting >= _MOST_WAITING:
            raise TimeoutError
        self._waiting += 1
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(self._latest))
        finally:
            self._waiting -= 1

    def _look(self) -> _Seen:
        try:
            return self._find()
        finally:
            self._ended_at = time.monotonic()


async def healthz(_: Request) -> Response:
    """GET /healthz: 200 as long as the process answers."""
    return _json(200, {"status": "ok"})


async def readyz(_: Request) -> Response:
    """GET /readyz: 200 if deliveries can be stored. Without Redis they can, and the answer says so.

    This process's own last heartbeat tells it: a request neither writes to the database nor asks it. Without
    STRIPE_WEBHOOK_SECRET no delivery can be taken for Stripe's.
    """
    trouble, reachable = heartbeats.write_trouble(), await _in_time(_BROKER)
    said = {"database": trouble.word if trouble else "ok", "broker": "ok" if reachable else "unreachable"}
    if lacks_webhook_secret(settings()):
        return _json(503, said | {"webhook_secret": "missing"})
    return _json(503 if trouble else 200, said)


async def backlog(request: Request) -> Response:
    """GET /health/backlog: 503 when something needs a hand, such as an event that has waited longer than
    BACKLOG_SECONDS; with the findings and the ages.

    It is for a monitor that calls somebody; a platform's health check that restarts processes wants /healthz.
    """
    try:
        needed, ages = await _BACKLOG()
        is_failing = any(one.level == findings.FAIL for one in needed)
        shown: dict[str, Any] = {"status": "needs a hand" if is_failing else "ok"}
        if _may_see_figures(request):
            shown |= {"findings": [asdict(one) for one in needed], **ages}
    except (TimeoutError, *DATABASE_TROUBLE):
        return _unreachable()
    return _json(503 if is_failing else 200, shown)


async def metrics(request: Request) -> Response:
    """GET /metrics: the counters of all web and worker processes, and the figures of the tables."""
    if not _may_see_figures(request):
        if settings().metrics_token:
            return _json(401, {"error": "METRICS_TOKEN is not what was sent"}, {"WWW-Authenticate": "Bearer"})
        return _json(403, {"error": "without METRICS_TOKEN the metrics are for this machine only"})
    try:
        content, content_type = await _METRICS[OPENMETRICS in request.headers.get("accept", "")]()
    except (TimeoutError, *DATABASE_TROUBLE):
        return _unreachable()
    return Response(content, media_type=content_type)


def _may_see_figures(request: Request) -> bool:
    """Whether a request may see figures. With a token even this machine needs it: a proxy on it may not say so."""
    token = settings().metrics_token.get_secret_value()
    if not token:
        return is_this_machine(request.scope)
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), token.encode())


async def _in_time(look: _Look[bool]) -> bool:
    try:
        return await look()
    except TimeoutError:
        return False


def _shown(accept: str) -> tuple[bytes, str]:
    return exposition(broker.trouble_now(), accept)


def what_needs_a_hand() -> tuple[list[findings.Finding], dict[str, float]]:
    """All findings of this moment, and the backlogs' ages; no ages without a database, which is a finding itself."""
    figures = Figures(broker.trouble_now())
    needed, ages = findings.judged(figures), dict[str, float]()
    with suppress(*DATABASE_TROUBLE), hurry(answer=_AGES_SECONDS):
        ages = {f"{name}_oldest_seconds": round(one.oldest_seconds, 1) for name, one in figures.backlogs.items()}
    return needed, ages


# One connection for all looks, whoever asks.
_AT_THE_DATABASE = ThreadPoolExecutor(1, "health")
_BROKER = _Look(broker.reachable, ThreadPoolExecutor(1, "broker"))
_BACKLOG = _Look(what_needs_a_hand, _AT_THE_DATABASE)
_METRICS = {asked: _Look(partial(_shown, OPENMETRICS * asked), _AT_THE_DATABASE) for asked in (False, True)}
LOOKS: tuple[_Look[Any], ...] = (_BROKER, _BACKLOG, *_METRICS.values())


def _unreachable() -> Response:
    return _json(503, {"database": "unreachable"})


def _json(status: int, content: Mapping[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
