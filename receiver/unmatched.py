"""The last of a room's routes: it refuses what is below their paths and none of them, or another method."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send


class Unmatched(BaseRoute):
    """Refuses by the room's own function, which is given the methods that the path has: none where it is no path."""

    def __init__(self, routes: Sequence[Route], refuse: Callable[[Request, set[str]], Awaitable[Response]]) -> None:
        self._routes, self._refuse = routes, refuse
        self._prefixes = [route.path.split("/")[1:2] for route in routes]  # "*" is a path that has none

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_below = scope["type"] == "http" and scope["path"].split("/")[1:2] in self._prefixes
        return (Match.FULL if is_below else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = {name for one in self._routes if one.matches(scope)[0] is Match.PARTIAL for name in one.methods or ()}
        answer = await self._refuse(Request(scope, receive), allowed)
        await answer(scope, receive, send)
