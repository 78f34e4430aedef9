"""The acts of people: the one being verified, and the reviewer who disagrees."""

from tests.simulator import errors, events, reasons, reports
from tests.simulator.store import Session
from tests.simulator.world import World


def submit(world: World, session: Session) -> Session:
    """Hands documents in; checks are running."""
    _must_be_open(session, "requires_input")
    session.status = "processing"
    session.last_error = None
    events.emit(world, session, "processing")
    return session


def passed(world: World, session: Session) -> Session:
    """Lets the person pass; submits first if they have not."""
    _submitted(world, session)
    report = reports.make(session, world.clock.now(), None)
    world.store.reports[report.id] = report
    session.report_id = report.id
    session.status = "verified"
    session.last_error = None
    session.verified_outputs = reports.verified_outputs(session)
    events.emit(world, session, "verified")
    return session


def failed(
    world: World, session: Session, code: str, *, report: bool | None = None, reason: str | None = None
) -> Session:
    """Lets the person fail; submits first, unless the failure comes before. `report` overrides whether one is left."""
    early = code in reasons.BEFORE_SUBMISSION
    if early:
        _must_be_open(session, "requires_input", "processing")
    else:
        _submitted(world, session)
    if report if report is not None else not early:
        made = reports.make(session, world.clock.now(), code)
        world.store.reports[made.id] = made
        session.report_id = made.id
    _require_input(session, code, reason)
    events.emit(world, session, "requires_input")
    return session


def override(world: World, session: Session, to: str | None = None, code: str = "document_unverified_other") -> Session:
    """A reviewer turns verified into requires_input or the other way; the report stays the same."""
    _must_be_open(session, "verified", "requires_input")
    wanted = to or ("requires_input" if session.status == "verified" else "verified")
    if wanted == session.status or wanted not in ("verified", "requires_input"):
        raise errors.illegal_transition(f"A reviewer cannot turn `{session.status}` into `{wanted}`.")
    if wanted == "verified" and session.report_id is None:
        raise errors.illegal_transition("A reviewer has nothing to approve before a submission.")
    if wanted == "verified":
        session.status, session.last_error = "verified", None
        session.verified_outputs = reports.verified_outputs(session)
    else:
        _require_input(session, code, None)
    events.emit(world, session, wanted)
    return session


def _submitted(world: World, session: Session) -> None:
    if session.status != "processing":
        submit(world, session)


def _require_input(session: Session, code: str, reason: str | None) -> None:
    session.status = "requires_input"
    session.last_error = {"code": code, "reason": reason or reasons.reason(code)}
    session.verified_outputs = None


def _must_be_open(session: Session, *statuses: str) -> None:
    if session.redaction:
        raise errors.illegal_transition("The VerificationSession has been redacted.")
    if session.status not in statuses:
        wanted = " or ".join(f"`{status}`" for status in statuses)
        raise errors.illegal_transition(f"The VerificationSession has status `{session.status}`; it must be {wanted}.")
