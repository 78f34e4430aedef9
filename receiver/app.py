"""The application: routes, start-up, shutdown."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from config.broker import say_whom_we_trust
from config.defaults import lacks_webhook_secret, webhook_secrets
from config.settings import Settings, settings
from handlers.metrics import heartbeats
from handlers.metrics.counting import start_flushing, stop_flushing
from receiver.connections import Connections
from receiver.headers import EACH, NOTHING, headers
from receiver.health import backlog, healthz, metrics, readyz
from receiver.mishaps import note_failure
from receiver.sender import as_sent
from receiver.webhooks.delivery import Webhook, is_signed
from receiver.webhooks.doubt import Doubt
from receiver.webhooks.intake import Intake

_WEBHOOK = "/webhooks/stripe"
# Rooms that a setting opens; each has a Room with routes() and close().
_ROOMS: dict[str, Callable[[Settings], object]] = {
    "receiver.api.routes": lambda settings: settings.api_tokens,
    "receiver.pages.routes": lambda settings: not settings.why_no_links,
    "receiver.console.routes": lambda settings: settings.console_users,
}
_ROUTES = [
    Route(_WEBHOOK, Response("Method Not Allowed", 405, {"Content-Security-Policy": NOTHING, **EACH, "Allow": "POST"})),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/health/backlog", backlog),
    Route("/metrics", metrics),
]


class Receiver(Starlette):
    """Deliveries go straight to their endpoint; Starlette answers everything else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, or the process's start and end. A slash at the end of a path makes no difference."""
        try:
            if scope["type"] == "http":
                path = scope["path"].removesuffix("/")  # Stripe follows no redirect to the right one
                if path == _WEBHOOK and scope["method"] == "POST":
                    await self.state.webhook(scope, receive, send)
                    return
                scope = as_sent({**scope, "path": path or "/"}, settings().trusted_proxies)
            await super().__call__(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            doing = "deliveries" if scope["path"].startswith(_WEBHOOK) else ""
            note_failure("web", error, doing)  # uvicorn answers 500; its own line would quote the error


def check_pages() -> None:
    """Raises SettingsError if pages are served and one cannot be rendered: else a person would be the first to know."""
    if not settings().why_no_links:
        import_module("handlers.catalogue.check").check()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[dict[str, Connections]]:
    secrets = () if lacks_webhook_secret(settings()) else webhook_secrets(settings())
    intake, doubt = Intake(), Doubt(lambda body, header: any(is_signed(body, header, one) for one in secrets))
    app.state.webhook = Webhook(secrets, intake, doubt)
    # A room that no setting opens is not even imported.
    rooms = [import_module(name).Room() for name, is_wanted in _ROOMS.items() if is_wanted(settings())]
    app.router.routes = [*_ROUTES, *(route for room in rooms for route in room.routes())]
    await asyncio.to_thread(start_flushing, "web")  # it measures the clock by which signatures are judged
    turning = asyncio.create_task(_turn())
    say_whom_we_trust()
    yield {"connections": Connections()}
    turning.cancel()
    for room in rooms:
        await room.close()
    doubt.end()
    await intake.close()
    await asyncio.to_thread(stop_flushing)


async def _turn() -> None:
    """Notes the time at each turn of the event loop, for the heartbeats."""
    try:
        while True:
            heartbeats.IN_HAND["event loop"]["a turn"] = time.monotonic()
            await asyncio.sleep(heartbeats.BEAT_SECONDS)
    finally:
        heartbeats.IN_HAND["event loop"].clear()


async def _refuse(request: Request, error: Any) -> Response:
    """Starlette's answer, with our headers, for an unknown path, such as a mangled link's, or another method."""
    found = headers(request.scope["scheme"], NOTHING) | (error.headers or {})
    return PlainTextResponse(error.detail, error.status_code, found)


app = Receiver(routes=_ROUTES, lifespan=_lifespan, exception_handlers={HTTPException: _refuse})
app.router.redirect_slashes = False
