"""Pausing: mails or calls wait for a while, and none of them is lost."""

import structlog
from sqlalchemy import delete
from sqlmodel import col

from config.database import transaction
from handlers.operator.audit import By, note
from handlers.queue.pauses import pause
from handlers.tables.models import Paused

log = structlog.stdlib.get_logger(__name__)

# The operators' word for each destination of actions.
PAUSABLE = {"mails": "mail", "calls": "application"}
OPERATORS = "operator: "  # begins an operator's reasons; `restored` lifts its own pauses by itself


def pause_now(what: str, by: By) -> None:
    """Begins no more mails or calls until somebody resumes them; those under way end. Twice for one reason is once."""
    with transaction() as session:
        pause(session, [PAUSABLE[what]], f"{OPERATORS}{by.reason}")
        note(session, by, "pause", [what])
    log.warning("pause.begun", what=what, by=by.who, reason=by.reason)


def resume_now(what: str, by: By) -> list[str]:
    """Lets mails or calls go on, with the next sweep. Returns the operators' reasons for which they were paused."""
    theirs = col(Paused.what) == PAUSABLE[what], col(Paused.reason).startswith(OPERATORS)
    with transaction() as session:
        lifted = session.scalars(delete(Paused).where(*theirs).returning(col(Paused.reason))).all()
        if lifted:
            note(session, by, "resume", [what])
    if lifted:
        log.warning("pause.ended", what=what, by=by.who, reasons=lifted)
    return [reason.removeprefix(OPERATORS) for reason in lifted]
