"""The mails: the subject, the recipient and the way of each."""

import hashlib
import os
import threading
import time
from binascii import b2a_qp
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from email import utils
from email.header import Header
from functools import cache, partial
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import bindparam, exists, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from config.database import statement, true_now
from config.settings import PLAIN_ADDRESS, Address, parse_address, settings
from handlers.catalogue.mails import About, write_mail
from handlers.catalogue.words import language_for
from handlers.metrics import counting, outside
from handlers.outbox.smtp import MAIL_LEASE, send_by_smtp
from handlers.owed.kinds import KINDS, LIMIT_CAUSE, Kind
from handlers.owed.limits import ELSEWHERE
from handlers.queue.claims import unless_lost
from handlers.queue.failures import AwayError, NotNowError, PermanentError, stopping
from handlers.record.decide import REPLACED
from handlers.record.error_codes import ErrorClass, classify
from handlers.record.events import NOT_OURS, Status
from handlers.sessions.links import link_to
from handlers.stripe_api import sessions
from handlers.tables.models import ActionStatus, OutboxAction, Verification, VerificationRecord

DASHBOARD = {  # Stripe's page of a session, by its mode
    True: "https://dashboard.stripe.com/identity/verification-sessions/",
    False: "https://dashboard.stripe.com/test/identity/verification-sessions/",
}
_SIBLING = aliased(VerificationRecord)
# A row if another session is the verification's current one, or was passed or is being checked instead.
_PASSED_BY = select(col(Verification.id)).where(
    col(Verification.id) == bindparam("of"),
    or_(
        col(Verification.session_id).is_distinct_from(bindparam("session_id")),
        exists().where(
            col(_SIBLING.verification_id) == col(Verification.id),
            col(_SIBLING.replaced_at).is_(None),
            col(_SIBLING.status).in_((Status.VERIFIED, Status.PROCESSING)),
        ),
    ),
)
NO_SERVER = "no SMTP_URL"
_LOOKUP_SECONDS = 10.0  # for EMAIL_LOOKUP, as for a call
_MOST_LEFT = 20  # threads that still wait for EMAIL_LOOKUP, and hold up nobody
_LEFT_SECONDS = 900.0  # until such a thread counts no more: it may wait for ever, and other mails must not
_folder_refuses = threading.Event()
_ADDRESSES = "say an address"  # the act that is asked of EMAIL_LOOKUP
_askers = threading.local()  # the calls that a thread of EMAIL_LOOKUP makes for this one
_left: dict[str, float] = {}  # the start of each such thread, by its session
# The language of a session's verification, and the submissions that its other sessions have used up.
_OF_ITS_VERIFICATION = (
    select(col(Verification.locale), ELSEWHERE)
    .join(VerificationRecord, col(VerificationRecord.verification_id) == col(Verification.id))
    .where(col(VerificationRecord.session_id) == bindparam("about"))
)

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """One mail to one person: a template's name, and its action's key, from which its Message-ID follows."""

    template: str
    recipient: Address
    key: tuple[str, str, str]
    number: int = 0  # the mails to the person before it: a later one with the same words is another mail
    language: str
    reply_to: Address | None = None
    about: About
    last_look: Callable[[], object] = field(repr=False)  # called before it is given away; raises to prevent it


def to_the_person(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Sends an action's template to its person, in their language."""
    if settings().email_lookup:
        recipient = _look_up(record)
    elif settings().stripe_api_key:
        recipient = _of_stripe(sessions.retrieve_email, record)
    else:
        return "no STRIPE_API_KEY"
    if recipient is None:
        return "no address"
    try:
        address = Address("", recipient) if PLAIN_ADDRESS.fullmatch(recipient) else parse_address(recipient)
    except (TypeError, ValueError):  # EMAIL_LOOKUP may give anything
        raise PermanentError("the recipient's address is not valid") from None
    mail = mail_of(action, record, address)
    number = record.told_count if KINDS[action.name].tells_the_person else _uncounted_number(action)
    send(replace(mail, number=number, reply_to=settings().support_email))
    return None


def to_the_person_unless_quiet(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Sends it as `to_the_person`, unless the session was ended quietly, or to be replaced."""
    if record.replacing_at:
        return REPLACED
    return "its end is told to nobody" if record.ends_quietly else to_the_person(action, record)


def a_new_link(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Sends the person a link, if links are made."""
    return "no links are made" if settings().why_no_links else to_the_person(action, record)


def to_who_has_not_begun(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Sends it as `to_the_person`, unless another session goes on, or Stripe knows more of this one than we do."""
    if record.verification_id:
        about = {"of": record.verification_id, "session_id": record.session_id}
        with statement() as connection:
            # rule: a person who goes on with another session is not reminded of this one
            if connection.execute(_PASSED_BY, about).first():
                return "another session goes on"
    if settings().stripe_api_key:
        found = _of_stripe(sessions.retrieve_state, record)
        # rule: a person who has begun by Stripe's word is not reminded, however late the events are
        if not found or (found.state.status, found.state.error_code) != (Status.REQUIRES_INPUT, None):
            return "begun or gone at Stripe"
        # rule: a session that is another's by Stripe's word is reminded of by its owner
        if found.state.is_ours is False and not record.verification_id:
            return NOT_OURS
    return to_the_person(action, record)


def to_the_reviewer(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Sends an action's template to REVIEW_EMAIL, in the first of LOCALES."""
    reviewer = settings().review_email
    if reviewer is None:
        return "no REVIEW_EMAIL"
    send(replace(mail_of(action, record, reviewer), number=_uncounted_number(action)))
    return None


def send(mail: Mail) -> None:
    """Sends by SMTP_URL, or writes an .eml file under VAR_DIR/mail. Raises as `send_by_smtp` does.

    Raises NotNowError if no setting names a way, since a file may be lost with its machine; or if it cannot be written.
    """
    message = render(mail)
    if stopping.is_set():
        raise NotNowError("the worker was asked to end")
    if not settings().mails_go_out:
        raise NotNowError(NO_SERVER)
    if not settings().mails_are_files:
        send_by_smtp(message, mail.recipient.mailbox, mail.last_look)
        return
    path = settings().var_dir / "mail" / f"{digest(mail.key, mail.number)}.eml"
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished.write_bytes(message)
        unfinished.replace(path)  # a mail written twice is one file
    except OSError as error:
        word = f"takes no mail: {error.strerror}"
        outside.note_refusal(outside.MAIL_FOLDER, word)
        _folder_refuses.set()
        raise NotNowError(f"{outside.MAIL_FOLDER} {word}") from None
    if _folder_refuses.is_set():
        _folder_refuses.clear()
        outside.note_answer(outside.MAIL_FOLDER)


def render(mail: Mail) -> bytes:
    """The mail as it is sent: both its parts in ASCII, for any letters, since some servers take nothing else.

    Put together by hand: the library takes forty times as long, and folds a long name without its quotes, an id as if
    it were words, and a subject so that its first line is empty. A header in UTF-8 is one with an address that is not
    ASCII.
    """
    sender = settings().mail_from
    written = write_mail(mail.template, mail.language, mail.about)
    as_it_is = written.subject.isascii() and "=?" not in written.subject
    message_id = digest(mail.key, mail.number)
    headers = {
        "To": _as_header(mail.recipient),
        "From": _as_header(sender),
        **({"Reply-To": _as_header(mail.reply_to)} if mail.reply_to else {}),
        "Message-ID": f"<{message_id}@{sender.mailbox.rpartition('@')[2]}>",
        "Subject": written.subject if as_it_is else Header(written.subject, "utf-8", header_name="Subject").encode(),
        "Date": utils.formatdate(true_now().timestamp()),
        "Auto-Submitted": "auto-generated",
        "Content-Language": mail.language,
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/alternative; boundary="=_{message_id}"',  # in no encoded part
    }
    pieces = ["\n".join(f"{name}: {value}" for name, value in headers.items()), "\n"]
    for subtype, text in (("plain", written.text), ("html", written.html)):
        pieces.append(f'\n--=_{message_id}\nContent-Type: text/{subtype}; charset="utf-8"\n')
        pieces.append(f"Content-Transfer-Encoding: quoted-printable\n\n{b2a_qp(text.encode()).decode()}")
    return "".join([*pieces, f"\n--=_{message_id}--\n"]).encode()


def _as_header(address: Address) -> str:
    if not address.name:
        return address.mailbox
    name = f'"{utils.quote(address.name)}"' if address.name.isascii() else Header(address.name, "utf-8").encode()
    return f"{name}\n <{address.mailbox}>"


def message_id(action: OutboxAction, record: VerificationRecord) -> str | None:
    """The Message-ID of an action's last mail, or of the one that it is about to send; None if it sends no mail."""
    key = (action.session_id, action.name, action.cause)
    if KINDS.get(action.name, Kind()).tells_the_person:
        is_over = action.status in (ActionStatus.DONE, ActionStatus.SKIPPED)
        number = action.mail_number if is_over else record.told_count
    else:
        is_mail = action.name in KINDS and KINDS[action.name].destination == "mail"
        number = _uncounted_number(action) if is_mail and action.status != ActionStatus.SKIPPED else None
    domain = settings().mail_from.mailbox.rpartition("@")[2]
    return None if number is None else f"<{digest(key, number)}@{domain}>"


def _uncounted_number(action: OutboxAction) -> int:
    """The number of a mail that no record counts (a reviewer's, a link): 0, or the moment of its being sent again."""
    return int(action.resent_at.timestamp()) if action.resent_at else 0


def digest(key: tuple[str, str, str], number: int = 0) -> str:
    """The Message-ID's part before the @: one for all tries of one mail."""
    return hashlib.sha256("\n".join([*key, str(number)]).encode()).hexdigest()[:32]


def mail_of(action: OutboxAction, record: VerificationRecord, recipient: Address) -> Mail:
    """An action's mail, with the facts that it tells and its language."""
    kind = KINDS[action.name]
    # A cause that is a state says its code and report; the record may have moved on.
    state, _, report_id = action.cause.rpartition(":")
    code = state.partition(":")[2] if state else record.last_error_code
    language, submissions, link_url = settings().locales[0], record.submissions, None
    if record.verification_id:
        with statement() as connection:
            locale, elsewhere = connection.execute(_OF_ITS_VERIFICATION, {"about": record.session_id}).one()
        # rule: a mail counts the submissions of all sessions of a verification
        submissions += elsewhere
        language = language if kind.is_alert else language_for(locale)
    at_limit = action.cause == "canceled" and submissions >= settings().submission_limit
    # rule: RETRY_URL wins if the person is to try again
    if kind.link == "retry" and settings().retry_url:
        link_url = retry_url_for(record)
    elif kind.link and not settings().why_no_links:
        # rule: a mail's link leads to the session that is current when it is read
        link_url = link_to(record.verification_id or record.session_id).url
    about = About(
        session_id=record.session_id,
        verification_id=record.verification_id,
        account=record.account,
        livemode=record.livemode,
        code=code or None,
        report_id=(report_id if state else record.last_report_id) or None,
        reason=record.last_error_reason if code == record.last_error_code else None,  # Stripe: may be shown to the user
        link_url=link_url,
        submissions=submissions,
        is_at_limit=at_limit or action.cause == LIMIT_CAUSE,
        will_cancel=bool(settings().stripe_api_key),
        dashboard_url=DASHBOARD[record.livemode] + quote(record.session_id, safe=""),
    )
    if not kind.is_alert and about.code and classify(about.code) is ErrorClass.FRAUD_SIGNAL:  # no person is told of it
        about = replace(about, code=None, reason=None)
    return Mail(
        template=action.name,
        recipient=recipient,
        key=(action.session_id, action.name, action.cause),
        language=language,
        about=about,
        last_look=partial(unless_lost, action, MAIL_LEASE, unknown=True),
    )


def _of_stripe(ask: Callable[[str, str | None], _Answer], record: VerificationRecord) -> _Answer:
    try:
        return ask(record.session_id, record.account)
    except AwayError as error:  # it says nothing of the mail server
        raise NotNowError(str(error), error.again_after) from None


def _look_up(record: VerificationRecord) -> str | None:
    """The answer of EMAIL_LOOKUP, or its exception, if it comes in the time of any call to the outside.

    Nobody can interrupt its thread, so a late one is left alone. Raises NotNowError then, and for as long as the
    function has not answered about this session, or about many.
    """
    about, answers, since = record.session_id, SimpleQueue[tuple[str | None, Exception | None]](), time.monotonic()

    def ask() -> None:
        try:
            answers.put((email_lookup()(record), None))
        except Exception as error:  # it may raise anything
            answers.put((None, error))
        except BaseException as error:  # the end of a coroutine or a process: no thread of ours ends by it
            answers.put((None, RuntimeError(type(error).__name__)))
        if _left.pop(about, None):
            outside.note_answer(outside.LOOKUP, _ADDRESSES)

    left = {one for one, began in list(_left.items()) if since - began < _LEFT_SECONDS}
    # rule: EMAIL_LOOKUP is not asked again while it has not answered
    if about in left or len(left) >= _MOST_LEFT:
        raise NotNowError("EMAIL_LOOKUP has not answered yet")
    if not hasattr(_askers, "calls"):  # a thread for each mail would take a fifth of its time
        _askers.calls = SimpleQueue()
        threading.Thread(target=_ask, args=(_askers.calls,), name="EMAIL_LOOKUP", daemon=True).start()
    _askers.calls.put(partial(copy_context().run, ask))
    try:
        address, error = answers.get(timeout=_LOOKUP_SECONDS)
    except Empty:
        _askers.calls.put(None)
        del _askers.calls
        _left[about] = since
        counting.NO_ANSWERS.labels(of=outside.LOOKUP, why="unreached").inc()
        outside.note_refusal(outside.LOOKUP, "does not answer in time", doing=_ADDRESSES, about=about)
        raise NotNowError("EMAIL_LOOKUP has not answered in time") from None
    if left:
        outside.note_answer(outside.LOOKUP, _ADDRESSES)
    if error:
        raise error
    return address


def _ask(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    """Makes the calls of one of the mails' threads, until it is left alone."""
    while call := calls.get():
        call()


@cache
def email_lookup() -> Callable[[VerificationRecord], str | None]:
    """The function that EMAIL_LOOKUP names. Raises the errors of its import."""
    module, _, name = settings().email_lookup.partition(":")
    lookup: Callable[[VerificationRecord], str | None] = getattr(import_module(module), name)
    return lookup


def retry_url_for(record: VerificationRecord) -> str:
    """RETRY_URL for one person."""
    return (
        settings()
        .retry_url.get_secret_value()
        .format(
            session_id=quote(record.session_id, safe=""),
            client_reference_id=quote(record.client_reference_id or "", safe=""),
        )
    )
