"""Render a template, send one mail, and know which errors are permanent."""

import hashlib
import os
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.errors import NonASCIILocalPartDefect
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from config.settings import settings
from handlers.queue.failures import NotNowError, PermanentError, RefusedError, unless_stopping

_CONNECT_SECONDS = 10.0
# With the address look-up well below a lease, as nobody else may send meanwhile, and below the 30 s that a platform
# gives a process to end. All of it may go into the answer to the mail: who stops waiting for that sends it twice.
_TOTAL_SECONDS = 25.0

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
    recipient: str = field(repr=False)
    key: tuple[str, str, str]
    words: Mapping[str, str | None] = field(repr=False)


def send(mail: Mail) -> None:
    """Sends by SMTP_URL, or writes an .eml file under VAR_DIR/mail.

    Raises PermanentError where this mail can never be sent, NotNowError where the server cannot be reached, and
    RefusedError where it refused for now.
    """
    message = render(mail)
    unless_stopping()
    if settings().smtp_url:
        _send_by_smtp(message, urlsplit(settings().smtp_url))
    else:
        _write_file(message, settings().var_dir / "mail")


def render(mail: Mail) -> EmailMessage:
    """The mail with its plain-text and HTML parts; the first line of the text template is the subject."""
    sender_name, sender = parseaddr(settings().mail_from)
    words = {**mail.words, "sender": sender_name or sender}
    subject, _, text = _templates.get_template(f"{mail.template}.txt").render(words).partition("\n")
    message = EmailMessage()
    _address(message, mail.recipient)
    message["From"] = settings().mail_from
    message["Subject"] = subject.removeprefix("Subject: ").strip()
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{_digest(mail.key)}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.strip() + "\n")
    message.add_alternative(_templates.get_template(f"{mail.template}.html").render(words), subtype="html")
    return message


def _address(message: EmailMessage, recipient: str) -> None:
    try:
        message["To"] = recipient
        header = message["To"]
        dirt = [defect for defect in header.defects if not isinstance(defect, NonASCIILocalPartDefect)]
    except (ValueError, IndexError):  # a line break; a bare domain
        raise PermanentError("the recipient's address is not valid") from None
    if dirt or len(header.addresses) != 1 or not header.addresses[0].domain:
        raise PermanentError("the recipient's address is not valid")


def _digest(key: tuple[str, str, str]) -> str:
    return hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]


def _write_file(message: EmailMessage, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{message['Message-ID'].strip('<>').partition('@')[0]}.eml"
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    unfinished.write_bytes(bytes(message))
    unfinished.replace(path)  # a mail written twice is one file


def check() -> None:
    """Connects and logs in as for a mail. Raises as `send` does."""
    _use_smtp(urlsplit(settings().smtp_url), smtplib.SMTP.noop)


def _send_by_smtp(message: EmailMessage, server: SplitResult) -> None:
    _use_smtp(server, lambda smtp: smtp.send_message(message))


def _use_smtp(server: SplitResult, use: Callable[[smtplib.SMTP], object]) -> None:
    try:
        with _connection(server) as smtp:
            _log_in(smtp, server)
            use(smtp)
    except smtplib.SMTPRecipientsRefused as error:
        raise _refusal(next(iter(error.recipients.values()))[0]) from None
    except smtplib.SMTPDataError as error:
        raise _refusal(error.smtp_code) from None
    except smtplib.SMTPResponseException as error:  # greeting, login, sender: about us, not about this mail
        raise NotNowError(f"the SMTP server answered {error.smtp_code}") from None
    except smtplib.SMTPNotSupportedError:
        raise PermanentError("the SMTP server does not support what this mail needs") from None
    except (OSError, smtplib.SMTPServerDisconnected) as error:
        raise NotNowError(f"the SMTP server was not reached: {type(error).__name__}") from None


@contextmanager
def _connection(server: SplitResult) -> Iterator[smtplib.SMTP]:
    host = server.hostname or "localhost"
    smtp: smtplib.SMTP
    if server.scheme == "smtps":
        smtp = _BoundedSsl(host, server.port or 465, timeout=_CONNECT_SECONDS, context=ssl.create_default_context())
    else:
        smtp = _Bounded(host, server.port or 587, timeout=_CONNECT_SECONDS)
    try:
        yield smtp
    finally:
        smtp.close()  # without QUIT: once the mail is accepted, nothing may fail any more


class _Bounded(smtplib.SMTP):
    """A conversation with an end: smtplib's timeout is for each read, and one that drips would outlast the lease."""

    _timer: threading.Timer | None = None

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        self._timer = threading.Timer(_TOTAL_SECONDS, self._cut)
        self._timer.daemon = True
        self._timer.start()
        try:
            greeting = super().connect(host, port, source_address)
        except BaseException:
            self._timer.cancel()
            raise
        if self.sock:
            self.sock.settimeout(_TOTAL_SECONDS)
        return greeting

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        super().close()

    def _cut(self) -> None:
        with suppress(OSError):
            if self.sock:
                self.sock.shutdown(socket.SHUT_RDWR)


class _BoundedSsl(_Bounded, smtplib.SMTP_SSL):
    pass


def _log_in(smtp: smtplib.SMTP, server: SplitResult) -> None:
    smtp.ehlo_or_helo_if_needed()
    if server.scheme == "smtp" and smtp.has_extn("starttls"):
        smtp.starttls(context=ssl.create_default_context())
        smtp.ehlo()
    elif server.scheme == "smtp" and server.password and server.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise NotNowError("the SMTP server offers no TLS: the password is not sent in clear")
    if server.username:
        if not smtp.has_extn("auth"):
            raise NotNowError("the SMTP server offers no login")
        smtp.login(unquote(server.username), unquote(server.password or ""))


def _refusal(code: int) -> Exception:
    sentence = f"the SMTP server answered {code}"
    return PermanentError(sentence) if 500 <= code < 600 else RefusedError(sentence)
