"""Mails over SMTP, each in bounded time, and the server's answers: for now, final, or about us."""

import atexit
import os
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import BufferedReader
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from config import names
from config.settings import settings
from handlers.metrics import counting, outside
from handlers.queue.failures import (
    AwayError,
    NotAllowedError,
    NotNowError,
    PermanentError,
    RefusedError,
    UnknownOutcomeError,
    stopping,
    why_unreached,
)

_CONNECT_SECONDS = 10.0
_TOTAL_SECONDS = 25.0  # until the mail is given away: with the address look-up well below a lease
# For the answer to the mail: a client that stops waiting may send it twice. RFC 5321 says ten minutes; but one of
# few threads waits for it, and no server that we know of needs five.
_ANSWER_SECONDS = 300.0
MAIL_LEASE = timedelta(seconds=_ANSWER_SECONDS + 30.0)  # from the moment before the mail is given away
_ENDING_SECONDS = 20.0  # once this process is asked to end: a platform gives it thirty
_GLANCE_SECONDS = 1.0
_MOST_MAILS = 50  # over one connection: servers that count allow a hundred
_IDLE_SECONDS = 10.0  # until a connection is given up: RFC 5321 has servers wait for five minutes, some wait for less
_USED_SECONDS = 5.0  # for the first answer over a used connection, which may lead nowhere
_MOST_BYTES = 64 * 1024  # of one answer: some lines of a sentence each
# RFC 3463: .1 is about the address, .2 about the mailbox, .6 about the content. A list that we are on, a quota, a
# login that is missing, a command out of order or a full disk is about us, or about the server.
_ENHANCED = re.compile(rb"[45]\.(\d{1,3})\.\d{1,3}(?!\S)")
_OF_THIS_MAIL = (b"1", b"2", b"6")
_OF_THE_SENDER = (b"1.7", b"1.8")
# The codes of a server without enhanced ones: RFC 5321 has 554, 451 and the others for all else.
_OF_THE_RECIPIENT = (450, 550, 551, 552, 553)
# A syntax that is not understood, with and without enhanced codes: of a recipient's command, only the address can be.
_OF_THE_ADDRESS = (b"5.2", b"5.4"), (501, 555)
_CLOSING = 421  # the answer to any command of a server that closes
_LOGINS = {"CRAM-MD5", "PLAIN", "LOGIN"}  # those of smtplib
_MAILS = "take a mail"  # the act that is asked of the server
_DOTS = re.compile(rb"^\.", re.MULTILINE)


def send_by_smtp(message: bytes, recipient: str, last_look: Callable[[], object]) -> None:
    """Sends by SMTP_URL, from MAIL_FROM; `last_look` raises if the mail must not be given away any more.

    Raises PermanentError if this mail can never be sent, AwayError if the server cannot be reached or wants nothing of
    us, NotAllowedError or NotNowError if its refusal says nothing about this mail, RefusedError if it refuses this mail
    for now, UnknownOutcomeError if it has the mail and does not answer.
    """
    sender, content = settings().mail_from.mailbox, message.replace(b"\n", b"\r\n")
    options = [] if message.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]  # it names every address

    def give(smtp: _Bounded) -> None:
        if options and not smtp.has_extn("smtputf8"):
            raise smtplib.SMTPNotSupportedError
        smtp.sendmail(sender, [recipient], content, options)

    with _in_our_words(recipient):
        _bounds.ends_at = time.monotonic() + _TOTAL_SECONDS
        if kept := _take():
            try:
                kept.use(give, last_look)
                outside.note_answer(outside.MAIL_SERVER, _MAILS)
                return
            except (OSError, smtplib.SMTPException):  # no word about the mail: the old connection may have ended
                # rule: a mail that may be given away already is not given once more
                if kept.is_giving:
                    raise
        _connect().use(give, last_look)
        outside.note_answer(outside.MAIL_SERVER, _MAILS)


def check_smtp() -> None:
    """Connects, logs in and names the sender, as for a mail. Raises as `send_by_smtp` does."""
    with _in_our_words():
        _bounds.ends_at = time.monotonic() + _TOTAL_SECONDS
        smtp = _connect()
        try:
            _introduce(smtp)
            outside.note_answer(outside.MAIL_SERVER)
        finally:
            smtp.close()


def hang_up() -> None:
    """Ends the connections that no mail uses, and waits for nothing."""
    with suppress(IndexError):
        while True:
            _idle.pop().end()


def _introduce(smtp: smtplib.SMTP) -> None:
    sender = settings().mail_from.mailbox
    code, answer = smtp.mail(sender, ["SMTPUTF8"] if _with_letters() else [])
    if code != 250:
        raise smtplib.SMTPSenderRefused(code, answer, sender)


def _with_letters() -> str:
    """The setting whose address has letters that some servers do not take, or "": it is in every person's mail."""
    ours = {"MAIL_FROM": settings().mail_from, "SUPPORT_EMAIL": settings().support_email}
    return next((name for name, address in ours.items() if address and not address.mailbox.isascii()), "")


@contextmanager
def _in_our_words(recipient: str = "") -> Iterator[None]:
    began = time.monotonic()
    try:
        with outside.asking(outside.MAIL_SERVER):
            yield
    except smtplib.SMTPRecipientsRefused as error:
        raise _verdict(*next(iter(error.recipients.values())), recipient, _OF_THE_ADDRESS) from None
    except smtplib.SMTPDataError as error:
        raise _verdict(error.smtp_code, error.smtp_error, recipient) from None
    except smtplib.SMTPSenderRefused as error:  # about us, not about this mail, as all errors below
        raise _refusal(f"answered {error.smtp_code} to MAIL_FROM", began) from None
    except smtplib.SMTPAuthenticationError as error:
        raise _refusal(f"answered {error.smtp_code} to the user and the password", began) from None
    except smtplib.SMTPResponseException as error:
        raise _refusal(f"answered {error.smtp_code}", began) from None
    except smtplib.SMTPNotSupportedError:
        if ours := _with_letters():
            raise _refusal(f"takes no {ours} with such letters before the @", began) from None
        raise PermanentError("the SMTP server takes no address with such letters before the @") from None
    except _UnfitError as error:
        raise _refusal(str(error), began) from None
    except UnknownOutcomeError:
        word = "took one mail after the other and did not say what became of them"
        outside.note_refusal(outside.MAIL_SERVER, word, doing=_MAILS, about=recipient, seconds=time.monotonic() - began)
        counting.NO_ANSWERS.labels(of=outside.MAIL_SERVER, why="failing").inc()
        raise
    except (OSError, smtplib.SMTPException) as error:
        raise _refusal(f"was not reached: {why_unreached(error)}", began, "unreached") from None
    except ValueError:  # raised by a login
        raise _refusal("answers as no mail server does", began, "unreadable") from None


def _take() -> "_Bounded | None":
    """A connection that another mail has used, the latest first; None if there is none."""
    with suppress(IndexError):
        while True:
            smtp = _idle.pop()
            if smtp.begins_again():
                return smtp
            smtp.end()
    return None


def _connect() -> "_Bounded":
    server = urlsplit(settings().smtp_url.get_secret_value())
    host, own_name = server.hostname or "localhost", names.own_name()
    smtp: _Bounded
    if server.scheme == "smtps":
        smtp = _BoundedSsl(host, server.port or 465, own_name, context=ssl.create_default_context())
    else:
        smtp = _Bounded(host, server.port or 587, own_name)
    smtp.address = settings().smtp_url
    try:
        _log_in(smtp, server)
    except BaseException:
        smtp.close()
        raise
    return smtp


class _Bounded(smtplib.SMTP):
    """A conversation with an end: smtplib's timeout is for each read, and one that drips would outlast the lease."""

    address: SecretStr  # SMTP_URL when it was opened
    last_look: Callable[[], object]
    is_giving: bool  # the server wants the mail
    _mails = 0
    _is_idle = False
    _ends_at: float
    _is_over: threading.Event
    _turn: threading.Lock  # held to begin, end or keep the connection
    _wire: socket.socket | None = None  # the connection once more, for the watching thread: TLS takes the other one

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        self._is_over, self._turn = threading.Event(), threading.Lock()
        self._ends_at = _bounds.ends_at
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            greeting = super().connect(host, port, source_address)
        except BaseException:
            self.close()
            raise
        if self.sock:
            self.sock.settimeout(None)  # the watching thread cuts it
        return greeting

    def use(self, give: Callable[["_Bounded"], object], last_look: Callable[[], object]) -> None:
        """Gives a mail; keeps the connection for the next one, or closes it at once after an error."""
        self.last_look, self.is_giving = last_look, False
        try:
            give(self)
        except BaseException:
            self.close()
            raise
        self._mails += 1
        with self._turn:
            self._is_idle, self._ends_at = True, time.monotonic() + _IDLE_SECONDS
        if self._mails < _MOST_MAILS:
            _idle.append(self)
        else:
            self.end()

    def begins_again(self) -> bool:
        """Begins one more mail and returns True, if the connection is good for it."""
        with self._turn:
            if self._is_over.is_set() or self.address != settings().smtp_url or time.monotonic() > self._ends_at:
                return False
            self._is_idle, self._ends_at = False, min(_bounds.ends_at, time.monotonic() + _USED_SECONDS)
            return True

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        answer = super().mail(sender, options)
        self._ends_at = _bounds.ends_at  # the server is there
        return answer

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Gives the mail away as smtplib does, after a last look, and waits for the answer, _ANSWER_SECONDS at most."""
        code, answer = self.docmd("data")
        if code != 354:
            raise smtplib.SMTPDataError(code, answer)
        self.is_giving = True
        self.last_look()
        self.send(_DOTS.sub(b"..", msg) + b".\r\n")
        if not stopping.is_set():
            self._ends_at = time.monotonic() + _ANSWER_SECONDS
        try:
            code, answer = self.getreply()
        except (OSError, smtplib.SMTPException):
            code = -1
        if not (200 <= code < 300 or 400 <= code < 600):
            raise UnknownOutcomeError("the SMTP server has the mail and did not say what became of it")
        return (250, answer) if code < 300 else (code, answer)

    def getreply(self) -> tuple[int, bytes]:
        """Bounds the answer: smtplib reads lines for as long as they say that more follow, and keeps them all."""
        if self.file is None and self.sock:
            self.file = _Lines(self.sock.makefile("rb"))
        if self.file:
            self.file.left = _MOST_BYTES
        return super().getreply()

    def end(self) -> None:
        """Says QUIT, if no mail is under way, and hangs up without waiting for the answer, as Postfix does."""
        with self._turn:
            if self._is_idle and not self._is_over.is_set():
                self._quit()

    def _quit(self) -> None:
        with suppress(OSError):
            if self.sock:
                self.sock.settimeout(0.0)
                self.sock.send(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        self._is_over.set()
        super().close()
        if self._wire:
            self._wire.close()

    def _get_socket(self, host: str, port: int, _: object) -> socket.socket:
        connection = names.connect(host, port, self._ends_at, _CONNECT_SECONDS)
        self._wire = connection.dup()
        return connection

    def _watch(self) -> None:
        while not self._is_over.wait(min(max(0.1, self._ends_at - time.monotonic()), _GLANCE_SECONDS)):
            if stopping.is_set():
                self._ends_at = min(self._ends_at, time.monotonic() + _ENDING_SECONDS)
            with self._turn, suppress(OSError):
                if time.monotonic() > self._ends_at and self._is_idle:
                    self._quit()
                elif self._wire and time.monotonic() > self._ends_at:
                    self._wire.shutdown(socket.SHUT_RDWR)


class _Lines:
    """The lines of a server; `left` is the number of bytes that its answer may still have."""

    left = 0

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.close = file.close

    def readline(self, most: int) -> bytes:
        line = self._file.readline(most)
        self.left -= len(line)
        if self.left < 0:
            raise OSError("one answer without end")
        return line


class _UnfitError(Exception):
    """The server lacks a feature that we need."""


class _BoundedSsl(smtplib.SMTP_SSL, _Bounded):  # in this order, TLS begins on a connection that is watched already
    pass


_bounds = threading.local()  # the end of the thread's time to give its mail away: the library passes nothing on
_idle: list[_Bounded] = []  # logged in, and used by no mail
atexit.register(hang_up)
os.register_at_fork(after_in_child=_idle.clear)  # they are the parent's


def _log_in(smtp: smtplib.SMTP, server: SplitResult) -> None:
    smtp.ehlo_or_helo_if_needed()
    if server.scheme == "smtp" and smtp.has_extn("starttls"):
        smtp.starttls(context=ssl.create_default_context())
        smtp.ehlo()
    elif server.scheme == "smtp" and server.password and server.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise _UnfitError("offers no TLS: the password is not sent in clear")
    if server.username:
        smtp.esmtp_features["auth"] = smtp.esmtp_features.get("auth", "").upper()  # smtplib knows them by these letters
        if not _LOGINS & {*smtp.esmtp_features["auth"].split()}:
            raise _UnfitError("offers no login, or none that smtplib knows")
        login = unquote(server.username), unquote(server.password or "")
        if not "".join(login).isascii():
            raise _UnfitError("is given a user or a password that is not in ASCII, as SMTP_URL says")
        smtp.login(*login)


def _verdict(
    code: int, words: bytes | str, recipient: str, besides: tuple[Collection[bytes], Collection[int]] = ((), ())
) -> Exception:
    """The error for a refusal of one mail or its recipient: for now, for ever, or about us.

    Enhanced codes and others in `besides` are about this mail, too. Refusals of several mails in a row are noted as
    about us.
    """
    said = _ENHANCED.match(words if isinstance(words, bytes) else words.encode())
    about_it = said[1] in _OF_THIS_MAIL and said[0][2:] not in _OF_THE_SENDER if said else code in _OF_THE_RECIPIENT
    about_it = about_it or (said[0][2:] in besides[0] if said else code in besides[1])
    word = f"answered {code}"
    if 500 <= code < 600 and not about_it:
        word += f" {said[0].decode()}" if said else ""
        counting.NO_ANSWERS.labels(of=outside.MAIL_SERVER, why="not allowed").inc()
        outside.note_refusal(outside.MAIL_SERVER, f"{word} to a mail", doing=_MAILS)
        return NotAllowedError(f"the SMTP server {word}")
    outside.note_refusal(outside.MAIL_SERVER, f"{word} to one mail after the other", doing=_MAILS, about=recipient)
    # rule: a mail server's refusal counts, or is final, if it is about the mail or its recipient
    if not about_it:
        counting.NO_ANSWERS.labels(of=outside.MAIL_SERVER, why="failing").inc()
        return (AwayError if code == _CLOSING else NotNowError)(f"the SMTP server {word}")
    return (PermanentError if code >= 500 else RefusedError)(f"the SMTP server {word}")


def _refusal(word: str, began: float, why: str = "not allowed") -> AwayError:
    """The error for a refusal of us, which is noted."""
    counting.NO_ANSWERS.labels(of=outside.MAIL_SERVER, why=why).inc()
    outside.note_refusal(outside.MAIL_SERVER, word, seconds=time.monotonic() - began)
    return AwayError(f"the SMTP server {word}")
