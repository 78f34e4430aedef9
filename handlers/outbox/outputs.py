"""Verified outputs, only if wanted: fetched after verification, kept encrypted, wiped with the person."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlmodel import col

from config.database import transaction
from config.inserts import NOW, insert_or
from config.settings import settings
from handlers.record.events import Status
from handlers.stripe_api import sessions
from handlers.tables.models import OutboxAction, VerificationRecord, VerifiedOutput

_BATCH = 100  # rows a transaction, each decrypted and encrypted
_KEPT_ANEW = "(session_id) DO UPDATE SET ciphertext = excluded.ciphertext, fetched_at = excluded.fetched_at"


def keep_outputs(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Fetches the outputs in VERIFIED_OUTPUTS and keeps them encrypted; returns the reason if none is kept, or None."""
    found = sessions.retrieve_outputs(record.session_id, record.account, settings().verified_outputs)
    if not found:
        return "no outputs"
    ciphertext = _cipher(settings().verified_outputs_key).encrypt(json.dumps(found).encode()).decode()
    with transaction() as session:
        # Under the record's lock, since a redaction may have come while Stripe answered.
        locked = select(VerificationRecord).where(col(VerificationRecord.session_id) == record.session_id)
        current = session.scalars(locked.with_for_update()).one()
        if current.redacted_at or current.redaction_asked_at:  # rule: no output is kept after a redaction
            return "redacted"
        if current.status != Status.VERIFIED:
            return "superseded"
        row = {"session_id": record.session_id, "ciphertext": ciphertext, "fetched_at": NOW}
        insert_or(session.connection(), VerifiedOutput, [row], on_conflict=_KEPT_ANEW, returning="session_id")
    return None


def read_outputs(session_id: str) -> dict[str, Any] | None:
    """The outputs kept of a session, decrypted by one of VERIFIED_OUTPUTS_KEY; None if there are none.

    Raises cryptography.fernet.InvalidToken if the key that encrypted them is no longer among these.
    """
    with transaction() as session:
        kept = session.get(VerifiedOutput, session_id)
    if kept is None:
        return None
    found: dict[str, Any] = json.loads(_cipher(settings().verified_outputs_key).decrypt(kept.ciphertext))
    return found


def is_readable(ciphertext: str) -> bool:
    """Whether one of VERIFIED_OUTPUTS_KEY decrypts it."""
    keys = settings().verified_outputs_key
    try:
        return bool(keys and _cipher(keys).decrypt(ciphertext))
    except InvalidToken:
        return False


def count_kept() -> int:
    """The number of sessions whose outputs are kept."""
    with transaction() as session:
        return session.scalars(select(func.count()).select_from(VerifiedOutput)).one()


def write_anew() -> Iterator[tuple[list[str], list[str]]]:
    """Encrypts the kept outputs by the newest of VERIFIED_OUTPUTS_KEY; yields the sessions of each batch, and those
    among them that none of the keys can read.

    Outputs under the newest key are left alone, so a run may be cut off, and repeated.
    """
    keys, last, ids = settings().verified_outputs_key, "", [""]
    newest, any_of_them = _cipher(keys[:1]), _cipher(keys)
    while ids:
        unread = []
        some = select(VerifiedOutput).where(col(VerifiedOutput.session_id) > last)
        some = some.order_by(col(VerifiedOutput.session_id)).limit(_BATCH).with_for_update()
        with transaction() as session:
            rows = session.scalars(some).all()
            for row in rows:
                try:
                    newest.decrypt(row.ciphertext)
                except InvalidToken:
                    try:
                        row.ciphertext = any_of_them.rotate(row.ciphertext).decode()
                    except InvalidToken:
                        unread.append(row.session_id)
        ids = [row.session_id for row in rows]
        if ids:
            yield ids, unread
            last = ids[-1]


def _cipher(keys: Sequence[SecretStr]) -> MultiFernet:
    return MultiFernet([Fernet(key.get_secret_value()) for key in keys])
