"""Which verification a session belongs to, as its metadata says, and what that makes of its record."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlmodel import Session, col

from handlers.owed.kinds import Owed
from handlers.record.decide import ending
from handlers.record.events import SessionState, VerificationEvent
from handlers.record.ordering import RecordState
from handlers.tables.models import Verification, VerificationRecord


class InvolvedError(Exception):
    """More verifications are involved than are locked: they are locked before any record."""

    def __init__(self, verification_ids: set[str]) -> None:
        super().__init__("more verifications are involved")
        self.verification_ids = verification_ids


def lock(session: Session, verification_ids: set[str]) -> tuple[dict[str, Verification], list[str]]:
    """Those of them that there are, and the ids of all their sessions. So all that happens to the sessions of one
    verification happens one after the other.
    """
    # In one order for all workers, and before any record, as an opening does: no deadlock.
    wanted = select(Verification).where(col(Verification.id).in_(verification_ids)).order_by(col(Verification.id))
    found = {one.id: one for one in session.scalars(wanted.with_for_update())}
    theirs = select(col(VerificationRecord.session_id)).where(col(VerificationRecord.verification_id).in_(found))
    return found, list(session.scalars(theirs))


def lock_records(session: Session, *which: ColumnElement[bool]) -> Sequence[VerificationRecord]:
    """The records, before several are changed: by their ids in the database's order, as events lock them."""
    wanted = select(VerificationRecord).where(*which).order_by(col(VerificationRecord.session_id)).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).all()


def link(
    told: Sequence[tuple[VerificationEvent, SessionState]],
    rows: Mapping[str, VerificationRecord],
    verifications: Mapping[str, Verification],
    at: datetime,
) -> None:
    """Makes each record one of the verification that its session names. Once it is one of some, it stays so."""
    for event, state in told:
        row, found = rows[event.session_id], verifications.get(state.verification_id or "")
        # rule: a verification of another account or mode is not believed
        if found is None or (found.account, found.livemode) != (event.account or "", event.livemode):
            continue
        generation = state.generation or 0
        if row.verification_id == found.id:
            row.generation = max(row.generation or 0, generation)
        if row.verification_id:
            continue
        row.verification_id, row.generation = found.id, generation
        is_another = generation == found.generation and found.session_id not in (None, row.session_id)
        # rule: what was not known before its generation was given up, or has another session, is burned
        row.burned_at = at if generation < found.generation or is_another else None
        others = [
            one for one in rows.values() if one.verification_id == found.id and (one.generation or 0) >= generation
        ]
        # rule: what belongs before a replaced session is replaced, too
        row.replaced_at = min((one.replaced_at for one in others if one.replaced_at), default=None)
        # rule: what shows up after its person was to be forgotten is forgotten
        row.redaction_asked_at = at if found.redaction_asked_at else None


def forget(
    verifications: Mapping[str, Verification], rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState]
) -> None:
    """Wipes what verifications hold of their persons, wherever the redaction was begun."""
    for found in verifications.values():
        theirs = [states[id_].redacted_at for id_, row in rows.items() if row.verification_id == found.id]
        # rule: a verification is wiped once all its sessions are redacted
        if theirs and all(theirs):
            for name in Verification.PERSONAL:
                setattr(found, name, None)


def left(rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState], limit: int) -> dict[str, int]:
    """How many submissions there may be in each session: those of its verification's others since the last that was
    replaced are used up.
    """
    counted = {id_: row.verification_id for id_, row in rows.items() if row.verification_id and not row.replaced_at}
    used = {
        id_: sum(states[other].submissions for other, theirs in counted.items() if theirs == whose and other != id_)
        for id_, whose in counted.items()
    }
    return {id_: limit - used.get(id_, 0) for id_ in rows}


def owed_besides(
    rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState], limits: Mapping[str, int]
) -> Iterator[tuple[str, list[Owed]]]:
    """What the sessions of verifications owe because of each other, whichever of them the events are about."""
    for id_, row in rows.items():
        if row.verification_id:
            # rule: at the limit each session of a verification is ended
            yield id_, ending(states[id_], limits[id_])
            if row.redaction_asked_at:
                yield id_, [Owed("redact_session", "asked")]
