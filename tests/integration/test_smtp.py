"""Mails against a real SMTP server that accepts, refuses, hangs, drips, hangs up, or wants TLS and a password."""

import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from config.settings import Address, parse_address, settings
from handlers.catalogue.mails import About
from handlers.outbox import smtp
from handlers.outbox.mails import Mail, send
from handlers.outbox.perform import perform
from handlers.outbox.smtp import check_smtp
from handlers.queue.claims import LostClaimError, unless_lost
from handlers.queue.failures import (
    AwayError,
    NotAllowedError,
    NotNowError,
    PermanentError,
    RefusedError,
    UnknownOutcomeError,
)
from handlers.tables.models import ActionStatus
from tests.support import databases, facts
from tests.support.facts import claim_action
from tests.support.servers import Mailbox, mail_server
from tests.support.waiting import PATIENCE, wait_until

ADDRESS = "c4nary@example.com"
KEY = ("vs_1", "email_verified", "verified::vr_1")
MAIL = Mail(
    template="email_verified",
    recipient=Address("", ADDRESS),
    key=KEY,
    language="en",
    about=About(session_id="vs_1"),
    last_look=lambda: None,
)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(mailbox: Mailbox, environment: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with mail_server(mailbox) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        yield mailbox


def _use(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SMTP_URL", url)
    databases.forget_process_state()


def _content(mail: Envelope) -> bytes:
    assert isinstance(mail.content, bytes)
    return mail.content


def test_a_mail_is_sent_to_its_recipient_alone(server: Mailbox) -> None:
    send(MAIL)
    (taken,) = server.mails
    assert taken.rcpt_tos == [ADDRESS]
    assert taken.mail_from == "identity@localhost"
    message = message_from_bytes(_content(taken))
    assert message["To"] == ADDRESS
    assert [part.get_content_type() for part in message.walk()][1:] == ["text/plain", "text/html"]


def test_a_mail_sent_again_carries_the_same_message_id(server: Mailbox) -> None:
    send(MAIL)
    send(MAIL)
    first, second = (message_from_bytes(_content(taken)) for taken in server.mails)
    assert first["Message-ID"] == second["Message-ID"]


@pytest.mark.parametrize("name", ["Example, Inc.", "Example, Inc. " * 9, "a@b.example, c@d.example", "Jörg"])
def test_the_envelope_is_the_address_alone_whatever_the_names_hold(
    name: str, server: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("MAIL_FROM", f'"{name}" <id@bücher.example>')
    settings.cache_clear()
    send(replace(MAIL, recipient=Address(name, ADDRESS)))
    (taken,) = server.mails
    assert (taken.mail_from, taken.rcpt_tos) == ("id@xn--bcher-kva.example", [ADDRESS])
    message = message_from_bytes(_content(taken), policy=policy.default)
    for header in ("From", "To"):
        (one,) = message[header].addresses
        assert one.display_name.strip() == name.strip()


@pytest.mark.parametrize(
    "recipient", ["a..b@carrier.example", "a.@carrier.example", '"a b"@carrier.example', "a@[::1]"]
)
def test_an_address_the_rfc_forbids_is_the_servers_to_judge(recipient: str, environment: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []

    def take_all(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.test\r\n")
        is_content = False
        for line in connection.makefile("rb"):
            said.append(line)
            begins = line == b"data\r\n"
            is_content = begins or (is_content and line != b".\r\n")
            if begins or not is_content:
                connection.sendall(b"354 go on\r\n" if begins else b"250 OK\r\n")

    with _raw_server(take_all) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        send(replace(MAIL, recipient=parse_address(recipient)))
    assert f"<{recipient}>\r\n".encode() in [line.partition(b":")[2] for line in said if line[:4].lower() == b"rcpt"]


def test_letters_before_the_at_need_a_server_that_takes_them(
    mailbox: Mailbox, server: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    jörg = replace(MAIL, recipient=parse_address("Jörg <jörg@bücher.example>"))
    with pytest.raises(PermanentError, match="such letters"):
        send(jörg)
    assert server.mails == []
    with mail_server(mailbox, enable_SMTPUTF8=True) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        send(jörg)
    (taken,) = mailbox.mails
    assert taken.rcpt_tos == ["jörg@xn--bcher-kva.example"]
    assert "<jörg@xn--bcher-kva.example>".encode() in _content(taken)


def test_letters_of_whom_to_answer_need_a_server_that_takes_them_too(
    mailbox: Mailbox, server: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SUPPORT_EMAIL", "jörg@bücher.example")
    settings.cache_clear()
    answered = replace(MAIL, reply_to=settings().support_email)
    for use in (check_smtp, lambda: send(answered)):
        with pytest.raises(AwayError, match="takes no SUPPORT_EMAIL with such letters"):
            use()
    send(MAIL)  # a reviewer's mail names nobody to answer
    (taken,) = server.mails
    assert _content(taken).isascii()
    with mail_server(mailbox, enable_SMTPUTF8=True) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        check_smtp()
        send(answered)
    assert [one.smtp_utf8 for one in mailbox.mails] == [False, True]


def test_a_sender_the_server_refuses_makes_every_mail_wait_and_the_check_fail(
    server: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    check_smtp()
    server.sender_answer = "553 c4nary is not yours"
    for use in (check_smtp, lambda: send(MAIL)):
        with pytest.raises(NotNowError, match=r"^the SMTP server answered 553 to MAIL_FROM$"):
            use()
    environment.setenv("MAIL_FROM", "jörg@example.com")
    settings.cache_clear()
    for use in (check_smtp, lambda: send(MAIL)):
        with pytest.raises(NotNowError, match="takes no MAIL_FROM"):
            use()
    assert server.mails == []


@pytest.mark.parametrize("step", ["recipient_answer", "mail_answer"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("450 try later", RefusedError),
        ("452 4.2.2 full", RefusedError),
        ("451 4.7.1 greylisted", NotNowError),
        ("451 local error", NotNowError),
        ("452 4.3.1 no room", NotNowError),
        ("421 4.3.2 ending", AwayError),
        ("550 no such user", PermanentError),
        ("552 full", PermanentError),
        ("550 5.1.1 no such user", PermanentError),
        ("550 5.1.10 it takes no mail", PermanentError),
        ("554 5.2.1 disabled", PermanentError),
        ("554 5.6.0 not to be read", PermanentError),
        ("550 5.1.8 your domain is unknown", NotAllowedError),
        ("550 5.7.1 relaying denied", NotAllowedError),
        ("554 5.7.1 your host is on a list", NotAllowedError),
        ("552 5.3.4 too big", NotAllowedError),
        ("554 quota exceeded", NotAllowedError),
        ("530 5.7.0 log in first", NotAllowedError),
        ("503 5.5.1 MAIL first", NotAllowedError),
        ("500 what", NotAllowedError),
    ],
)
def test_a_refusal_is_for_now_or_for_ever_or_about_us_as_its_codes_say(
    step: str, answer: str, error: type[Exception], server: Mailbox
) -> None:
    setattr(server, step, answer)
    with pytest.raises(error) as refusal:
        send(MAIL)
    assert type(refusal.value) is error
    assert re.fullmatch(rf"the SMTP server answered {answer[:3]}( 5\.\d\.\d+)?", str(refusal.value))
    assert refusal.value.__cause__ is None
    assert server.mails == []


@pytest.mark.parametrize(
    "answer", ["501 malformed address", "501 5.5.4 what recipient", "555 5.5.2 Syntax error, goodbye", "555 what"]
)
def test_a_command_that_names_a_recipient_and_cannot_be_read_is_about_the_recipient(
    answer: str, server: Mailbox
) -> None:
    """Exim and SES have no other words for `taro..@carrier.example`."""
    server.recipient_answer = answer
    with pytest.raises(PermanentError):
        send(MAIL)
    server.recipient_answer, server.mail_answer = "250 OK", answer
    with pytest.raises(NotAllowedError):
        send(MAIL)


@pytest.mark.parametrize("answer", ["252 cannot say", "354 go on", "650 what", "what?"])
def test_an_answer_that_is_none_counts_no_try(server: Mailbox, answer: str) -> None:
    server.recipient_answer = answer
    with pytest.raises(NotNowError, match="answered"):
        send(MAIL)


@pytest.mark.parametrize(
    ("login", "offers", "says", "sentence"),
    [
        ("u:p%C3%A9", b"PLAIN", b"", "is given a user or a password that is not in ASCII"),
        ("u:p", b"CRAM-MD5 PLAIN", b"334 !!!notbase64\r\n", "answers as no mail server does"),
        ("u:p", b"PLAIN", b"", "was not reached: it hangs up"),
        ("u:p", b"XOAUTH2 GSSAPI", b"", "offers no login, or none that smtplib knows"),
        ("u:p", b"plain", b"235 welcome\r\n", "answered 235 to MAIL_FROM"),
    ],
)
def test_a_login_that_cannot_be_is_about_us(
    environment: pytest.MonkeyPatch, login: str, offers: bytes, says: bytes, sentence: str
) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.test\r\n")
        for line in connection.makefile("rb"):
            connection.sendall(b"250-x\r\n250 AUTH " + offers + b"\r\n" if line[:4] == b"ehlo" else says)
            if line[:4] == b"AUTH" and not says:
                return

    with _raw_server(behave) as port:
        _use(environment, f"smtp://{login}@127.0.0.1:{port}")
        with pytest.raises(AwayError, match=sentence):
            send(MAIL)


def test_a_server_that_hangs_is_left_after_a_while(server: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "_TOTAL_SECONDS", 0.5)
    monkeypatch.setattr(smtp, "_ANSWER_SECONDS", 0.5)
    server.hangs = True
    with pytest.raises(UnknownOutcomeError, match="did not say what became of it"):
        send(MAIL)


def test_an_answer_to_the_mail_is_waited_for_longer_than_for_any_other(
    server: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "_TOTAL_SECONDS", 0.5)
    server.mail_delay = 1.5
    send(MAIL)
    assert len(server.mails) == 1


def test_a_process_that_is_asked_to_end_does_not_wait_for_the_answer_for_long(
    server: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(smtp, "stopping", ends)
    monkeypatch.setattr(smtp, "_ENDING_SECONDS", 0.2)
    server.hangs = True
    with pytest.raises(UnknownOutcomeError):
        send(replace(MAIL, last_look=ends.set))


def _take_a_mail(answer: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        connection.sendall(b"220 mail.test\r\n")
        while (line := lines.readline()).strip().upper() != b"DATA":
            assert line
            connection.sendall(b"250 OK\r\n")
        connection.sendall(b"354 go on\r\n")
        while lines.readline() != b".\r\n":
            pass
        connection.sendall(answer)

    return behave


@pytest.mark.parametrize("answer", [b"", b"25", b"HTTP/1.1 200 OK\r\n\r\n", b"354 more\r\n", b"250-" + b"x" * 9000])
def test_who_has_the_mail_and_does_not_say_what_became_of_it_leaves_the_outcome_unknown(
    answer: bytes, environment: pytest.MonkeyPatch
) -> None:
    with _raw_server(_take_a_mail(answer)) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        with pytest.raises(UnknownOutcomeError):
            send(MAIL)


def test_each_positive_answer_to_a_mail_is_its_acceptance(environment: pytest.MonkeyPatch) -> None:
    with _raw_server(_take_a_mail(b"251 it will go on\r\n")) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        send(MAIL)


def test_a_mail_whose_lines_begin_with_dots_arrives_as_it_was_written(
    server: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("BRAND_NAME", "..a .b")  # the last line of the text
    databases.forget_process_state()
    send(MAIL)
    (taken,) = server.mails
    message = message_from_bytes(_content(taken), policy=policy.default)
    text = message.get_body(("plain",))
    assert text
    assert text.get_content().splitlines()[-1] == "..a .b"


def test_nothing_is_given_away_after_a_last_look_that_forbids_it(server: Mailbox) -> None:
    def forbid() -> None:
        assert server.recipients == [ADDRESS], "the look comes last"
        raise LostClaimError

    with pytest.raises(LostClaimError):
        send(replace(MAIL, last_look=forbid))
    send(MAIL)
    assert len(server.mails) == 1


def _drip(connection: socket.socket) -> None:
    for byte in b"220 mail.test\r\n" + b"250-x\r\n" * 1000:
        connection.sendall(bytes([byte]))
        if stop.wait(0.002):
            return


def _drip_the_greeting(connection: socket.socket) -> None:
    while not stop.wait(0.002):
        connection.sendall(b"2")


def _hang_up(_: socket.socket) -> None:
    return


def _talk_nonsense(connection: socket.socket) -> None:
    connection.sendall(b"\xff\xfe HTTP/1.1 200 OK\r\n\r\n" * 10)


def _busy(connection: socket.socket) -> None:
    connection.sendall(b"421 too many connections from c4nary\r\n")


def _go_away(connection: socket.socket) -> None:
    connection.sendall(b"554 you are not welcome, c4nary\r\n")


stop = threading.Event()


@contextmanager
def _raw_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    stop.clear()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                behave(connection)
            except OSError:  # the client has left
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        smtp.hang_up()
        thread.join()
        listener.close()


@pytest.mark.parametrize("behave", [_drip, _drip_the_greeting, _hang_up, _talk_nonsense, _busy, _go_away])
def test_a_server_that_misbehaves_makes_the_mail_wait(
    behave: Callable[[socket.socket], None], environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(smtp, "_TOTAL_SECONDS", 0.5)
    with _raw_server(behave) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        with pytest.raises(NotNowError) as refusal:
            send(MAIL)
    assert "c4nary" not in str(refusal.value)


def _talk_on(at: bytes) -> Callable[[socket.socket], None]:
    """A mail server that gives two megabytes in one answer, and else behaves as any other."""

    def behave(connection: socket.socket) -> None:
        def say(code: bytes, to: bytes) -> None:
            connection.sendall(2000 * (to == at) * (code + b"-" + b"x" * 1000 + b"\r\n") + code + b" OK\r\n")

        lines = connection.makefile("rb")
        say(b"220", b"")
        while line := lines.readline():
            verb = line.strip().upper()[:4]
            say(b"354" if verb == b"DATA" else b"250", verb)
            while verb == b"DATA" and lines.readline() != b".\r\n":
                pass
            if verb == b"DATA":
                say(b"250", b".")

    return behave


@pytest.mark.parametrize(
    ("at", "error"),
    [
        *((at, AwayError) for at in (b"", b"EHLO", b"MAIL", b"RCPT", b"DATA")),
        (b".", UnknownOutcomeError),
    ],
)
def test_an_answer_without_end_is_not_kept(at: bytes, error: type[Exception], environment: pytest.MonkeyPatch) -> None:
    with _raw_server(_talk_on(at)) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        with pytest.raises(error):
            send(MAIL)


def _drip_a_handshake(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x03\x40\x00")  # 16,384 bytes follow, in a quarter of an hour
    while not stop.wait(0.05):
        connection.sendall(b"\x00")


def test_a_handshake_that_drips_has_an_end_too(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(smtp, "_TOTAL_SECONDS", 0.5)
    with _raw_server(_drip_a_handshake) as port:
        _use(environment, f"smtps://127.0.0.1:{port}")
        with pytest.raises(NotNowError):
            send(MAIL)


def test_a_server_that_is_not_there_makes_the_mail_wait(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    _use(environment, f"smtp://127.0.0.1:{port}")
    with pytest.raises(NotNowError, match="nobody listens there"):
        send(MAIL)


class Doorman:
    """Lets in the client that knows the password."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []

    def __call__(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any
    ) -> AuthResult:
        assert isinstance(given, LoginPassword)
        self.seen.append((given.login, given.password))
        return AuthResult(success=given.password == b"p@ss/word", handled=False)


@pytest.fixture
def doorman() -> Doorman:
    return Doorman()


@pytest.fixture
def tls_port(mailbox: Mailbox, certificate: tuple[Path, Path], doorman: Doorman) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with mail_server(
        mailbox, tls_context=context, require_starttls=True, auth_required=True, authenticator=doorman
    ) as port:
        yield port


def test_smtps_speaks_tls_from_the_start(
    mailbox: Mailbox, certificate: tuple[Path, Path], environment: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    environment.setenv("SSL_CERT_FILE", str(certificate[0]))
    with mail_server(mailbox, ssl=context) as port:
        _use(environment, f"smtps://localhost:{port}")
        send(MAIL)
    assert len(mailbox.mails) == 1


def test_a_password_is_given_over_tls_only(
    tls_port: int, mailbox: Mailbox, doorman: Doorman, certificate: tuple[Path, Path], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SSL_CERT_FILE", str(certificate[0]))
    _use(environment, f"smtp://user%40x:p%40ss%2Fword@localhost:{tls_port}")
    send(MAIL)
    assert doorman.seen == [(b"user@x", b"p@ss/word")]
    assert len(mailbox.mails) == 1


def test_a_wrong_password_makes_every_mail_wait_and_is_not_shown(
    tls_port: int, mailbox: Mailbox, certificate: tuple[Path, Path], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SSL_CERT_FILE", str(certificate[0]))
    _use(environment, f"smtp://user:c4nary@localhost:{tls_port}")
    with pytest.raises(NotNowError, match="the SMTP server answered 535") as refusal:
        send(MAIL)
    assert "c4nary" not in str(refusal.value)
    assert mailbox.mails == []


def test_a_server_without_a_login_gets_no_mail(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    port = settings().smtp_url.get_secret_value().rpartition(":")[2]
    _use(environment, f"smtp://user:c4nary@127.0.0.1:{port}")
    with pytest.raises(NotNowError, match="offers no"):
        send(MAIL)
    assert server.mails == []


def test_a_server_that_does_not_know_us_makes_every_mail_wait(tls_port: int, certificate: tuple[Path, Path]) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(certificate[0]))
        _use(environment, f"smtp://localhost:{tls_port}")
        with pytest.raises(NotNowError, match="the SMTP server answered 530"):
            send(MAIL)


def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
    tls_port: int, mailbox: Mailbox, doorman: Doorman, environment: pytest.MonkeyPatch
) -> None:
    _use(environment, f"smtp://user:p%40ss%2Fword@localhost:{tls_port}")
    with pytest.raises(NotNowError, match="its certificate is signed by nobody that we know"):
        send(MAIL)
    assert (doorman.seen, mailbox.mails) == ([], [])


def test_a_mail_takes_the_connection_of_the_one_before(server: Mailbox) -> None:
    for _ in range(3):
        send(MAIL)
    assert (len(server.mails), len(set(server.peers)), server.quits) == (3, 1, 0)


def test_a_connection_carries_so_many_mails_and_is_ended(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(smtp, "_MOST_MAILS", 2)
    for _ in range(4):
        send(MAIL)
    wait_until(lambda: server.quits == 2)
    assert [server.peers.count(peer) for peer in dict.fromkeys(server.peers)] == [2, 2]


def test_a_connection_that_no_mail_uses_for_a_while_is_ended(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(smtp, "_IDLE_SECONDS", 0.2)
    send(MAIL)
    wait_until(lambda: server.quits == 1)
    send(MAIL)
    assert len(set(server.peers)) == 2


def test_a_connection_that_a_process_slept_over_is_not_used(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(smtp, "_IDLE_SECONDS", -1.0)  # and its watcher was asleep, too
    environment.setattr(smtp._Bounded, "_watch", lambda _: None)
    send(MAIL)
    send(MAIL)
    assert len(set(server.peers)) == 2


def test_a_connection_ends_with_its_process_which_waits_for_nobody(server: Mailbox) -> None:
    words = (
        "import sys; from handlers.outbox.smtp import send_by_smtp; send_by_smtp(b'x\\n', sys.argv[1], lambda: None)"
    )
    subprocess.run([sys.executable, "-c", words, ADDRESS], check=True)
    wait_until(lambda: server.quits == 1)
    assert len(server.mails) == 1


def test_two_threads_have_a_connection_each(server: Mailbox) -> None:
    both = threading.Barrier(2)
    server.at_recipient = lambda: both.wait(PATIENCE) if len(server.mails) < 2 else None
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(send, [MAIL, MAIL]))
    assert len(set(server.peers)) == 2
    send(MAIL)
    send(MAIL)
    assert (len(set(server.peers)), server.peers[2]) == (2, server.peers[3])


def test_a_child_leaves_its_parents_connection_alone(server: Mailbox) -> None:
    send(MAIL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of threads
        child = os.fork()
    if child == 0:
        smtp.hang_up()
        os._exit(len(smtp._idle))
    assert os.waitpid(child, 0)[1] == 0
    send(MAIL)
    assert (len(set(server.peers)), server.quits) == (1, 0)


def test_another_address_is_another_connection(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    send(MAIL)
    with mail_server(other := Mailbox()) as port:
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{port}")
        settings.cache_clear()
        send(MAIL)
        assert (len(server.mails), len(other.mails)) == (1, 1)
    wait_until(lambda: server.quits == 1)


def test_a_login_is_good_for_all_mails_of_a_connection(
    tls_port: int, mailbox: Mailbox, doorman: Doorman, certificate: tuple[Path, Path], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SSL_CERT_FILE", str(certificate[0]))
    _use(environment, f"smtp://user%40x:p%40ss%2Fword@localhost:{tls_port}")
    for _ in range(3):
        send(MAIL)
    assert (len(doorman.seen), len(mailbox.mails)) == (1, 3)
    smtp.hang_up()
    wait_until(lambda: mailbox.quits == 1)


def test_a_mail_that_went_wrong_leaves_no_connection_to_the_next(server: Mailbox) -> None:
    send(MAIL)
    server.mail_answer = "450 later"
    with pytest.raises(RefusedError):
        send(MAIL)
    server.mail_answer = "250 OK"
    send(MAIL)
    assert len(set(server.peers)) == 2


def test_a_refusal_over_a_used_connection_is_asked_for_once_more(server: Mailbox) -> None:
    send(MAIL)
    server.recipient_answer = "550 no such user"
    with pytest.raises(PermanentError, match="answered 550"):
        send(MAIL)
    assert len(server.recipients) == 3


def test_a_check_uses_a_connection_of_its_own(server: Mailbox) -> None:
    send(MAIL)
    server.sender_answer = "553 not yours"
    with pytest.raises(NotNowError, match="553 to MAIL_FROM"):
        check_smtp()
    server.sender_answer = "250 OK"
    check_smtp()
    send(MAIL)
    assert len(set(server.peers)) == 1


_End = Callable[[socket.socket, Any], object]


@contextmanager
def _ending_server(end: _End) -> Iterator[list[int]]:
    """A server that takes one mail over a connection, and then ends it; the numbers of mails over each."""
    listener, given, threads = socket.create_server(("127.0.0.1", 0)), list[int](), list[threading.Thread]()

    def take(connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):
            lines = connection.makefile("rb")
            connection.sendall(b"220 mail.test\r\n")
            for line in lines:
                connection.sendall(b"354 go on\r\n" if line == b"data\r\n" else b"250 OK\r\n")
                if line == b"data\r\n":
                    while lines.readline() != b".\r\n":
                        pass
                    given[number] += 1
                    connection.sendall(b"250 OK\r\n")
                    end(connection, lines)
                    return

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                given.append(0)
                threads.append(threading.Thread(target=take, args=(connection, len(given) - 1)))
                threads[-1].start()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        _use(environment, f"smtp://127.0.0.1:{listener.getsockname()[1]}")
        try:
            yield given
        finally:
            smtp.hang_up()
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for one in (thread, *threads):
                one.join()


def _at(verb: bytes, answer: bytes) -> _End:
    """Answers 250 until that verb, which gets this answer; then the connection is closed."""

    def end(connection: socket.socket, lines: Any) -> None:
        while not lines.readline().lower().startswith(verb):
            connection.sendall(b"250 OK\r\n")
        connection.sendall(answer)

    return end


def _reset(connection: socket.socket, _: Any) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _say_nothing(_: socket.socket, lines: Any) -> None:
    while lines.readline():
        pass


def _drip_an_answer(connection: socket.socket, lines: Any) -> None:
    lines.readline()
    while True:
        connection.sendall(b"2")
        stop.wait(0.01)


@pytest.mark.parametrize(
    "end",
    [
        lambda *_: None,
        lambda connection, _: connection.sendall(b"421 you were idle\r\n"),
        lambda connection, _: connection.sendall(b"250 OK\r\n"),
        _reset,
        _say_nothing,
        _drip_an_answer,
        *(
            _at(verb, answer)
            for verb in (b"mail", b"rcpt", b"data")
            for answer in (b"", b"421 enough\r\n", b"nonsense")
        ),
        _at(b"mail", b"503 EHLO first\r\n"),
        _at(b"rcpt", b"450 too many mails\r\n"),
        _at(b"rcpt", b"550 too many mails\r\n"),
        _at(b"data", b"550 too many mails\r\n"),
    ],
)
def test_a_used_connection_that_has_ended_costs_a_new_one_and_no_try(
    end: _End, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(smtp, "_USED_SECONDS", 0.3)
    stop.clear()
    with _ending_server(end) as given:
        for _ in range(3):
            send(MAIL)
        assert given == [1, 1, 1]


@pytest.mark.parametrize("answer", [b"", b"25", b"nonsense\r\n", b"354 more\r\n"])
def test_a_used_connection_that_ends_with_a_mail_in_it_leaves_the_outcome_unknown(answer: bytes) -> None:
    with _ending_server(_with_the_mail(answer)) as given:
        send(MAIL)
        with pytest.raises(UnknownOutcomeError):
            send(MAIL)
        assert given == [1]
        send(MAIL)
        assert given == [1, 1]


def test_a_mail_refused_over_a_used_connection_is_not_given_once_more() -> None:
    with _ending_server(_with_the_mail(b"421 not now\r\n")) as given:
        send(MAIL)
        with pytest.raises(AwayError, match="answered 421"):
            send(MAIL)
        assert given == [1]


def _with_the_mail(answer: bytes) -> _End:
    def end(connection: socket.socket, lines: Any) -> None:
        _at(b"data", b"354 go on\r\n")(connection, lines)
        while lines.readline() != b".\r\n":
            pass
        connection.sendall(answer)

    return end


def test_a_claim_lost_over_a_used_connection_gives_nothing_away(server: Mailbox) -> None:
    def forbid() -> None:
        raise LostClaimError

    send(MAIL)
    with pytest.raises(LostClaimError):
        send(replace(MAIL, last_look=forbid))
    assert (len(server.mails), len(server.recipients)) == (1, 2)


def test_a_used_connection_gives_a_slow_mail_no_more_time(server: Mailbox, environment: pytest.MonkeyPatch) -> None:
    send(MAIL)
    environment.setattr(smtp, "_TOTAL_SECONDS", 0.5)
    late = threading.Event()
    server.at_recipient = lambda: late.wait(PATIENCE)
    with pytest.raises(NotNowError, match="was not reached"):
        send(MAIL)
    late.set()
    assert len(server.mails) == 1


def test_a_kept_connection_does_not_outlive_its_server(environment: pytest.MonkeyPatch) -> None:
    before, after = Mailbox(), Mailbox()
    with mail_server(before) as port:
        _use(environment, f"smtp://127.0.0.1:{port}")
        send(MAIL)
    with pytest.raises(AwayError, match="nobody listens there"):
        send(MAIL)
    with mail_server(after, port=port):
        send(MAIL)
    assert (len(before.mails), len(after.mails)) == (1, 1)


@pytest.mark.usefixtures("database_url", "addresses")
class TestAsAnAction:
    """The same mails, as actions of the outbox."""

    def test_a_mail_refused_for_now_is_due_again_and_sent_with_the_same_message_id(self, server: Mailbox) -> None:
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        server.mail_answer = "450 later, vs_1@example.com"
        perform(action_id)
        waiting = facts.action(action_id)
        assert (waiting.status, waiting.waits) == (ActionStatus.PENDING, 0)
        assert waiting.last_error == "the SMTP server answered 450"
        server.mail_answer = "250 OK"
        facts.end_all_leases()
        perform(action_id)
        assert facts.action(action_id).status == ActionStatus.DONE
        assert len(server.mails) == 1

    def test_an_address_that_does_not_exist_buries_the_mail_at_once(self, server: Mailbox) -> None:
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        server.recipient_answer = "550 no such user"
        perform(action_id)
        buried = facts.action(action_id)
        assert (buried.status, buried.attempts) == (ActionStatus.DEAD, 1)
        assert buried.last_error == "the SMTP server answered 550"

    @pytest.mark.parametrize("lookup", ["two_addresses", "a_line_break", "no_text"])
    def test_what_is_no_address_buries_the_mail_and_is_said_to_nobody(
        self, lookup: str, server: Mailbox, environment: pytest.MonkeyPatch
    ) -> None:
        environment.setenv("EMAIL_LOOKUP", f"tests.support.lookups:{lookup}")
        databases.forget_process_state()
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        perform(action_id)
        buried = facts.action(action_id)
        assert (buried.status, buried.last_error) == (ActionStatus.DEAD, "the recipient's address is not valid")
        assert server.mails == []

    def test_a_mail_that_was_perhaps_taken_is_sent_few_times_and_far_apart(
        self, server: Mailbox, environment: pytest.MonkeyPatch
    ) -> None:
        environment.setattr(smtp, "_ANSWER_SECONDS", 0.2)
        server.mail_delay = 3600
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        for copies in (1, 2):
            perform(action_id)
            waiting = facts.action(action_id)
            assert (waiting.status, len(server.mails)) == (ActionStatus.PENDING, copies)
            assert waiting.due_at > datetime.now(UTC) + timedelta(hours=1)
            facts.end_all_leases()
        perform(action_id)
        dead = facts.action(action_id)
        assert (dead.status, len(server.mails)) == (ActionStatus.DEAD, 3)
        assert dead.last_error == "the SMTP server has the mail and did not say what became of it"

    def test_a_mail_whose_worker_dies_each_time_once_it_is_given_away_is_sent_few_times(self, server: Mailbox) -> None:
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        for _ in range(3):
            claimed = claim_action(action_id)
            assert claimed
            unless_lost(claimed[1], smtp.MAIL_LEASE, unknown=True)  # and here its worker dies
            assert facts.action(action_id).due_at > datetime.now(UTC) + timedelta(minutes=5)
            facts.end_all_leases()
        perform(action_id)
        dead = facts.action(action_id)
        assert (dead.status, dead.last_error) == (ActionStatus.DEAD, "every attempt ended with its process")
        assert server.mails == []

    def test_a_mail_that_is_taken_or_refused_in_so_many_words_counts_as_one_try(self, server: Mailbox) -> None:
        taken, refused = (facts.applied(facts.event("verified", session_id=name))[0] for name in ("vs_1", "vs_2"))
        perform(taken)
        server.mail_answer = "450 later"
        perform(refused)
        assert [(row.status, row.attempts, row.waits) for row in map(facts.action, (taken, refused))] == [
            (ActionStatus.DONE, 1, 0),
            (ActionStatus.PENDING, 1, 0),
        ]

    def test_a_mail_that_somebody_else_has_claimed_meanwhile_is_not_given_away(self, server: Mailbox) -> None:
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))

        def be_late() -> None:
            facts.end_all_leases()
            assert claim_action(action_id)

        server.at_recipient = be_late
        perform(action_id)
        assert (facts.action(action_id).status, server.mails) == (ActionStatus.PENDING, [])

    def test_a_server_that_is_not_there_buries_nobody(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("ACTION_ATTEMPTS", "1")
        _use(environment, "smtp://127.0.0.1:1")
        (action_id,) = facts.applied(facts.event("verified", report="vr_1"))
        for _ in range(3):
            perform(action_id)
            facts.end_all_leases()
        waiting = facts.action(action_id)
        assert (waiting.status, waiting.attempts, waiting.waits) == (ActionStatus.PENDING, 3, 3)
