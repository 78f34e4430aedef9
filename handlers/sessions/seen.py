"""Seen: where somebody stands, as their own page says it, and where it leads them from there."""

from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import select
from sqlmodel import col

from config.database import transaction
from config.settings import settings
from handlers.record.events import Status
from handlers.sessions.standing import SessionStands, Standing, standing
from handlers.sessions.views import NotFoundError, made_elsewhere, stands_in, verification
from handlers.tables.models import VerificationRecord


class Word(StrEnum):
    """Where somebody stands; each has a page of this name."""

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
class Seen:
    """What a page may know; nothing of it says who the person is."""

    word: Word
    version: str  # another one with each change and each submission
    account: str | None
    code: str | None  # of the failure
    reason: str | None = field(repr=False)  # Stripe's own sentence, in English
    submissions: int
    can_retry: bool
    locale: str | None
    return_url: str | None = field(repr=False)  # the application's, which RETURN_ORIGINS had when it was stored


def seen(subject: str) -> Seen:
    """By the id in a link of ours: a verification's, that of any of its sessions, or of a session made elsewhere.

    Nothing is changed, and nobody asked. Raises NotFoundError.
    """
    try:
        found = verification(subject)
    except NotFoundError:
        return _of_one(made_elsewhere(subject))
    theirs = col(VerificationRecord.verification_id) == found.id
    with transaction() as session:
        records = session.scalars(select(VerificationRecord).where(theirs)).all()
    stands = standing([stands_in(one, found) for one in records], found.generation, limit=settings().submission_limit)
    current = next((one for one in records if one.session_id == found.session_id), None)
    is_forgotten = bool(found.redaction_asked_at or (current and current.redacted_at))
    changes = max((one.change_number for one in records), default=0)
    return Seen(
        word=_word(stands, is_forgotten=is_forgotten, is_made=found.session_id is not None),
        version=f"{found.generation}.{changes}.{stands.submissions}",
        account=found.account or None,
        code=stands.error_code,
        reason=current.last_error_reason if current and stands.error_code else None,
        submissions=stands.submissions,
        can_retry=stands.can_retry,
        locale=found.locale,
        return_url=found.return_url,
    )


def _of_one(record: VerificationRecord) -> Seen:
    alone = SessionStands(
        generation=1, status=record.status, error_code=record.last_error_code, submissions=record.submissions
    )
    stands = standing([alone], 1, limit=settings().submission_limit)
    return Seen(
        word=_word(stands, is_forgotten=bool(record.redaction_asked_at or record.redacted_at)),
        version=f"1.{record.change_number}.{record.submissions}",
        account=record.account,
        code=stands.error_code,
        reason=record.last_error_reason if stands.error_code else None,
        submissions=stands.submissions,
        can_retry=stands.can_retry,
        locale=None,
        return_url=None,
    )


def _word(stands: Standing, *, is_forgotten: bool, is_made: bool = True) -> Word:
    if is_forgotten:
        return Word.REDACTED
    if stands.status in (Status.VERIFIED, Status.PROCESSING):
        return Word(stands.status)
    if not stands.submissions_left:
        return Word.LIMIT
    if stands.status == Status.CANCELED:
        return Word.ENDED
    if not is_made:  # in a moment, or by the next opening, where its opener has died
        return Word.OPENING
    return Word.FAILED if stands.error_code else Word.TODO
