"""Each mail: its two parts, its headers, and that nothing in a record can break out of its place."""

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from config.settings import parse_address, settings
from handlers.outbox import mails
from handlers.outbox.mails import Mail, digest, render, retry_url_for, send
from handlers.outbox.registry import REGISTRY
from handlers.record.error_codes import ErrorClass
from handlers.tables.models import VerificationRecord

KEY = ("vs_1", "email_verified", "verified::vr_1")
WORDS: dict[str, dict[str, str | None]] = {
    "email_verified": {},
    "email_canceled": {},
    "email_alternative": {"error_class": "alternative"},
    "email_retry_prompt": {"error_class": "retry", "reason": "It did not work.", "retry_url": "https://a.example/r"},
    "alert_review": {
        "session_id": "vs_1",
        "cause": "submission_limit",
        "submissions": "3",
        "dashboard": "https://dashboard.stripe.com/",
    },
}


def _mail(template: str = "email_verified", recipient: str = "anna@example.com", **words: str | None) -> Mail:
    words = {**WORDS[template], **words}
    to = parse_address(recipient)
    return Mail(template=template, recipient=to, key=KEY, variables=words, last_look=lambda: None)


def _parts(message: EmailMessage) -> tuple[str, str]:
    parsed = message_from_bytes(bytes(message), policy=policy.default)
    text, html = (parsed.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    return text.get_content(), html.get_content()


def test_every_template_is_rendered_here() -> None:
    folder = Path(mails.__file__).parent / "templates"
    assert {path.stem for path in folder.glob("*.txt")} == set(WORDS)
    assert {path.stem for path in folder.glob("*.html")} == {*WORDS, "layout"}
    assert set(WORDS) <= set(REGISTRY)


@pytest.mark.parametrize("template", WORDS)
def test_each_mail_has_a_subject_and_two_parts_that_say_the_same(template: str) -> None:
    message = render(_mail(template))
    text, html = _parts(message)
    assert message["Subject"]
    assert "Subject:" not in text
    assert "\n" not in message["Subject"]
    assert "{" not in text + html
    assert text.strip()
    assert html.strip().startswith("<!doctype html>")
    for word in WORDS[template].values():
        if word and " " in word:
            assert word in text
            assert word in html


def test_the_headers_are_those_of_an_automatic_mail(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAIL_FROM", "Example Ltd <id@example.com>")
    message = render(_mail())
    assert message["From"] == "Example Ltd <id@example.com>"
    assert message["To"] == "anna@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"]
    assert message["Message-ID"].endswith("@example.com>")
    assert "Example Ltd" in _parts(message)[0]


def test_the_message_id_follows_from_what_is_owed_alone() -> None:
    same = render(_mail()), render(_mail(recipient="bruno@example.com"))
    assert same[0]["Message-ID"] == same[1]["Message-ID"]
    other = replace(_mail(), key=("vs_2", *KEY[1:]))
    assert render(other)["Message-ID"] != same[0]["Message-ID"]


def test_keys_that_look_alike_when_joined_are_told_apart() -> None:
    one, two = (replace(_mail(), key=key) for key in (("a", "b", "c"), ("a", "bc", "")))
    assert render(one)["Message-ID"] != render(two)["Message-ID"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Us",
        "Example, Inc.",
        'The "Best" of \\',
        "Jörg Müller",
        "山田　太郎",
        "Name, " * 40,
        "é, " * 9,
    ],
)
def test_a_name_and_its_address_arrive_as_they_were_set(name: str, environment: pytest.MonkeyPatch) -> None:
    quoted = name.replace("\\", r"\\").replace('"', r"\"")
    environment.setenv("MAIL_FROM", f'"{quoted}" <id@a-quite-long-name-of-a-domain.example.com>')
    raw = bytes(render(_mail(recipient=f'"{quoted}" <{"a" * 80}@example.com>')))
    for header, mailbox in (
        ("From", "id@a-quite-long-name-of-a-domain.example.com"),
        ("To", "a" * 80 + "@example.com"),
    ):
        (one,) = message_from_bytes(raw, policy=policy.default)[header].addresses
        assert (one.display_name.strip(), one.addr_spec) == (name.strip(), mailbox)


def test_letters_before_the_at_are_sent_as_they_are() -> None:
    raw = bytes(render(_mail(recipient="jörg@bücher.example")))
    assert "\nTo: jörg@xn--bcher-kva.example\n".encode() in b"\n" + raw


def test_a_long_domain_of_the_senders_leaves_the_message_id_whole(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAIL_FROM", f"id@{'a' * 60}.{'b' * 60}.bücher.example")
    lines = bytes(render(_mail())).splitlines()
    assert f"Message-ID: <{digest(KEY)}@{'a' * 60}.{'b' * 60}.xn--bcher-kva.example>".encode() in lines


def test_html_in_a_reason_is_shown_as_text() -> None:
    planted = '<img src=x onerror="alert(1)"> & more'
    text, html = _parts(render(_mail("email_retry_prompt", reason=planted)))
    assert planted in text
    assert "<img" not in html
    assert "&lt;img" in html


def test_a_reason_cannot_reach_the_headers() -> None:
    message = render(_mail("email_retry_prompt", reason="x\r\nBcc: c@d.example"))
    assert message["Bcc"] is None


@pytest.mark.parametrize("error_class", [one.value for one in ErrorClass])
def test_the_retry_prompt_has_an_advice_for_each_class_and_never_names_a_fraud_signal(error_class: str) -> None:
    text, html = _parts(render(_mail("email_retry_prompt", error_class=error_class, reason=None)))
    for word in ("fraud", "manipulat", "under_age", "none"):
        assert word not in (text + html).lower()


def test_without_a_link_the_person_is_asked_to_come_back() -> None:
    text, html = _parts(render(_mail("email_retry_prompt", retry_url=None, reason=None)))
    for part in (text, html):
        assert "come back to the application" in part
        assert "http" not in part.replace("<!doctype html>", "")


def test_a_retry_link_holds_what_a_stranger_typed_only_as_text(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example/{session_id}?ref={client_reference_id}")
    record = VerificationRecord(session_id="vs_1", livemode=False, client_reference_id='x&admin=1#/../"><b>{0}')
    link = retry_url_for(record)
    assert link == "https://app.example/vs_1?ref=x%26admin%3D1%23%2F..%2F%22%3E%3Cb%3E%7B0%7D"
    assert link in _parts(render(_mail("email_retry_prompt", retry_url=link)))[0]


def test_without_a_reference_the_link_has_an_empty_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example/{session_id}?ref={client_reference_id}")
    assert retry_url_for(VerificationRecord(session_id="vs_1", livemode=False)) == "https://app.example/vs_1?ref="


def test_without_an_smtp_server_a_mail_is_one_private_file() -> None:
    folder = settings().var_dir / "mail"
    send(_mail())
    send(_mail())
    (path,) = folder.iterdir()
    assert path.name == f"{digest(_mail().key)}.eml"
    assert folder.stat().st_mode & 0o077 == 0
    assert message_from_bytes(path.read_bytes())["To"] == "anna@example.com"


def test_a_mail_prints_neither_address_nor_words() -> None:
    shown = repr(_mail("email_retry_prompt"))
    assert "anna" not in shown
    assert "did not work" not in shown
