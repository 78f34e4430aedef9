"""The last of a room's routes: it refuses other paths below the room's, and other methods of its paths."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send


class Unmatched(BaseRoute):
    """Refuses by the room's own function, which gets the methods that the path has: none for an unknown path."""

    def __init__(self, routes: Sequence[Route], refuse: Callable[[Request, set[str]], Awaitable[Response]]) -> None:
        self._routes, self._refuse = routes, refuse
        self._prefixes = [route.path.split("/")[1:2] for route in routes]  # the path "*" has none

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_below = scope["type"] == "http" and scope["path"].split("/")[1:2] in self._prefixes
        return (Match.FULL if is_below else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = {name for one in self._routes if one.matches(scope)[0] is Match.PARTIAL for name in one.methods or ()}
        answer = await self._refuse(Request(scope, receive), allowed)
        await answer(scope, receive, send)
