"""Relinking: links listed sessions to their verifications again, by the metadata they were made with."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlmodel import col

from config.database import now, transaction
from config.inserts import NOW, insert_new, insert_or
from config.settings import settings
from handlers.inbox.apply import UNTOUCHED
from handlers.inbox.verifications import lock, lock_records
from handlers.record.events import PURPOSE, SessionState, VerificationEvent
from handlers.sessions.making import our_mark
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import differs, observed

_A_PURPOSE = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # as the API takes it
_LINKED = (
    "(session_id) DO UPDATE SET verification_id = excluded.verification_id, generation = excluded.generation,"
    " verification_flow = excluded.verification_flow WHERE verification_record.verification_id IS NULL"
)


@dataclass(frozen=True, slots=True)
class _Named:
    """A listed session that names a verification."""

    item: dict[str, Any]
    state: SessionState

    @property
    def generation(self) -> int:
        return self.state.generation or 0

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(self.item["created"], UTC)

    @property
    def as_current(self) -> dict[str, Any]:
        """The columns of its verification, if this is the current session."""
        return {
            "generation": self.generation,
            "session_id": self.item["id"],
            "verification_flow": self.item.get("verification_flow"),
        }


def relink(account: str | None, listed: Sequence[tuple[dict[str, Any], SessionState]]) -> tuple[int, int]:
    """Links the sessions that name a verification to it, and makes the latest of them its current one.

    Returns how many verifications were unknown here, and how many were behind. An unknown one gets the purpose that its
    metadata names, or else an empty one; if its person has a verification for that already, its own id. One that only
    another environment on the account knows stays unknown.
    """
    named = {item["id"]: _Named(item, state) for item, state in listed if state.verification_id}
    purposes = purposes_of(listed)
    latest = {one.state.verification_id: one for one in sorted(named.values(), key=lambda one: one.generation)}
    whose = {"account": account or "", "livemode": bool(settings().livemode)}
    ours = [col(getattr(Verification, name)) == value for name, value in whose.items()]
    generation = col(Verification.generation)
    with transaction() as session:
        connection, moved = session.connection(), 0
        in_order = sorted(latest.items())
        made = [
            {
                **whose,
                **one.as_current,
                "id": id_,
                "client_reference_id": one.state.client_reference_id,
                "purpose": purposes.get(id_ or "", ""),
                "created_at": one.created_at,
                "updated_at": NOW,
            }
            for id_, one in in_order
            # rule: a verification that is unknown here is ours by our mark, if we mark what we open
            if one.state.client_reference_id and (one.state.is_ours or not our_mark())
        ]
        new = insert_new(connection, Verification, made)
        there = lock(session, set(map(str, latest)))[0]
        another = [{**row, "purpose": row["id"]} for row in made if row["id"] not in there]
        new += insert_new(connection, Verification, another)
        for id_, one in in_order:
            is_unknown = and_(generation == one.generation, col(Verification.session_id).is_(None))
            behind = update(Verification).where(
                col(Verification.id) == id_, *ours, or_(generation < one.generation, is_unknown)
            )
            # Not its created_at: an adopted session may be older than the verification that adopted it.
            values = {**one.as_current, "opening_until": None, "updated_at": now()}
            moved += connection.execute(behind.values(values)).rowcount
        known = set(session.scalars(select(col(Verification.id)).where(col(Verification.id).in_(latest), *ours)))
        records = [
            {
                **UNTOUCHED,
                "session_id": session_id,
                "account": account,
                "livemode": whose["livemode"],
                "verification_id": one.state.verification_id,
                "generation": one.generation,
                "verification_flow": one.item.get("verification_flow"),
                "created_at": one.created_at,  # it counts against OPENINGS_PER_DAY
            }
            for session_id, one in sorted(named.items())
            if one.state.verification_id in known
        ]
        added = set(insert_new(connection, VerificationRecord, records))
        lock_records(session, col(VerificationRecord.session_id).in_(named))
        there_before = [row for row in records if row["session_id"] not in added]
        insert_or(connection, VerificationRecord, there_before, on_conflict=_LINKED, returning="session_id")
    return len(new), moved


def purposes_of(listed: Iterable[tuple[dict[str, Any], SessionState]]) -> dict[str, str]:
    """The purposes in the sessions' metadata, by verification; a session made by an older version names none."""
    said = ((state.verification_id, (item.get("metadata") or {}).get(PURPOSE)) for item, state in listed)
    return {id_: word for id_, word in said if id_ and isinstance(word, str) and _A_PURPOSE.fullmatch(word)}


def give_way(account: str | None, redacted: Collection[str], purposes: Mapping[str, str]) -> list[str]:
    """Forgets a verification whose sessions are all redacted, and gives its purpose to a later one of the same person
    that has lost its own. Returns the ids of the verifications whose purpose stays lost.
    """
    whose = col(Verification.account) == (account or ""), col(Verification.livemode) == bool(settings().livemode)
    reference = col(Verification.client_reference_id)
    is_lost = col(Verification.purpose) == col(Verification.id)
    persons = select(reference).where(*whose, is_lost, reference.is_not(None))
    clashing = select(col(Verification.id)).where(*whose, reference.in_(persons))
    with transaction() as session:
        verifications = lock(session, set(session.scalars(clashing)))[0]
        theirs = session.scalars(
            select(VerificationRecord).where(col(VerificationRecord.verification_id).in_(verifications))
        ).all()
        ended = [
            record
            for record in theirs
            if record.session_id in redacted or record.redacted_at or record.redaction_asked_at
        ]
        remembered = {record.verification_id for record in theirs if record not in ended}
        forgotten = {record.verification_id for record in ended} - remembered
        by_age = sorted(verifications.values(), key=lambda one: one.created_at)
        freed = {(one.client_reference_id, one.purpose) for one in by_age if one.id in forgotten}
        for one in by_age:
            if one.id in forgotten:
                for name in Verification.PERSONAL:
                    setattr(one, name, None)
        session.flush()  # before another row gets their reference and purpose
        for one in reversed(by_age):
            purpose = purposes.get(one.id, "")
            if one.purpose == one.id and (one.client_reference_id, purpose) in freed:
                freed.remove((one.client_reference_id, purpose))
                one.purpose = purpose
        return [one.id for one in by_age if one.client_reference_id and one.purpose == one.id]


def differing_sessions(
    account: str | None, listed: Iterable[tuple[dict[str, Any], SessionState]], asked_at: datetime
) -> list[VerificationEvent]:
    """The listed sessions that differ from our records, as events that show them."""
    states = {item["id"]: state for item, state in listed}
    rows = select(VerificationRecord).where(col(VerificationRecord.session_id).in_(states))
    with transaction() as session:
        ours = {record.session_id: record for record in session.scalars(rows)}
    events = (
        observed(session_id, account, bool(settings().livemode), state, asked_at)
        for session_id, state in states.items()
        if differs(ours.get(session_id), state)
    )
    return [event for event in events if event]
