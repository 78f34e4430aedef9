"""The mails: one function each, what it says, to whom, and by which way it goes."""

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.header import Header
from email.message import EmailMessage
from email.policy import default
from email.utils import formatdate
from email.utils import quote as escape
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from config.database import true_now
from config.settings import PLAIN_ADDRESS, Address, parse_address, settings
from handlers.outbox.smtp import MAIL_LEASE, send_by_smtp
from handlers.queue.claims import unless_lost
from handlers.queue.failures import AwayError, NotNowError, PermanentError, stopping
from handlers.record.error_codes import classify
from handlers.stripe_api import sessions
from handlers.tables.models import OutboxAction, VerificationRecord

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """One mail to one person: a template's name, and the key of what is owed, from which its Message-ID follows."""

    template: str
    recipient: Address
    key: tuple[str, str, str]
    number: int = 0  # how many mails the person got before: what is said again later is another mail
    variables: Mapping[str, str | None] = field(repr=False)
    last_look: Callable[[], object] = field(repr=False)  # before it is given away; raises where it must not be


def email_verified(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Tells the person that the verification has succeeded."""
    return _to_the_person(action, record)


def email_retry_prompt(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Asks the person to try again, says what was wrong, and links to the main application."""
    return _to_the_person(
        action,
        record,
        error_class=classify(record.last_error_code),
        reason=record.last_error_reason,  # Stripe: may be shown to the user
        retry_url=retry_url_for(record),
    )


def email_canceled(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Tells the person that the verification has ended, unless the application ended it without a word."""
    if record.ends_quietly:
        return "its end is told to nobody"
    return _to_the_person(action, record)


def email_alternative(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Offers another way, where no retry can help: consent declined, country not supported, under age."""
    return _to_the_person(action, record, error_class=classify(record.last_error_code))


def alert_review(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Asks REVIEW_EMAIL to look at a session: a fraud signal, or too many submissions."""
    return to_the_reviewer(action, record, submissions=str(record.submissions))


def to_the_reviewer(action: OutboxAction, record: VerificationRecord, **variables: str | None) -> str | None:
    """Sends an action's template to REVIEW_EMAIL, with the session's id, the cause and where to look."""
    reviewer = settings().review_email
    if reviewer is None:
        return "no REVIEW_EMAIL"
    dashboard = "https://dashboard.stripe.com/" + ("" if record.livemode else "test/")
    about = {"session_id": record.session_id, "cause": action.cause, "dashboard": dashboard}
    send(_mail(action, reviewer, {**about, **variables}))
    return None


def send(mail: Mail) -> None:
    """Sends by SMTP_URL, or writes an .eml file under VAR_DIR/mail. Raises as `send_by_smtp` does."""
    message = render(mail)
    if stopping.is_set():
        raise NotNowError("the worker was asked to end")
    if settings().smtp_url:
        send_by_smtp(message, mail.recipient.mailbox, mail.last_look)
        return
    folder = settings().var_dir / "mail"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{digest(mail.key, mail.number)}.eml"
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    unfinished.write_bytes(bytes(message))
    unfinished.replace(path)  # a mail written twice is one file


def render(mail: Mail) -> EmailMessage:
    """The mail with its plain-text and HTML parts; the first line of the text template is the subject."""
    sender = settings().mail_from
    variables = {**mail.variables, "sender": sender.name or sender.mailbox}
    subject, _, text = _templates.get_template(f"{mail.template}.txt").render(variables).partition("\n")
    in_utf8 = not (sender.mailbox + mail.recipient.mailbox).isascii()
    # These three stay as they are: the library folds a long name without its quotes, and an id as if it were words.
    message = EmailMessage(default.clone(utf8=in_utf8, refold_source="none"))
    message.set_raw("To", _as_header(mail.recipient))
    message.set_raw("From", _as_header(sender))
    message.set_raw("Message-ID", f"<{digest(mail.key, mail.number)}@{sender.mailbox.rpartition('@')[2]}>")
    message["Subject"] = subject.removeprefix("Subject: ").strip()
    message["Date"] = formatdate(true_now().timestamp())
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.strip() + "\n")
    message.add_alternative(_templates.get_template(f"{mail.template}.html").render(variables), subtype="html")
    return message


def _as_header(address: Address) -> str:
    if not address.name:
        return address.mailbox
    name = f'"{escape(address.name)}"' if address.name.isascii() else Header(address.name, "utf-8").encode()
    return f"{name}\n <{address.mailbox}>"


def digest(key: tuple[str, str, str], number: int = 0) -> str:
    """The Message-ID's part before the @: one for all tries of one mail."""
    return hashlib.sha256("\n".join([*key, str(number)]).encode()).hexdigest()[:32]


def _to_the_person(action: OutboxAction, record: VerificationRecord, **variables: str | None) -> str | None:
    if settings().email_lookup:
        recipient = email_lookup()(record)
    elif settings().stripe_api_key:
        try:
            recipient = sessions.retrieve_email(record.session_id, record.account)
        except AwayError as error:  # which says nothing of the mail server
            raise NotNowError(str(error), error.again_after) from None
    else:
        recipient = None
    if recipient is None:
        return "no address"
    try:
        address = Address("", recipient) if PLAIN_ADDRESS.fullmatch(recipient) else parse_address(recipient)
    except (TypeError, ValueError):  # EMAIL_LOOKUP may give anything
        raise PermanentError("the recipient's address is not valid") from None
    send(_mail(action, address, variables, record.told_count))
    return None


def _mail(action: OutboxAction, recipient: Address, variables: Mapping[str, str | None], number: int = 0) -> Mail:
    key = action.session_id, action.name, action.cause
    last_look = partial(unless_lost, action, MAIL_LEASE, unknown=True)
    return Mail(
        template=action.name, recipient=recipient, key=key, number=number, variables=variables, last_look=last_look
    )


@cache
def email_lookup() -> Callable[[VerificationRecord], str | None]:
    """What EMAIL_LOOKUP names. Raises what its import raises."""
    module, _, name = settings().email_lookup.partition(":")
    lookup: Callable[[VerificationRecord], str | None] = getattr(import_module(module), name)
    return lookup


def retry_url_for(record: VerificationRecord) -> str | None:
    """RETRY_URL for one person; None without it."""
    template = settings().retry_url.get_secret_value()
    if not template:
        return None
    return template.format(
        session_id=quote(record.session_id, safe=""),
        client_reference_id=quote(record.client_reference_id or "", safe=""),
    )
