"""The verification that a session's metadata names, and its effect on the session's record."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlmodel import Session, col

from handlers.owed.kinds import FORGETTING, Owed
from handlers.record.decide import ending
from handlers.record.events import SessionState, Status, VerificationEvent
from handlers.record.ordering import RecordState
from handlers.tables.models import Verification, VerificationRecord


class InvolvedError(Exception):
    """The records involve more verifications than are locked, and those are locked before any record."""

    def __init__(self, verification_ids: set[str]) -> None:
        super().__init__("more verifications are involved")
        self.verification_ids = verification_ids


def lock(session: Session, verification_ids: set[str]) -> tuple[dict[str, Verification], list[str]]:
    """Locks these verifications; returns those that exist, and the ids of all their sessions. So transactions about one
    verification run one after the other.
    """
    # In one order for all workers, and before any record, as an opening does: no deadlock.
    wanted = select(Verification).where(col(Verification.id).in_(verification_ids)).order_by(col(Verification.id))
    found = {one.id: one for one in session.scalars(wanted.with_for_update())}
    theirs = select(col(VerificationRecord.session_id)).where(col(VerificationRecord.verification_id).in_(found))
    return found, list(session.scalars(theirs))


def lock_records(session: Session, *which: ColumnElement[bool]) -> Sequence[VerificationRecord]:
    """Locks the records before several are changed: in the order of their ids, as events lock them."""
    wanted = select(VerificationRecord).where(*which).order_by(col(VerificationRecord.session_id)).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).all()


def link(
    told: Sequence[tuple[VerificationEvent, SessionState]],
    rows: Mapping[str, VerificationRecord],
    verifications: Mapping[str, Verification],
    at: datetime,
) -> None:
    """Links each record to the verification that its session names. A linked record stays linked."""
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
        # rule: a new session of a generation that was given up, or that has another session, is burned
        row.burned_at = at if generation < found.generation or is_another else None
        others = [
            one for one in rows.values() if one.verification_id == found.id and (one.generation or 0) >= generation
        ]
        # rule: a session that belongs before a replaced one is replaced, too
        row.replaced_at = min((one.replaced_at for one in others if one.replaced_at), default=None)
        # rule: a new session of a person who is to be forgotten is forgotten, too
        row.redaction_asked_at = row.redaction_asked_at or (at if found.redaction_asked_at else None)


def forget_verifications(
    verifications: Mapping[str, Verification], rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState]
) -> None:
    """Wipes the personal data of verifications, wherever the redaction was begun."""
    for found in verifications.values():
        theirs = [states[id_].redacted_at for id_, row in rows.items() if row.verification_id == found.id]
        # rule: a verification is wiped once all its sessions are redacted
        if theirs and all(theirs):
            for name in Verification.PERSONAL:
                setattr(found, name, None)


def left(rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState], limit: int) -> dict[str, int]:
    """The limit of each session, less the submissions of its verification's other sessions that were replaced with it,
    or are not replaced either. Sessions after a canceled one do not count against it.
    """

    def uses_up(other: VerificationRecord, row: VerificationRecord) -> bool:
        is_with_it = (other.verification_id, other.replaced_at) == (row.verification_id, row.replaced_at)
        is_later = (other.generation or 0) > (row.generation or 0)
        # rule: a canceled session has reached the limit by those before it alone
        return is_with_it and other is not row and not (is_later and states[row.session_id].status == Status.CANCELED)

    return {
        id_: limit - sum(states[one.session_id].submissions for one in rows.values() if uses_up(one, row))
        if row.verification_id
        else limit
        for id_, row in rows.items()
    }


def owed_besides(
    rows: Mapping[str, VerificationRecord], states: Mapping[str, RecordState], limit: int
) -> Iterator[tuple[str, list[Owed]]]:
    """The actions that sessions of one verification owe because of each other, those without an event here, too."""
    limits = left(rows, states, limit)
    for id_, row in rows.items():
        if row.verification_id:
            # rule: at the limit each session of a verification is ended
            yield id_, ending(states[id_], limits[id_])
            if row.redaction_asked_at:
                yield id_, [Owed(kind, "asked") for kind in FORGETTING]
