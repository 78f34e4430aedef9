"""The body of a request to a room, read up to a bound; the webhook reads a delivery's by itself."""

from starlette.requests import Request


class TooLongError(Exception):
    """The body is longer than allowed."""


async def read_body(request: Request, most: int) -> bytes:
    """The whole body of `most` bytes at most. Raises TooLongError, or Starlette's ClientDisconnect if it breaks off."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLongError
    return bytes(body)
