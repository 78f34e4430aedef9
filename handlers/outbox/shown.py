"""A mail written once more, for who asks what somebody got: nothing in it leads anywhere, and nobody is named."""

from dataclasses import replace
from urllib.parse import urlsplit

from config.settings import Address
from handlers.catalogue.mails import Written, write_mail
from handlers.outbox.mails import mail_of
from handlers.owed.kinds import KINDS
from handlers.tables.models import OutboxAction, VerificationRecord

_REVIEWERS = "alert_review"  # the registry would bring what web has no use for
_NOBODY = Address("", "nobody@example.com")


def shown(action: OutboxAction, record: VerificationRecord) -> Written | None:
    """As its template, its settings and its record are now; None where it is no mail.

    Whoever has a link may go on as the person, so only its host is left of it; Stripe's reason speaks of a document.
    """
    if action.name not in KINDS or KINDS[action.name].destination != "mail":
        return None
    mail = mail_of(action, record, _NOBODY, is_persons=action.name != _REVIEWERS)
    link = urlsplit(mail.about.link_url or "")
    about = replace(mail.about, reason=None, link_url=f"{link.scheme}://{link.hostname}/…" if link.hostname else None)
    return write_mail(mail.template, mail.language, about)
