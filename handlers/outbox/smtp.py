"""One mail over SMTP, in bounded time, and which of the server's answers are final."""

import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from config.settings import settings
from handlers.queue.failures import NotNowError, PermanentError, RefusedError

_CONNECT_SECONDS = 10.0
# With the address look-up well below a lease, as nobody else may send meanwhile, and below the 30 s that a platform
# gives a process to end. All of it may go into the answer to the mail: who stops waiting for that sends it twice.
_TOTAL_SECONDS = 25.0


def send_by_smtp(message: EmailMessage, recipient: str) -> None:
    """Sends by SMTP_URL, from MAIL_FROM.

    Raises PermanentError where this mail can never be sent, NotNowError where the server cannot be reached, and
    RefusedError where it refused for now.
    """
    sender = settings().mail_from.mailbox
    # The envelope is given: read back from the headers, a name with a comma would be a second address.
    _use_smtp(lambda smtp: smtp.send_message(message, sender, [recipient]))


def check_smtp() -> None:
    """Connects, logs in and says who sends, as for a mail. Raises as `send_by_smtp` does."""
    _use_smtp(_introduce)


def _introduce(smtp: smtplib.SMTP) -> None:
    sender = settings().mail_from.mailbox
    code, answer = smtp.mail(sender, [] if sender.isascii() else ["SMTPUTF8"])
    if code != 250:
        raise smtplib.SMTPSenderRefused(code, answer, sender)


def _use_smtp(use: Callable[[smtplib.SMTP], object]) -> None:
    server = urlsplit(settings().smtp_url.get_secret_value())
    try:
        with _conversation(server) as smtp:
            _log_in(smtp, server)
            use(smtp)
    except smtplib.SMTPRecipientsRefused as error:
        raise _refusal(next(iter(error.recipients.values()))[0]) from None
    except smtplib.SMTPDataError as error:
        raise _refusal(error.smtp_code) from None
    except smtplib.SMTPSenderRefused as error:  # about us, not about this mail, as all that follows
        raise NotNowError(f"the SMTP server answered {error.smtp_code} to MAIL_FROM") from None
    except smtplib.SMTPResponseException as error:
        raise NotNowError(f"the SMTP server answered {error.smtp_code}") from None
    except smtplib.SMTPNotSupportedError:
        if not settings().mail_from.mailbox.isascii():
            raise NotNowError("the SMTP server takes no MAIL_FROM with such letters before the @") from None
        raise PermanentError("the SMTP server takes no address with such letters before the @") from None
    except (OSError, smtplib.SMTPServerDisconnected) as error:
        raise NotNowError(f"the SMTP server was not reached: {type(error).__name__}") from None


@contextmanager
def _conversation(server: SplitResult) -> Iterator[smtplib.SMTP]:
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
