"""Verified outputs, only if wanted: fetched after verification, kept encrypted, wiped with the person."""

import json
from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from pydantic import SecretStr
from sqlmodel import col, select

from config.database import transaction
from config.inserts import NOW, insert_or
from config.settings import settings
from handlers.record.events import Status
from handlers.stripe_api import sessions
from handlers.tables.models import OutboxAction, VerificationRecord, VerifiedOutput

_KEPT_ANEW = "(session_id) DO UPDATE SET ciphertext = excluded.ciphertext, fetched_at = excluded.fetched_at"


def keep_outputs(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Fetches what VERIFIED_OUTPUTS names and keeps it encrypted; returns why there is nothing to keep, or None."""
    found = sessions.retrieve_outputs(record.session_id, record.account, settings().verified_outputs)
    if not found:
        return "no outputs"
    ciphertext = _cipher(settings().verified_outputs_key).encrypt(json.dumps(found).encode()).decode()
    with transaction() as session:
        # Under the record's lock, since a redaction may have come while Stripe answered.
        locked = select(VerificationRecord).where(col(VerificationRecord.session_id) == record.session_id)
        current = session.scalars(locked.with_for_update()).one()
        if current.redacted_at or current.redaction_asked_at:  # rule: nothing is kept behind a redaction's back
            return "redacted"
        if current.status != Status.VERIFIED:
            return "superseded"
        row = {"session_id": record.session_id, "ciphertext": ciphertext, "fetched_at": NOW}
        insert_or(session.connection(), VerifiedOutput, [row], on_conflict=_KEPT_ANEW, returning="session_id")
    return None


def read_outputs(session_id: str) -> dict[str, Any] | None:
    """What is kept of a session, decrypted by any of VERIFIED_OUTPUTS_KEY; None where nothing is.

    Raises cryptography.fernet.InvalidToken where the key it was written with is no longer among them.
    """
    with transaction() as session:
        kept = session.get(VerifiedOutput, session_id)
    if kept is None:
        return None
    found: dict[str, Any] = json.loads(_cipher(settings().verified_outputs_key).decrypt(kept.ciphertext))
    return found


def _cipher(keys: Sequence[SecretStr]) -> MultiFernet:
    return MultiFernet([Fernet(key.get_secret_value()) for key in keys])
