"""Pausing: for a while nothing more of what is owed is done, and nothing of it is lost."""

import structlog
from sqlalchemy import delete
from sqlmodel import col

from config.database import transaction
from handlers.operator.audit import By, note
from handlers.queue.pauses import pause
from handlers.tables.models import Paused

log = structlog.stdlib.get_logger(__name__)

# What an operator calls a destination of what is owed.
PAUSABLE = {"mails": "mail", "calls": "application"}
OPERATORS = "operator: "  # begins an operator's reasons: what a backup pauses goes on when that is over


def pause_now(what: str, by: By) -> None:
    """From now on nothing more of it is begun, until somebody resumes it; what is under way ends. Twice is once."""
    with transaction() as session:
        pause(session, [PAUSABLE[what]], f"{OPERATORS}{by.reason}")
        note(session, by, "pause", [what])
    log.warning("pause.begun", what=what, by=by.who, reason=by.reason)


def resume_now(what: str, by: By) -> list[str]:
    """It goes on, with the next sweep; the operators' reasons for which it was paused."""
    theirs = col(Paused.what) == PAUSABLE[what], col(Paused.reason).startswith(OPERATORS)
    with transaction() as session:
        lifted = session.scalars(delete(Paused).where(*theirs).returning(col(Paused.reason))).all()
        if lifted:
            note(session, by, "resume", [what])
    log.warning("pause.ended", what=what, by=by.who, reasons=lifted)
    return [reason.removeprefix(OPERATORS) for reason in lifted]
