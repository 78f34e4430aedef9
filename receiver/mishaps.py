"""What nobody meant, written down without what it quotes."""

import traceback
from pathlib import Path

import structlog

from handlers.queue.failures import describe

log = structlog.stdlib.get_logger(__name__)


def note_failure(room: str, error: Exception) -> None:
    """What has failed in a room, and where: the server's own line would quote the error."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
    log.error(f"{room}.failed", error=describe(error), where=where)
