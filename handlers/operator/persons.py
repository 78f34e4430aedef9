"""One person: found by whatever is known of them, their sessions, and what happened to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlmodel import col

from config.database import transaction
from handlers.catalogue.mails import Written
from handlers.operator.queries import ACTION_ID, Filter, find_actions, find_events, find_records
from handlers.operator.story import mails, timeline
from handlers.outbox.mails import DASHBOARD
from handlers.outbox.shown import shown
from handlers.tables.models import InboxEvent, OutboxAction, Submission, Verification, VerificationRecord

# The columns that are shown: none of them holds a name, an address or a text about a document.
SHOWN: tuple[str, ...] = ("session_id", "status", "last_error_code", "last_report_id", "client_reference_id")
SHOWN += ("client_reference_trusted", "user_id", "account", "livemode", "submissions", "change_number")
SHOWN += ("told_cause", "told_count", "redaction_asked_at", "redacted_at", "wiped_at", "created_at", "updated_at")


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One session of theirs."""

    record: dict[str, Any]
    generation: int | None
    dashboard_url: str
    reports: Sequence[str]
    timeline: list[dict[str, Any]]
    mails: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Their verification, if it is one of ours, and its sessions, the latest first."""

    verification_id: str | None
    purpose: str | None
    stories: list[Story]


def session_of(word: str) -> str | None:
    """The latest session of who or what this is: a session, verification, user id, client_reference_id, event or
    action.
    """
    records = find_records(word)
    if records:
        return records[0].session_id
    rows: list[InboxEvent | OutboxAction] = [*find_events(Filter(ids=[word]), 1)]
    if ACTION_ID.fullmatch(word):
        rows += find_actions(Filter(ids=[int(word)]), 1)
    return rows[0].session_id if rows else None


def person(session_id: str) -> Person | None:
    """Whose session this is; None where none is known."""
    with transaction() as session:
        record = session.get(VerificationRecord, session_id)
        if record is None:
            return None
        found = session.get(Verification, record.verification_id) if record.verification_id else None
    records = find_records(found.id) if found else [record]
    return Person(
        verification_id=found.id if found else None,
        purpose=found.purpose if found else None,
        stories=[_story(one) for one in records],
    )


def mail_as_shown(action_id: int) -> tuple[OutboxAction, Written] | None:
    """What a mail says, written once more; None where there is none of this number."""
    with transaction() as session:
        action = session.get(OutboxAction, action_id)
        record = session.get(VerificationRecord, action.session_id) if action else None
    written = shown(action, record) if action and record else None
    return (action, written) if action and written else None


def _story(record: VerificationRecord) -> Story:
    theirs = select(col(Submission.report_id)).where(col(Submission.session_id) == record.session_id)
    with transaction() as session:
        reports = session.scalars(theirs.order_by(col(Submission.report_id))).all()
    return Story(
        record={name: getattr(record, name) for name in SHOWN},
        generation=record.generation,
        dashboard_url=f"{DASHBOARD[record.livemode]}{record.session_id}",
        reports=reports,
        timeline=timeline(record),
        mails=mails(record),
    )
