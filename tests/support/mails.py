"""A mail as its reader gets it."""

from email import message_from_bytes, policy
from email.message import EmailMessage

from handlers.outbox import mails
from handlers.outbox.mails import Mail


def render(mail: Mail) -> EmailMessage:
    """The mail that is sent, parsed."""
    return message_from_bytes(mails.render(mail), EmailMessage, policy=policy.default)
