"""The Starlette application: API, control, page and websocket over one world."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from tests.simulator import (
    api,
    control,
    endpoints,
    errors,
    events_api,
    gate,
    listen,
    modal,
    page,
)
from tests.simulator.calls import Call
from tests.simulator.gate import Handler
from tests.simulator.store import Json
from tests.simulator.world import World

METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH"]


def build(world: World) -> Starlette:
    """The application; each path that it does not know is an unrecognized URL of the API."""
    listening: list[tuple[str, str, Handler]] = [("POST", "/v1/stripecli/sessions", listen.open_session)]
    known = api.ROUTES + events_api.ROUTES + endpoints.ROUTES + listening
    routes: list[Route | WebSocketRoute] = [
        Route(path, gate.guarded(world, handler), methods=[method]) for method, path, handler in known
    ]
    routes += [
        Route("/_control" + path, control.open_to_all(world, handler), methods=[method])
        for method, path, handler in control.ROUTES
    ]
    routes += page.routes(world) + modal.routes(world)
    routes.append(WebSocketRoute(listen.PATH, listen.subscribe))
    routes.append(Route("/{path:path}", gate.guarded(world, _unknown), methods=METHODS))
    app = Starlette(routes=routes, lifespan=_lifespan, exception_handlers={405: _not_routed})
    app.state.world = world
    return app


def _unknown(call: Call) -> Json:
    raise errors.unknown_url(call.method, call.path)


async def _not_routed(request: Request, _error: Exception) -> Response:
    """The answer for a known path with another method."""
    world: World = request.app.state.world
    return await gate.guarded(world, _unknown)(request)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    app.state.world.deliveries.stop()
