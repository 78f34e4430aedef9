"""Unexpected errors of a room, logged without the values that they quote."""

import traceback
from pathlib import Path

import structlog

from handlers.queue.failures import describe

log = structlog.stdlib.get_logger(__name__)


def note_failure(room: str, error: Exception) -> None:
    """Logs an error's type and its place in the code: the server's own line would quote the error."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
    log.error(f"{room}.failed", error=describe(error), where=where)
