"""Disclosures, each in the audit first: a person's verified outputs, and all data, for the person's own request."""

from typing import Any

from sqlalchemy import or_, select
from sqlmodel import Session, col

from config.database import transaction
from handlers.operator.audit import By, note
from handlers.operator.queries import find_records
from handlers.outbox.outputs import is_readable, read_outputs
from handlers.tables.models import Audited, InboxEvent, Unanswered, Verification, VerificationRecord, VerifiedOutput

_UNREADABLE = "none of VERIFIED_OUTPUTS_KEY can read what is kept: the key that it was written with is gone"

_IS_OF_A_SESSION = col(Unanswered.what) == "session"


class UnreadableOutputsError(Exception):
    """Outputs are kept, and no key can read them."""


def show_outputs(session_id: str, by: By) -> dict[str, Any] | None:
    """The verified outputs of a session; None if none are kept. Raises UnreadableError.

    The reader and the reason are written down before anything is shown.
    """
    with transaction() as session:
        kept = session.get(VerifiedOutput, session_id)
        if kept is None:
            return None
        if not is_readable(kept.ciphertext):
            raise UnreadableOutputsError(_UNREADABLE)
        note(session, by, "outputs", [session_id])
    return read_outputs(session_id)


def export(word: str, by: By) -> dict[str, list[dict[str, Any]]] | None:
    """All rows that are about a person, by table, and their verified outputs, decrypted; None if nobody is known.

    `word` is a session's or verification's id, a user id or a client_reference_id. The reader is written down first.
    """
    records = find_records(word)
    with transaction() as session:
        named = or_(col(Verification.id) == word, col(Verification.client_reference_id) == word)
        of_these = {record.verification_id for record in records if record.verification_id}
        verifications = session.scalars(
            select(Verification).where(or_(named, col(Verification.id).in_(of_these)))
        ).all()
        theirs = col(VerificationRecord.verification_id).in_([one.id for one in verifications])
        told = (InboxEvent.session_id, InboxEvent.user_id, InboxEvent.client_reference_id)
        session_ids = {record.session_id for record in records}
        for known in (
            select(col(VerificationRecord.session_id)).where(theirs),
            select(col(InboxEvent.session_id)).where(or_(*(col(name) == word for name in told))),
            select(col(Unanswered.name)).where(_IS_OF_A_SESSION, col(Unanswered.name) == word),
        ):
            session_ids |= set(session.scalars(known))
        if not session_ids and not verifications:
            return None
        about = [*(one.id for one in verifications), *sorted(session_ids)]
        note(session, by, "export", about)
        found = _rows_about(session, session_ids)
        found["verification"] = [one.model_dump() for one in verifications]
        found["identity_audit"] = _what_was_done(session, about)
    for row in found["verified_output"]:
        ciphertext = row.pop("ciphertext")
        row["outputs"] = read_outputs(row["session_id"]) if is_readable(ciphertext) else _UNREADABLE
    return found


def _rows_about(session: Session, session_ids: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows about these sessions, of every table that knows sessions, also by another column's name."""
    found = {}
    for name, table in sorted(InboxEvent.metadata.tables.items()):
        if "session_id" in table.columns and name != "verification":
            rows = session.execute(select(table).where(table.c.session_id.in_(session_ids)))
            found[name] = [dict(row._mapping) for row in rows]
    asked = select(Unanswered).where(_IS_OF_A_SESSION, col(Unanswered.name).in_(session_ids))
    found["identity_unanswered"] = [row.model_dump() for row in session.scalars(asked)]
    return found


def _what_was_done(session: Session, about: list[str]) -> list[dict[str, Any]]:
    """The times, ways and kinds of the changes; not their authors, who are other persons."""
    mine = or_(*((" " + col(Audited.about) + " ").contains(f" {one} ", autoescape=True) for one in about))
    rows = session.execute(select(col(Audited.at), col(Audited.way), col(Audited.what)).where(mine))
    return [dict(row._mapping) for row in rows]
