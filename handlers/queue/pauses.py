"""Pauses of actions and openings: none is begun for now. Owed actions wait, and none is lost."""

from collections.abc import Sequence

import structlog
from sqlalchemy import delete, select
from sqlmodel import Session, col

from config.database import reading
from config.inserts import NOW, insert_new
from handlers.owed.kinds import KINDS
from handlers.tables.models import Paused

log = structlog.stdlib.get_logger(__name__)

OPENINGS = "openings"
EVERYTHING = sorted({OPENINGS, *(kind.destination for kind in KINDS.values())})


def pause(session: Session, what: Sequence[str], reason: str) -> None:
    """Pauses destinations or openings: none is begun after the commit. Each reason is lifted by itself."""
    rows = [{"what": one, "reason": reason, "since": NOW} for one in what]
    insert_new(session.connection(), Paused, rows)


def resume(session: Session, reason: str) -> None:
    """Ends the pauses for this reason; a pause for another reason stays."""
    session.connection().execute(delete(Paused).where(col(Paused.reason) == reason))


def paused() -> Sequence[Paused]:
    """All pauses, the oldest first."""
    with reading() as session:
        return session.scalars(select(Paused).order_by(col(Paused.since), col(Paused.what))).all()
