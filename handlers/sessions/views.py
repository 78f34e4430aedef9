"""Verifications as the application sees them: without name, address, phone, document or secret."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, bindparam, case, exists, func, select, tuple_
from sqlmodel import Session, col

from config.database import brief, transaction
from config.settings import settings
from handlers.record.events import Status
from handlers.sessions.standing import SessionStands, standing
from handlers.stripe_api.changing import Answer
from handlers.tables.models import Verification, VerificationRecord

_ID = re.compile(r"\w{1,255}", re.ASCII)
_COLUMNS = (
    "id",
    "client_reference_id",
    "purpose",
    "account",
    "generation",
    "session_id",
    "verification_flow",
    "livemode",
)


class NotFoundError(Exception):
    """There is no such verification or link."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageQuery:
    """The query of a list: verifications, newest first, `limit` of them, after the last one of the page before."""

    client_reference_id: str | None = None
    purpose: str | None = None
    status: Status | None = None
    verification_flow: str | None = None
    limit: int = 10
    starting_after: str | None = None


def is_of(id_: str | BindParameter[str]) -> ColumnElement[bool]:
    """The condition that a verification has this id, or a session of this id. A list of ids would scan the table."""
    of_session = select(col(VerificationRecord.verification_id)).where(col(VerificationRecord.session_id) == id_)
    return col(Verification.id) == func.coalesce(of_session.correlate(None).scalar_subquery(), id_)


# Built once: building it takes longer than asking.
_COLUMNS_OF_ONE = Verification.__table__.columns  # type: ignore[attr-defined]  # SQLModel hides it
_ONE = select(*_COLUMNS_OF_ONE).where(is_of(bindparam("id")), col(Verification.livemode) == bindparam("livemode"))


def view(id_: str, answer: Answer | None = None) -> dict[str, Any]:
    """One verification with its sessions, by its own id or by a session's. Raises NotFoundError.

    A session that Stripe has just answered is shown by that answer: its record may be a second behind. If it is being
    checked, so is the verification, even if another session is the current one.
    """
    if not _ID.fullmatch(id_):
        raise NotFoundError
    with transaction() as session:
        found = _shown(session, session.scalars(_ours().where(is_of(id_))).all(), answer)
    if not found:
        raise NotFoundError
    return found[0]


def verification(id_: str) -> Verification:
    """The row, by its own id or a session's. Raises NotFoundError."""
    if not _ID.fullmatch(id_):
        raise NotFoundError
    for row in brief(_ONE, {"id": id_, "livemode": settings().livemode}):
        return Verification(**dict(zip(_COLUMNS_OF_ONE.keys(), row, strict=True)))
    raise NotFoundError


def made_elsewhere(session_id: str) -> VerificationRecord:
    """The record of a session that is no verification's: of a static link, the Dashboard or code of the application's
    own. Raises NotFoundError.
    """
    with transaction() as session:
        found = session.get(VerificationRecord, session_id) if _ID.fullmatch(session_id) else None
    if found is None or found.verification_id or found.livemode != settings().livemode:
        raise NotFoundError
    return found


def listed(page: PageQuery) -> tuple[list[dict[str, Any]], bool]:
    """A page, without the sessions, and whether there are more. Raises NotFoundError if `starting_after` is unknown."""
    wanted = _ours().order_by(col(Verification.created_at).desc(), col(Verification.id).desc()).limit(page.limit + 1)
    for name in ("client_reference_id", "purpose", "verification_flow"):
        if (value := getattr(page, name)) is not None:
            wanted = wanted.where(col(getattr(Verification, name)) == value)
    if page.status:
        wanted = wanted.where(_status() == page.status)
    if page.starting_after:
        last = verification(page.starting_after)
        wanted = wanted.where(tuple_(col(Verification.created_at), col(Verification.id)) < (last.created_at, last.id))
    with transaction() as session:
        found = _shown(session, session.scalars(wanted).all())
    for one in found:
        del one["sessions"]
    return found[: page.limit], len(found) > page.limit


def stands_in(record: Any, current_session_id: str | None) -> SessionStands:
    """The part of a session's record, or of a row with its columns, that counts for its verification, which has this
    current session.
    """
    return SessionStands(
        generation=record.generation or 0,
        status=record.status,
        is_known=record.session_id == current_session_id,
        error_code=record.last_error_code,
        submissions=record.submissions,
        is_replaced=record.replaced_at is not None,
    )


def _ours() -> Any:
    return select(Verification).where(col(Verification.livemode) == settings().livemode)


def _status() -> ColumnElement[str]:
    """The status as handlers.sessions.standing has it, in SQL; a test compares the two over all pairs."""
    theirs = col(VerificationRecord.verification_id) == col(Verification.id)
    status, session_id = col(VerificationRecord.status), col(VerificationRecord.session_id)
    known = select(status).where(session_id == col(Verification.session_id)).scalar_subquery()
    heard_of = select(status).where(theirs, col(VerificationRecord.generation) == col(Verification.generation))
    first = heard_of.order_by(session_id).limit(1).scalar_subquery()
    current = case((col(Verification.session_id).is_not(None), known), else_=first)
    is_verified = exists().where(
        theirs, col(VerificationRecord.status) == Status.VERIFIED, col(VerificationRecord.replaced_at).is_(None)
    )
    return case((is_verified, Status.VERIFIED), else_=func.coalesce(current, Status.REQUIRES_INPUT))


def _shown(
    session: Session, verifications: Sequence[Verification], answer: Answer | None = None
) -> list[dict[str, Any]]:
    ids = [one.id for one in verifications]
    records = session.scalars(select(VerificationRecord).where(col(VerificationRecord.verification_id).in_(ids))).all()
    for record in records:
        if answer and record.session_id == answer.id and answer.state.status in list(Status):
            session.expunge(record)  # shown, and not written
            record.status, record.last_error_code = Status(answer.state.status), answer.state.error_code
    is_checked = answer is not None and answer.state.status == Status.PROCESSING
    return [
        _one(one, [record for record in records if record.verification_id == one.id], is_checked=is_checked)
        for one in verifications
    ]


def _one(verification: Verification, records: Sequence[VerificationRecord], *, is_checked: bool) -> dict[str, Any]:
    ordered = sorted(records, key=lambda record: (record.generation or 0, record.session_id))
    stands = standing(
        [stands_in(record, verification.session_id) for record in ordered],
        verification.generation,
        limit=settings().submission_limit,
    )
    if is_checked and stands.status != Status.VERIFIED:
        stands = replace(stands, status=Status.PROCESSING, error_code=None, error_class=None, can_retry=False)
    return {
        **{name: getattr(verification, name) for name in _COLUMNS},
        "status": stands.status,
        "error_code": stands.error_code,
        "error_class": stands.error_class,
        "can_retry": stands.can_retry and verification.redaction_asked_at is None,
        "submissions": stands.submissions,
        "submissions_left": stands.submissions_left,
        "created_at": iso(verification.created_at),
        "updated_at": iso(max([verification.updated_at, *(one.updated_at for one in ordered)])),
        "redacted_at": iso(max((one.redacted_at for one in ordered if one.redacted_at), default=None)),
        "sessions": [_session(record) for record in ordered],
    }


def _session(record: VerificationRecord) -> dict[str, Any]:
    return {
        "session_id": record.session_id,
        "generation": record.generation,
        "status": record.status,
        "error_code": record.last_error_code,
        "submissions": record.submissions,
        "replaced_at": iso(record.replaced_at),
        "redacted_at": iso(record.redacted_at),
        "created_at": iso(record.created_at),
        "updated_at": iso(record.updated_at),
    }


def iso(moment: datetime | None) -> str | None:
    """A moment as the application gets it, or none."""
    return moment.isoformat(timespec="milliseconds") if moment else None
