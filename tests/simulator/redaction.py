"""Redaction: processing, validated, redacted; the event comes at the end."""

import asyncio
from typing import cast

from tests.simulator import errors, events, reports
from tests.simulator.events import NOBODY, Cause
from tests.simulator.store import Json, Session
from tests.simulator.world import World

NEXT = {"processing": "validated", "validated": "redacted"}


def begin(world: World, session: Session, cause: Cause = NOBODY) -> Session:
    """Begins the redaction. A session that requires input is canceled too. Redacting again changes nothing."""
    if session.status == "processing":
        raise errors.illegal_transition("You cannot redact a VerificationSession with status `processing`.")
    if session.redaction:
        return session
    session.redaction = "processing"
    if session.status == "requires_input":
        session.status = "canceled"
        events.emit(world, session, "canceled", cause)
    _go_on_later(world, session)
    return session


def step(world: World, session: Session) -> Session:
    """Moves the redaction one step further; raises ApiError if there is none."""
    if session.redaction not in NEXT:
        raise errors.illegal_transition("No redaction of this VerificationSession is under way.")
    session.redaction = NEXT[session.redaction]
    if session.redaction == "redacted":
        _wipe(world, session)
        events.emit(world, session, "redacted")
    return session


def finish(world: World, session: Session, cause: Cause = NOBODY) -> Session:
    """Redacts the session at once, through all steps."""
    begin(world, session, cause)
    while session.redaction in NEXT:
        step(world, session)
    return session


def _go_on_later(world: World, session: Session) -> None:
    pause = world.settings.redaction_step
    if pause is not None:
        world.redactions.add(session.id)
        asyncio.get_running_loop().call_later(pause, _go_on, world, session)


def _go_on(world: World, session: Session) -> None:
    if session.id not in world.redactions:  # a reset came in between
        return
    world.redactions.discard(session.id)
    if session.redaction in NEXT:  # another request may have been quicker
        step(world, session)
    if session.redaction in NEXT:
        _go_on_later(world, session)


def _wipe(world: World, session: Session) -> None:
    session.metadata = {}
    session.provided_details = dict.fromkeys(session.provided_details, "[redacted]")
    session.verified_outputs = cast("Json | None", reports.redact(session.verified_outputs))
    for report in world.store.reports.values():
        if report.session_id == session.id:
            report.body = cast("Json", reports.redact(report.body))
