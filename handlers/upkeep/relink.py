"""Relinking: sessions listed at Stripe become their verifications' again, by the metadata they were made with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update
from sqlmodel import col

from config.database import transaction
from config.inserts import insert_new, insert_or
from config.settings import settings
from handlers.inbox.apply import UNTOUCHED
from handlers.record.events import SessionState, VerificationEvent
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import differs, observed

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
        """The columns of its verification, where it is the current one."""
        flow, began_at = self.item.get("verification_flow"), self.created_at
        return {
            "generation": self.generation,
            "session_id": self.item["id"],
            "verification_flow": flow,
            "updated_at": began_at,
        }


def relink(account: str | None, listed: Iterable[tuple[dict[str, Any], SessionState]]) -> tuple[int, int]:
    """Makes the sessions that name a verification its own, and the latest of them its current one.

    How many verifications were not known here, and how many were behind. Of one that is known to Stripe alone the
    purpose is lost, since Stripe is not told it.
    """
    named = {item["id"]: _Named(item, state) for item, state in listed if state.verification_id}
    latest = {one.state.verification_id: one for one in sorted(named.values(), key=lambda one: one.generation)}
    whose = {"account": account or "", "livemode": bool(settings().livemode)}
    ours = [col(getattr(Verification, name)) == value for name, value in whose.items()]
    generation = col(Verification.generation)
    with transaction() as session:
        connection, moved = session.connection(), 0
        in_order = sorted(latest.items())  # and verifications before records, as everywhere: no deadlock
        made = [
            {
                **whose,
                **one.as_current,
                "id": id_,
                "client_reference_id": one.state.client_reference_id,
                "purpose": "",
                "created_at": one.created_at,
            }
            for id_, one in in_order
            if one.state.client_reference_id
        ]
        _give_way(connection, made, ours)
        new = insert_new(connection, Verification, made)
        for id_, one in in_order:
            is_unknown = and_(generation == one.generation, col(Verification.session_id).is_(None))
            behind = update(Verification).where(
                col(Verification.id) == id_, *ours, or_(generation < one.generation, is_unknown)
            )
            moved += connection.execute(behind.values(opening_until=None, **one.as_current)).rowcount
        there = set(session.scalars(select(col(Verification.id)).where(col(Verification.id).in_(latest), *ours)))
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
            if one.state.verification_id in there
        ]
        insert_or(connection, VerificationRecord, records, on_conflict=_LINKED, returning="session_id")
    return len(new), moved


def _give_way(connection: Connection, made: list[dict[str, Any]], ours: Sequence[ColumnElement[bool]]) -> None:
    """Of two that one person has for one purpose, the older was forgotten: it has no reference any more."""
    reference = col(Verification.client_reference_id)
    there = select(reference, col(Verification.id), col(Verification.created_at)).where(
        *ours, reference.in_({row["client_reference_id"] for row in made}), col(Verification.purpose) == ""
    )
    begun = {(row["client_reference_id"], row["id"]): row["created_at"] for row in made}
    begun |= {(whose, id_): created_at for whose, id_, created_at in connection.execute(there)}
    latest = dict(key for key, _ in sorted(begun.items(), key=itemgetter(1)))
    for row in made:
        if latest[row["client_reference_id"]] != row["id"]:
            row["client_reference_id"] = None
    forgotten = update(Verification).where(col(Verification.id).in_({id_ for _, id_ in begun} - {*latest.values()}))
    connection.execute(forgotten.values(client_reference_id=None, return_url=None, locale=None))


def differing(
    account: str | None, listed: Iterable[tuple[dict[str, Any], SessionState]], asked_at: datetime
) -> list[VerificationEvent]:
    """What Stripe has otherwise than we do, as the events that would have said so."""
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
