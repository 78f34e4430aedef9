"""Seen: the state that a person's own page shows, and the data by which it leads on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from zlib import crc32

from sqlalchemy import bindparam, literal, null, select
from sqlmodel import col

from config.database import brief
from config.settings import settings
from handlers.record.events import Status
from handlers.sessions.standing import Standing, standing
from handlers.sessions.views import NotFoundError, is_of, stands_in
from handlers.tables.models import Verification, VerificationRecord


class _Row(NamedTuple):
    """A session's record beside its verification; where there is none yet, the record's columns are empty."""

    session_id: str | None
    status: Status | None
    last_error_code: str | None
    last_error_reason: str | None
    submissions: int
    change_number: int
    last_report_id: str | None
    replaced_at: datetime | None
    redacted_at: datetime | None
    generation: int | None
    current_generation: int
    current_session_id: str | None
    account: str | None
    locale: str | None
    return_url: str | None
    redaction_asked_at: datetime | None


_READ = [col(getattr(VerificationRecord, name)) for name in _Row._fields[:9]]
# Statements for a verification with its sessions, and for a session of none, in the order of _Row; built once: that
# takes longer than asking.
_THEIRS = (
    select(
        *_READ,
        col(VerificationRecord.generation),
        col(Verification.generation),
        col(Verification.session_id),
        *(col(getattr(Verification, name)) for name in ("account", "locale", "return_url", "redaction_asked_at")),
    )
    .outerjoin(VerificationRecord, col(Verification.id) == col(VerificationRecord.verification_id))
    .where(is_of(bindparam("id")), col(Verification.livemode) == bindparam("livemode"))
)
_ALONE = select(
    *_READ,
    literal(1),
    literal(1),
    col(VerificationRecord.session_id),
    col(VerificationRecord.account),
    null(),
    null(),
    col(VerificationRecord.redaction_asked_at),
).where(
    col(VerificationRecord.session_id) == bindparam("id"),
    col(VerificationRecord.verification_id).is_(None),
    col(VerificationRecord.livemode) == bindparam("livemode"),
)


class Word(StrEnum):
    """The state of a person; each has a page of this name."""

    TODO = "todo"
    FAILED = "failed"
    OPENING = "opening"
    PROCESSING = "processing"
    VERIFIED = "verified"
    ENDED = "ended"
    LIMIT = "limit"
    REDACTED = "redacted"

    @property
    def may_enter(self) -> bool:
        """Whether there is an open session to go into."""
        return self in (Word.TODO, Word.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFacts:
    """The data that a page may know; none of it says who the person is."""

    word: Word
    version: str  # another one with each change and each report of the current session; a stale event leaves it
    account: str | None
    code: str | None  # of the failure
    reason: str | None = field(repr=False)  # Stripe's own sentence, in English
    submissions: int
    can_retry: bool
    locale: str | None
    return_url: str | None = field(repr=False)  # the application's; RETURN_ORIGINS had its origin when it was stored


def seen(subject: str) -> PageFacts:
    """The state by the id in a link of ours: of a verification, of any of its sessions, or of a session made elsewhere.

    Nothing is changed, and Stripe is not asked. Raises NotFoundError.
    """
    for wanted in (_THEIRS, _ALONE):
        rows = brief(wanted, {"id": subject, "livemode": settings().livemode})  # a page that waits asks all the time
        if rows:
            return _seen([_Row(*row) for row in rows])
    raise NotFoundError


def _seen(rows: Sequence[_Row]) -> PageFacts:
    found, records = rows[0], [row for row in rows if row.session_id]
    stands = standing(
        [stands_in(one, found.current_session_id) for one in records],
        found.current_generation,
        limit=settings().submission_limit,
    )
    current = next((one for one in records if one.session_id == found.current_session_id), None)
    is_forgotten = bool(found.redaction_asked_at or (current and current.redacted_at))
    # Any session counts, not only the current one: Stripe may have called it gone in between.
    is_checked = any(one.status == Status.PROCESSING and one.replaced_at is None for one in records)
    changes = max((one.change_number for one in records), default=0)
    report = crc32(((current and current.last_report_id) or "").encode())
    return PageFacts(
        word=_word(stands, is_forgotten=is_forgotten, is_checked=is_checked, is_made=bool(found.current_session_id)),
        version=f"{found.current_generation}.{changes}.{report}",
        account=found.account or None,
        code=stands.error_code,
        reason=current.last_error_reason if current and stands.error_code else None,
        submissions=stands.submissions,
        can_retry=stands.can_retry,
        locale=found.locale,
        return_url=found.return_url,
    )


def _word(stands: Standing, *, is_forgotten: bool, is_checked: bool, is_made: bool) -> Word:
    if is_forgotten:
        return Word.REDACTED
    if stands.status in (Status.VERIFIED, Status.PROCESSING):
        return Word(stands.status)
    # rule: a person who is being checked in any session is shown no button
    if is_checked:
        return Word.PROCESSING
    if not stands.submissions_left:
        return Word.LIMIT
    if stands.status == Status.CANCELED:
        return Word.ENDED
    if not is_made:  # it is made in a moment, or by the next opening if this one has died
        return Word.OPENING
    return Word.FAILED if stands.error_code else Word.TODO
