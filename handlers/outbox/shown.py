"""A mail written once more, to show an operator its words: without a link that works, and without a name."""

from dataclasses import replace
from urllib.parse import urlsplit

from config.settings import Address
from handlers.catalogue.mails import Written, write_mail
from handlers.outbox.mails import mail_of
from handlers.owed.kinds import KINDS
from handlers.tables.models import OutboxAction, VerificationRecord

_NOBODY = Address("", "nobody@example.com")


def written_anew(action: OutboxAction, record: VerificationRecord) -> Written | None:
    """The mail of an action, by its template, settings and record of now; None if the action sends none.

    Its link would let a reader go on as the person, so only the host is shown; Stripe's reason, which speaks of a
    document, is left out.
    """
    if action.name not in KINDS or KINDS[action.name].destination != "mail":
        return None
    mail = mail_of(action, record, _NOBODY)
    link = urlsplit(mail.about.link_url or "")
    about = replace(mail.about, reason=None, link_url=f"{link.scheme}://{link.hostname}/…" if link.hostname else None)
    return write_mail(mail.template, mail.language, about)
