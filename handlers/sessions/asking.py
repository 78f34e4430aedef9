"""Asking for a new link: the holder of an old one gets it by mail, at the address that Stripe has."""

from datetime import timedelta

from sqlalchemy import select
from sqlmodel import col

from config.database import now, transaction
from config.settings import settings
from handlers.inbox.verifications import lock_records
from handlers.owed.kinds import Owed
from handlers.owed.owe import owe
from handlers.sessions.views import is_of
from handlers.tables.models import OutboxAction, Verification, VerificationRecord

_NAME = "email_link"
_ONE_IN = timedelta(hours=1)


def ask_for_link(subject: str) -> list[int]:
    """Owes the mail to the person of a verification, or of a session made elsewhere; the action's id, to be published.

    Owes none if one was owed in the last hour, the person is forgotten, or nothing has this id; the page says the same
    in any case.
    """
    with transaction() as session:
        its = col(VerificationRecord.session_id) == subject
        # The session may be a verification's by now, which is locked first, as by an opening: no deadlock.
        found = session.scalars(select(Verification).where(is_of(subject)).with_for_update()).first()
        theirs = col(VerificationRecord.verification_id) == found.id if found else its
        records = {record.session_id: record for record in lock_records(session, theirs)}
        record = records.get((found.session_id or "") if found else subject)
        if record is None or record.livemode != settings().livemode:
            return []
        # rule: a forgotten person gets no link
        if record.redacted_at or record.redaction_asked_at:
            return []
        at = session.execute(select(now())).scalar_one()
        lately = select(col(OutboxAction.id)).where(
            col(OutboxAction.session_id).in_(records),
            col(OutboxAction.name) == _NAME,
            col(OutboxAction.created_at) > at - _ONE_IN,
        )
        # rule: a person gets one link an hour, however many ask for it
        if session.execute(lately).first():
            return []
        # Each link has a cause of its own: with the same one, a mail after the purge would repeat a Message-ID.
        return owe(session, [(record.session_id, [Owed(_NAME, f"{at:%Y%m%dT%H%M%SZ}")])], at)
