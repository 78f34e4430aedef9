"""The answer for a path below a room's that the room does not know."""

import pytest
from starlette.responses import Response
from starlette.routing import Match, Route

from receiver.unmatched import Unmatched


async def _refuse(*_: object) -> Response:
    return Response(status_code=404)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/verify/a/b/c", Match.FULL),
        ("/verify", Match.FULL),
        ("/", Match.NONE),
        ("/verifyx", Match.NONE),
        ("*", Match.NONE),
    ],
)
def test_what_is_below_a_path_is_the_rooms_and_nothing_else(path: str, found: Match) -> None:
    unmatched = Unmatched([Route("/verify/{token}", _refuse)], _refuse)
    assert unmatched.matches({"type": "http", "path": path})[0] is found
