"""One person: found by any id that is known of them, with their sessions and the story of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlmodel import col

from config.database import transaction
from handlers.catalogue.mails import Written
from handlers.operator.queries import Filter, find_actions, find_events, find_records
from handlers.operator.reasons import since
from handlers.operator.story import mails, timeline
from handlers.outbox.mails import DASHBOARD
from handlers.outbox.shown import written_anew
from handlers.tables.models import InboxEvent, OutboxAction, Submission, Verification, VerificationRecord

# The columns that are shown: none of them holds a name, an address or a text about a document.
SHOWN: tuple[str, ...] = ("session_id", "status", "last_error_code", "last_report_id", "client_reference_id")
SHOWN += ("client_reference_trusted", "user_id", "account", "livemode", "submissions", "change_number")
SHOWN += ("told_cause", "told_count", "redaction_asked_at", "redacted_at", "wiped_at", "created_at", "updated_at")
MOST_SHOWN = 100  # events, and as many actions, of the session that the page is about
_MOST_OF_OTHERS = 20
_STORIES = 5  # sessions of a verification, the latest
_NAMED = 20  # other sessions of theirs


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One session of the person, with its latest events and actions, `most` of each."""

    record: dict[str, Any]
    generation: int | None
    dashboard_url: str
    reports: Sequence[str]
    timeline: list[dict[str, Any]]
    mails: list[dict[str, Any]]
    most: int
    may_be_more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A person's verification, if it is one of ours, and its sessions, the latest first; and other sessions that may be
    theirs: of the verification, or under the same user id or reference.

    `is_known` is False for a session that only events tell of: there is nothing else then.
    """

    verification_id: str | None
    purpose: str | None
    stories: list[Story]
    others: Sequence[VerificationRecord]
    is_known: bool = True


def sessions_of(word: str) -> list[str]:
    """The latest session of the person or thing that a word names: a session, verification, user id,
    client_reference_id, event or action; and after it that of an action, if its number is also a person's.
    """
    rows: list[VerificationRecord | InboxEvent | OutboxAction] = [*find_records(word, 1)]
    if not rows:
        rows += [*find_events(Filter(ids=[word]), 1), *find_events(Filter(session_id=word), 1)][:1]
    if (number := OutboxAction.id_of(word)) is not None:
        rows += find_actions(Filter(ids=[number]), 1)
    return list(dict.fromkeys(row.session_id for row in rows))


def person(session_id: str) -> Person | None:
    """The person whose session this is; None if it is not known."""
    with transaction() as session:
        record = session.get(VerificationRecord, session_id)
        found = session.get(Verification, record.verification_id) if record and record.verification_id else None
    if record is None:
        return _unknown(session_id)
    records = find_records(found.id, _STORIES) if found else [record]
    if record.session_id not in [one.session_id for one in records]:
        records.append(record)
    return Person(
        verification_id=found.id if found else None,
        purpose=found.purpose if found else None,
        stories=[_story(one, MOST_SHOWN if one.session_id == session_id else _MOST_OF_OTHERS) for one in records],
        others=_others(record, [one.session_id for one in records]),
    )


def also_theirs(id_: str, limit: int | None = None) -> list[str]:
    """The other verifications of a person, and their sessions that were made elsewhere: by the ids of those with a user
    id of this one's, or with a reference of it, where both are the application's own words.
    """
    records = find_records(id_)
    is_typed = col(VerificationRecord.client_reference_trusted).is_(False)
    users = {record.user_id for record in records if record.user_id}
    references = {record.client_reference_id for record in records if record.client_reference_trusted} - {None}
    whose = func.coalesce(col(VerificationRecord.verification_id), col(VerificationRecord.session_id))
    # rule: a session whose reference anybody may have typed is forgotten by its own id alone
    by_reference = and_(col(VerificationRecord.client_reference_id).in_(references), ~is_typed)
    theirs = select(whose.label("id")).where(or_(col(VerificationRecord.user_id).in_(users), by_reference))
    theirs = theirs.where(whose.not_in({record.verification_id or record.session_id for record in records}))
    with transaction() as session:
        return list(session.scalars(theirs.distinct().order_by("id").limit(limit)))


def mail_as_shown(action_id: int) -> tuple[OutboxAction, Written] | None:
    """A mail's action, and its words, written once more; None if no mail has this number."""
    with transaction() as session:
        action = session.get(OutboxAction, action_id)
        record = session.get(VerificationRecord, action.session_id) if action else None
    written = written_anew(action, record) if action and record else None
    return (action, written) if action and written else None


def _unknown(session_id: str) -> Person | None:
    """The person of a session that only events tell of: events that wait, were given up, or are not ours."""
    events = find_events(Filter(session_id=session_id), 1)
    if not events:
        return None
    [event] = events
    record = VerificationRecord(
        session_id=session_id,
        account=event.account,
        livemode=event.livemode,
        created_at=event.received_at,
        updated_at=event.received_at,
    )
    return Person(verification_id=None, purpose=None, stories=[_story(record, MOST_SHOWN)], others=[], is_known=False)


def _others(record: VerificationRecord, told: Sequence[str]) -> Sequence[VerificationRecord]:
    """The latest of the person's sessions that are not among those told."""
    names = ("verification_id", "user_id", "client_reference_id")
    is_theirs = [getattr(VerificationRecord, name) == value for name in names if (value := getattr(record, name))]
    if not is_theirs:
        return []
    wanted = select(VerificationRecord).where(or_(*is_theirs), col(VerificationRecord.session_id).not_in(told))
    with transaction() as session:
        return session.scalars(wanted.order_by(col(VerificationRecord.created_at).desc()).limit(_NAMED)).all()


def _story(record: VerificationRecord, most: int) -> Story:
    theirs = select(col(Submission.report_id)).where(col(Submission.session_id) == record.session_id)
    with transaction() as session:
        reports = session.scalars(theirs.order_by(col(Submission.report_id)).limit(most)).all()
    lines = timeline(record, most)
    return Story(
        record={name: getattr(record, name) for name in SHOWN}
        | {"told_cause": since(record.told_cause) if record.told_cause else None},
        generation=record.generation,
        dashboard_url=f"{DASHBOARD[record.livemode]}{record.session_id}",
        reports=reports,
        timeline=lines,
        mails=mails(record, most),
        most=most,
        may_be_more=len(lines) >= most,
    )
