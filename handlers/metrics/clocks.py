"""Each process's clock beside the database's, which alone decides: measured once a minute, and shown."""

import os
import socket
from datetime import timedelta

import structlog
from sqlalchemy import func, select
from sqlmodel import col

from config.database import measure_clock, now, statement
from config.inserts import NOW, insert_or
from handlers.queue.failures import describe
from handlers.tables.models import ProcessClock

MEASURED_EVERY = 60.0  # seconds
WRONG = 5.0  # seconds apart: more than any of the small errors of a clock that is set by NTP
_SHOWN_FOR = timedelta(minutes=5)
_LATEST = "(process) DO UPDATE SET ahead_seconds = excluded.ahead_seconds, measured_at = excluded.measured_at"

log = structlog.stdlib.get_logger(__name__)


def measure(kind: str) -> bool:
    """Notes by how much this process's clock is ahead of the database's; whether it could."""
    try:
        ahead = measure_clock()
        row = {"process": f"{kind} {socket.gethostname()} {os.getpid()}", "kind": kind, "ahead_seconds": ahead}
        with statement() as connection:
            insert_or(connection, ProcessClock, [{**row, "measured_at": NOW}], on_conflict=_LATEST, returning="process")
    except Exception as error:  # figures must never disturb the work
        log.warning("clock.not_measured", error=describe(error))
        return False
    if abs(ahead) > WRONG:
        log.warning("clock.wrong", ahead_seconds=round(ahead, 3))
    return True


def measured() -> list[tuple[str, str, float]]:
    """Of each process that was at work in the last minutes: its name, its kind, and its clock's lead; worst first."""
    lead = col(ProcessClock.ahead_seconds)
    latest = select(col(ProcessClock.process), col(ProcessClock.kind), lead)
    latest = latest.where(col(ProcessClock.measured_at) > now(-_SHOWN_FOR)).order_by(-func.abs(lead))
    with statement() as connection:
        return [(row.process, row.kind, row.ahead_seconds) for row in connection.execute(latest)]
