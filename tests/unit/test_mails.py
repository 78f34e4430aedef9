"""Each mail: its two parts, its headers, and that nothing in a record can break out of its place."""

import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import unescape
from typing import Any

import pytest

from config.settings import Address, parse_address, settings
from handlers.catalogue.mails import About, write_mail
from handlers.catalogue.samples import Sample, mail_templates, samples
from handlers.outbox import mails
from handlers.outbox.mails import Mail, digest, retry_url_for, send
from handlers.outbox.registry import REGISTRY
from handlers.record.error_codes import CLASSES, OWED, ErrorClass, classify
from handlers.tables.models import OutboxAction, VerificationRecord
from tests.support import databases
from tests.support.mails import render

KEY = ("vs_1", "email_verified", "verified::vr_1")
SAMPLES = [sample for template in mail_templates() for sample in samples(template)]
LINK = "https://a.example/r?x=1&y=2"
HOSTILE = [
    '<img src=x onerror="alert(1)"> & more',
    "x\r\nBcc: c@d.example\r\n\r\n<script>",
    "\u202egnp.exe\u2066 \x00\x1b[31m\x85 \ud800",
    '"><a href="javascript:alert(1)">',
    "{{ 7 * 7 }} %(company)s %s % {0}",
    "word " * 2000,
    "=?utf-8?q?x=0ABcc:_c@d.example?=",
    "x" * 10_000,
]


@pytest.fixture
def company(environment: pytest.MonkeyPatch) -> None:
    """Makes the settings of a team that has given all its details."""
    environment.setenv("MAIL_FROM", "Example Ltd <id@example.com>")
    environment.setenv("SUPPORT_EMAIL", "Example Help <help@example.com>")
    environment.setenv("PRIVACY_URL", "https://example.com/privacy")
    environment.setenv("ALTERNATIVE_URL", "https://example.com/other?a=1&b=2")
    databases.forget_process_state()


def _mail(
    template: str = "email_verified", recipient: str = "anna@example.com", language: str = "en", **words: object
) -> Mail:
    about = replace(next(iter(samples(template))).about, **words)  # type: ignore[arg-type]  # a field's own
    to = parse_address(recipient)
    return Mail(template=template, recipient=to, key=KEY, language=language, about=about, last_look=lambda: None)


def _of(sample: Sample, language: str = "en") -> Mail:
    return replace(_mail(sample.template, language=language), about=sample.about)


def _parts(message: EmailMessage) -> tuple[str, str]:
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    return text.get_content(), html.get_content()


def _seen(html: str) -> str:
    """The text that a reader sees or hears."""
    body = re.sub(r"<head>.*?</head>|<!--.*?-->", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_every_mail_is_rendered_here() -> None:
    assert {sample.template for sample in SAMPLES} == set(mail_templates())
    assert set(mail_templates()) <= set(REGISTRY)
    codes = {sample.about.code for sample in SAMPLES}
    assert codes >= {code for code, what in CLASSES.items() if what in OWED}


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.usefixtures("company")
def test_each_mail_has_a_subject_and_two_parts_that_say_the_same(language: str) -> None:
    for sample in SAMPLES:
        message = render(_of(sample, language))
        text, html = _parts(message)
        seen = _seen(html)
        assert message["Subject"]
        assert message["Content-Language"] == language
        assert "Subject:" not in text
        assert re.findall(r"[{}]|%\(|None|Undefined", text + seen) == []
        assert html.startswith(f'<!doctype html>\n<html lang="{language}" dir="ltr">')
        for line in re.split(r":\n|: (?=https?://)|\n+", text.strip()):
            assert " ".join(line.split()) in seen, sample.name
        for said in re.findall(r"<(?:p|h1|a)\b[^>]*>([^<]+)<", html):
            assert " ".join(unescape(said).split()).rstrip(": ") in f"{message['Subject']} {' '.join(text.split())}"


@pytest.mark.parametrize("language", ["en", "de"])
def test_each_sentence_begins_as_one(language: str) -> None:
    for sample in SAMPLES:
        text, _ = _parts(render(_of(sample, language)))
        for sentence in re.split(r"(?<=[.!?]) |\n+", text.strip()):
            assert not sentence[:1].islower() or sentence.startswith("https://"), sentence


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.usefixtures("company")
def test_each_mail_to_a_person_says_who_writes_why_and_whom_to_ask(language: str) -> None:
    for sample in SAMPLES:
        text, html = _parts(render(_of(sample, language)))
        for part in (text, _seen(html)):
            assert "Example Ltd" in part
            assert re.search("You are receiving this email because|Sie erhalten diese E-Mail, weil", part)
            assert not re.search(r"\bmail address", part)
            if sample.template.startswith("email_"):
                assert "help@example.com" in part
                assert "https://example.com/privacy" in part
        if sample.about.link_url and sample.template == "email_retry_prompt":
            assert "app.example.com" in text.replace(sample.about.link_url, "")
            assert sample.about.link_url in _seen(html)


def test_without_an_address_for_questions_the_company_is_whom_to_ask(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BRAND_NAME", "Example Ltd")
    message = render(_mail())
    assert message["Reply-To"] is None
    assert "contact Example Ltd through its website or app" in _parts(message)[0]


def test_the_headers_are_those_of_an_automatic_mail(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAIL_FROM", "Example Ltd <id@example.com>")
    message = render(replace(_mail(), reply_to=Address("Help, please", "help@example.com")))
    assert message["From"] == "Example Ltd <id@example.com>"
    assert message["To"] == "anna@example.com"
    assert message["Reply-To"] == '"Help, please" <help@example.com>'
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"]
    assert message["Message-ID"].endswith("@example.com>")
    assert "Example Ltd" in _parts(message)[0]


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_server_that_takes_only_ascii_takes_each_mail(language: str) -> None:
    for sample in {sample.template: sample for sample in SAMPLES}.values():
        mail = _of(sample, language)
        raw = mails.render(mail)
        assert raw.isascii()
        assert max(map(len, raw.splitlines())) < 999
        received = render(mail)
        written = write_mail(mail.template, language, mail.about)
        assert received["Subject"] == written.subject
        assert re.search(rb"^Subject: ?\S", raw, re.MULTILINE)
        assert _parts(received) == (written.text, written.html)
        assert [part.defects for part in received.walk()] == [[], [], []]


def test_the_message_id_follows_from_what_is_owed_alone() -> None:
    same = render(_mail()), render(_mail(recipient="bruno@example.com", language="de"))
    assert same[0]["Message-ID"] == same[1]["Message-ID"]
    other = replace(_mail(), key=("vs_2", *KEY[1:]))
    assert render(other)["Message-ID"] != same[0]["Message-ID"]


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize("recipient", ["anna@example.com", "Åsa Öberg <åsa@example.com>"])
def test_a_mail_is_put_together_as_the_library_would(recipient: str) -> None:
    as_it_is = policy.default.clone(utf8=True, refold_source="none")
    for sample in SAMPLES:
        raw = mails.render(replace(_of(sample, "de"), recipient=parse_address(recipient)))
        assert message_from_bytes(raw).as_bytes(policy=as_it_is) == raw


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
    raw = mails.render(_mail(recipient=f'"{quoted}" <{"a" * 80}@example.com>'))
    for header, mailbox in (
        ("From", "id@a-quite-long-name-of-a-domain.example.com"),
        ("To", "a" * 80 + "@example.com"),
    ):
        (one,) = message_from_bytes(raw, policy=policy.default)[header].addresses
        assert (one.display_name.strip(), one.addr_spec) == (name.strip(), mailbox)


def test_letters_before_the_at_are_sent_as_they_are() -> None:
    raw = mails.render(_mail(recipient="jörg@bücher.example"))
    assert "\nTo: jörg@xn--bcher-kva.example\n".encode() in b"\n" + raw


def test_a_long_domain_of_the_senders_leaves_the_message_id_whole(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAIL_FROM", f"id@{'a' * 60}.{'b' * 60}.bücher.example")
    lines = mails.render(_mail()).splitlines()
    assert f"Message-ID: <{digest(KEY)}@{'a' * 60}.{'b' * 60}.xn--bcher-kva.example>".encode() in lines


@pytest.mark.parametrize("planted", HOSTILE, ids=range(len(HOSTILE)))
def test_what_others_wrote_stays_one_line_of_text(planted: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAIL_FROM", '"<b>Us</b> %s {{ x }}" <id@example.com>')
    for template in ("email_retry_prompt", "alert_review"):
        written = dict.fromkeys(("session_id", "verification_id", "account", "code", "reason"), planted)
        message = render(_mail(template, **written, report_id=planted))
        text, html = _parts(message)
        assert message["Bcc"] is None
        assert len(message["Subject"]) < 400
        assert len(text) < 5000
        assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text) == []
        assert not re.search(r"^(Bcc|<script>)", text, re.MULTILINE)
        tags = set(re.findall(r"<(/?\w+)", re.sub("<!--.*?-->", "", html, flags=re.DOTALL)))
        assert tags <= {f"{slash}{tag}" for slash in ("", "/") for tag in TAGS}
        assert {url.partition(":")[0] for url in re.findall(r'(?:href|src)="([^"]*)', html)} <= {"https"}
        assert "<b>Us</b> %s {{ x }}" in text


TAGS = {"html", "head", "meta", "title", "style", "body", "div", "h1", "p", "a", "span"}


@pytest.mark.usefixtures("company")
def test_nothing_is_fetched_to_show_a_mail() -> None:
    ours = {"https://example.com/privacy", "https://example.com/other?a=1&b=2"}
    for sample in SAMPLES:
        _, html = _parts(render(_of(sample)))
        assert re.findall(r"<(?:img|link|script|table|iframe)\b|@import|url\(|src=", html) == []
        leads = {unescape(url) for url in re.findall(r'href="([^"]*)', html)}
        assert leads <= {*ours, sample.about.link_url, sample.about.dashboard_url}


def test_a_mail_looks_like_what_it_is_by_day_and_by_night(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BRAND_COLOR", "#FFdd00")
    _, html = _parts(render(_mail("email_retry_prompt", link_url=LINK)))
    (button,) = re.findall(r'<a class="button" href="https://a.example/r\?x=1&amp;y=2" style="([^"]*)"', html)
    assert "background-color:#FFdd00;color:#000000" in button
    assert int(re.findall(r"min-height:(\d+)px", button)[0]) >= 44
    assert html.count(f">{LINK.replace('&', '&amp;')}</a>") == 1, "the plain link is shown, too"
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "@media (prefers-color-scheme: dark)" in html
    first = _seen(html.partition("<body")[2].partition(">")[2])
    assert first.startswith("You began to verify your identity for Identity verification and did not finish.\u034f")


def test_stripes_own_reason_is_told_in_english_alone() -> None:
    for language, is_told in (("en", True), ("de", False)):
        mail = _mail("email_retry_prompt", language=language, code="document_expired", reason="It did not work.")
        text, html = _parts(render(mail))
        assert ("It did not work." in text) == ("It did not work." in html) == is_told


def test_the_advice_fits_the_code() -> None:
    codes = [code for code in CLASSES if OWED[classify(code)] == "email_retry_prompt"]
    texts = {code: _parts(render(_mail("email_retry_prompt", code=code, reason=None)))[0] for code in (*codes, None)}
    assert texts.pop("document_type_not_allowed") == texts["document_type_not_supported"]
    assert len(set(texts.values())) == len(texts), "each other code has words of its own"
    assert _parts(render(_mail("email_retry_prompt", code="a_new_code", reason=None)))[0] == texts[None]
    for code, text in texts.items():
        about_pictures = code in ("document_unverified_other", "selfie_face_mismatch", "selfie_unverified_other")
        assert (" light" in text) == about_pictures, code
        assert ("ID number" in text) == (code or "").startswith("id_number"), code
        assert ("phone number" in text) == (code or "").startswith("phone"), code
        for word in ("fraud", "manipulat", "under_age", "none"):
            assert word not in text.lower()


@pytest.mark.parametrize(
    ("language", "words"), [("en", ("one try,", "3 tries,")), ("de", ("einem Versuch ", "3 Versuchen "))]
)
def test_the_limit_counts_in_words(language: str, words: tuple[str, str]) -> None:
    for number, said in zip((1, 3), words, strict=True):
        mail = _mail("email_canceled", language=language, is_at_limit=True, submissions=number)
        assert said in _parts(render(mail))[0]


def test_the_reviewer_is_told_in_words_and_truly() -> None:
    fraud = _parts(render(_mail("alert_review", code="selfie_manipulated")))[0]
    assert "the selfie of this person may have been manipulated" in fraud
    assert "The person has not been told" in fraud
    limit = _mail("alert_review", is_at_limit=True, submissions=3, will_cancel=True, code="document_expired")
    text = _parts(render(limit))[0]
    assert "submitted 3 times" in text
    assert "the person gets an email" in text
    assert "requires_input:" not in fraud + text
    assert "not been told" not in text


def test_without_a_link_the_person_is_asked_to_come_back() -> None:
    text, html = _parts(render(_mail("email_retry_prompt", link_url=None, reason=None)))
    for part in (text, _seen(html)):
        assert "open the website or app of" in part
        assert "http" not in part


def test_a_retry_link_holds_what_a_stranger_typed_only_as_text(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example/{session_id}?ref={client_reference_id}")
    record = VerificationRecord(session_id="vs_1", livemode=False, client_reference_id='x&admin=1#/../"><b>{0}')
    link = retry_url_for(record)
    assert link == "https://app.example/vs_1?ref=x%26admin%3D1%23%2F..%2F%22%3E%3Cb%3E%7B0%7D"
    assert link in _parts(render(_mail("email_retry_prompt", link_url=link)))[0]


def test_without_a_reference_the_link_has_an_empty_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example/{session_id}?ref={client_reference_id}")
    assert retry_url_for(VerificationRecord(session_id="vs_1", livemode=False)) == "https://app.example/vs_1?ref="


def _about(cause: str, **fields: Any) -> About:
    record = VerificationRecord(session_id="vs_1", livemode=False, **fields)
    action = OutboxAction(session_id="vs_1", name="alert_review", cause=cause)
    return mails.mail_of(action, record, Address("", "review@example.com")).about


def test_a_mail_is_about_its_cause_and_not_about_what_came_after_it() -> None:
    about = _about(
        "requires_input:selfie_manipulated:vr_1", last_error_code="document_expired", last_error_reason="Too old."
    )
    assert (about.code, about.report_id, about.reason) == ("selfie_manipulated", "vr_1", None)
    about = _about("requires_input:a:b:vr_1", last_error_code="a:b", last_error_reason="Said.")
    assert (about.code, about.report_id, about.reason) == ("a:b", "vr_1", "Said.")
    about = _about("submission_limit", last_error_code="document_expired", last_report_id="vr_3", submissions=3)
    assert (about.code, about.report_id, about.is_at_limit) == ("document_expired", "vr_3", True)
    assert _about("verified::").code is None
    assert not _about("canceled", submissions=2).is_at_limit
    assert _about("canceled", submissions=3).is_at_limit


def test_no_person_is_told_a_fraud_signal(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
    sent: list[Mail] = []
    environment.setattr(mails, "send", sent.append)
    record = VerificationRecord(
        session_id="vs_1", livemode=False, last_error_code="selfie_manipulated", last_error_reason="It looks faked."
    )
    for name in (name for name in mail_templates() if name.startswith("email_")):
        REGISTRY[name](OutboxAction(session_id="vs_1", name=name, cause="canceled"), record)
    assert [(mail.about.code, mail.about.reason) for mail in sent] == [(None, None)] * 5
    assert classify("selfie_manipulated") is ErrorClass.FRAUD_SIGNAL


def test_without_an_smtp_server_a_mail_is_one_private_file() -> None:
    folder = settings().var_dir / "mail"
    send(_mail())
    send(_mail())
    (path,) = folder.iterdir()
    assert path.name == f"{digest(_mail().key)}.eml"
    assert folder.stat().st_mode & 0o077 == 0
    assert message_from_bytes(path.read_bytes())["To"] == "anna@example.com"


def test_a_mail_prints_neither_address_nor_words() -> None:
    shown = repr(_mail("email_retry_prompt", reason="It did not work.", link_url=LINK))
    for personal in ("anna", "did not work", "a.example"):
        assert personal not in shown
