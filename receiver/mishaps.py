"""Unexpected errors of a room: logged without the values that they quote, and found until the same work goes well."""

import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from starlette.requests import Request
from starlette.responses import Response

from handlers.metrics import outside
from handlers.queue.failures import describe

log = structlog.stdlib.get_logger(__name__)

_failing: set[str] = set()


Endpoint = Callable[[Request], Awaitable[Response]]


def work(request: Request, endpoint: Endpoint, of: str) -> str:
    """A request's work in the words of a finding, such as "POST sign_in of the console"."""
    return f"{request.method} {endpoint.__name__.strip('_')} of {of}"


def note_failure(room: str, error: Exception, doing: str) -> None:
    """Logs an error's type and its place in the code: the server's own line would quote the error.

    It is a finding until the same work goes well; not where nobody says which work it was.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
    log.error(f"{room}.failed", error=describe(error), where=where)
    if doing:
        _failing.add(doing)
        outside.note_refusal(outside.OURSELVES, f"fails at {doing} ({describe(error)})", doing=doing)


def note_success(doing: str) -> None:
    """Ends the finding of an error at the same work, if there is one."""
    if doing in _failing:
        _failing.discard(doing)
        outside.note_answer(outside.OURSELVES, doing)
