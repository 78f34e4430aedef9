"""The body of a request to a room, read no further than it may be; a delivery's is the webhook's own."""

from starlette.requests import Request


class TooLongError(Exception):
    """It goes on beyond what may be sent."""


async def read_body(request: Request, most: int) -> bytes:
    """All of it, `most` bytes at most. Raises TooLongError, and Starlette's ClientDisconnect where it breaks off."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLongError
    return bytes(body)
