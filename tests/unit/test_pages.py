"""Each page: its words, for eyes and ears, in every language, and the parts that its scripts rely on."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from config.settings import settings
from handlers.catalogue.brand import contrast
from handlers.catalogue.check import faults
from handlers.catalogue.pages import PAGES, Shown, stylesheet, write_page
from handlers.catalogue.samples import PageSample, page_samples
from handlers.record.error_codes import CLASSES, ErrorClass, classify
from tests.support import databases
from tests.support.pseudo import CLOSES, OPENS, write_words

SAMPLES = list(page_samples())
SCRIPTS = Path(__file__).parents[2] / "receiver" / "pages" / "static"
SAID = {"SUPPORT_EMAIL": "1@2.3", "PRIVACY_URL": "https://4.example/", "ALTERNATIVE_URL": "https://5.example/"}


def _set(environment: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        environment.setenv(name, str(value))
    databases.forget_process_state()


def _write(sample: PageSample, language: str = "en", **shown: object) -> str:
    return write_page(sample.page, language, replace(sample.shown, **shown))  # type: ignore[arg-type]  # a field's own


def _text(page: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", page.partition("</head>")[2])).split())


class _Tags(HTMLParser):
    """Every element with its attributes, and those that are open at the end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an element and its attributes."""
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes the element that is open."""
        assert self.open.pop() == tag


@pytest.mark.parametrize(("smtp", "says"), [("smtp://mail.example", True), ("file:", True), ("", False)])
def test_who_waits_is_promised_a_mail_only_where_mails_go_out(
    environment: pytest.MonkeyPatch, smtp: str, says: bool
) -> None:
    _set(environment, DATABASE_URL="postgresql://here/db", SMTP_URL=smtp)  # beside a file a mail is a file
    for sample in (one for one in SAMPLES if one.page == "processing"):
        assert ("write to you" in _text(_write(sample))) == says
        assert "we have an email address for you" in _text(_write(sample)) or not says


def test_each_page_is_written_here() -> None:
    assert {sample.page for sample in SAMPLES} == set(PAGES)
    assert {sample.shown.code for sample in SAMPLES} >= set(CLASSES)


@pytest.mark.parametrize("language", ["en", "de"])
def test_each_page_is_whole_and_its_title_repeats_its_heading(language: str, environment: pytest.MonkeyPatch) -> None:
    _set(environment, BRAND_NAME="Müller & <Söhne>", **SAID)
    for sample in SAMPLES:
        page = _write(sample, language)
        tags = _Tags(page)
        assert tags.open == [], sample.name
        assert tags.found[0] == ("html", {"lang": language, "dir": "ltr"})
        (title,), (heading,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", page) for tag in ("title", "h1"))
        assert title == f"{heading} – Müller &amp; &lt;Söhne&gt;"
        assert [tag for tag, _ in tags.found if tag in ("header", "main", "footer")] == ["header", "main", "footer"]


def test_no_page_has_a_script_or_a_style_of_its_own() -> None:
    for sample in SAMPLES:
        for tag, attributes in _Tags(_write(sample)).found:
            assert tag != "style", sample.name
            assert [name for name in attributes if name == "style" or name.startswith("on")] == [], sample.name
            if tag == "script":
                assert re.fullmatch(r"/assets/\w+\.js", attributes["src"] or ""), sample.name


def test_only_a_page_that_enters_and_one_that_waits_have_a_script() -> None:
    with_one = {sample.name for sample in SAMPLES if "<script" in _write(sample)}
    enters = {one.name for one in SAMPLES if one.page in ("todo", "failed") and one.shown.action_url}
    modal = {name for name in enters if not name.endswith("redirect")}
    assert with_one == modal | {one.name for one in SAMPLES if one.page == "processing"}
    assert "redirect" not in {one.name for one in SAMPLES if "stripe.js" in _write(one)}
    assert {one.name for one in SAMPLES if '<form id="verify" method="post"' in _write(one)} == enters


@pytest.mark.parametrize(("language", "said"), [("eo", {}), ("ar", SAID)])
def test_in_a_language_that_nobody_speaks_every_word_of_a_page_is_of_the_catalogue(
    language: str, said: dict[str, str], tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    write_words(tmp_path, language)
    _set(environment, LOCALES=language, TEMPLATES_DIR=tmp_path, BRAND_NAME="1234", **said)
    for sample in SAMPLES:
        page = _write(sample, language)
        rest = re.sub(f"{OPENS}[^{OPENS}{CLOSES}]*{CLOSES}", "", _text(page))
        assert re.findall(r"[^\W\d_]+", rest) == [], sample.name
        assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in page


def test_no_sentence_stands_in_a_script() -> None:
    for path in SCRIPTS.glob("*.js"):
        code = re.sub(r"(?m)\s//.*$", "", path.read_text())
        written = re.findall(r"""(["'`])((?:\\.|(?!\1).)*)\1""", code)
        assert [text for _, text in written if re.search(r"[A-Za-z]+ [a-z]+", text) and text != "use strict"] == []
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|console\.", code)


# The modal's codes as docs.stripe.com/identity names them.
MODAL = (
    *("consent_declined", "device_unsupported", "under_supported_age", "phone_otp_declined"),
    "email_verification_declined",
)


def test_a_page_with_the_modal_has_all_that_its_script_says() -> None:
    script = (SCRIPTS / "verify.js").read_text()
    for sample in (one for one in SAMPLES if one.shown.stripe_js_url and one.shown.action_url):
        page = _write(sample)
        for name in re.findall(r'say\("(\w+)"\)', script):
            assert f"<template data-{name}>" in page
        told = [*MODAL, *re.findall(r'tell\("(\w*)"', script), "away", "busy"]
        assert set(re.findall(r'<template data-problem="(\w*)">', page)) == set(told), sample.name
    status = (SCRIPTS / "status.js").read_text()
    (waiting,) = (one for one in SAMPLES if one.name == "processing")
    for name in re.findall(r'say\("(\w+)"\)', status):
        assert f"<template data-{name}>" in _write(waiting)


def test_what_was_wrong_stands_before_anything_that_can_be_done_and_has_the_focus() -> None:
    for sample in (one for one in SAMPLES if one.page == "failed" and one.shown.code != "abandoned"):
        main = _write(sample).partition("<main>")[2]
        if not sample.shown.action_url:
            main = main.partition("</h1>")[2]
        begins = '<section class="problem" tabindex="-1" autofocus aria-labelledby="problem">'
        assert main.strip().startswith(begins), sample.name
    abandoned = _write(next(one for one in SAMPLES if one.name == "failed-abandoned"))
    assert "There is a problem" not in abandoned.partition("<template")[0]


def test_a_sign_of_fraud_is_told_on_no_page_and_stripes_reason_in_english_alone() -> None:
    told = Shown(action_url="/", reason="It says <so>.\u202e" + "x" * 400)
    assert "Stripe gave: “It says &lt;so&gt;. xxx" in (page := write_page("failed", "en", replace(told, code="a_code")))
    assert "x" * 301 not in page
    assert "xxx" not in write_page("failed", "de", replace(told, code="document_expired"))
    for code in (code for code in CLASSES if classify(code) is ErrorClass.FRAUD_SIGNAL):
        assert write_page("failed", "en", replace(told, code=code)) == write_page("failed", "en", Shown(action_url="/"))


@pytest.mark.parametrize(
    "color", ["#1a5fb4", "#ffffff", "#000000", "#ffdd00", "#777777", "#e01b24", "#0a0a0a", "#7fff00"]
)
def test_a_brands_colour_can_be_read_wherever_it_stands(color: str, environment: pytest.MonkeyPatch) -> None:
    _set(environment, BRAND_COLOR=color)
    styles = stylesheet()
    values = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", styles))
    (dark_card,) = re.findall(r"--card: (#\w+);", styles)[1:]
    assert values["brand"] == color
    assert contrast(values["brand"], values["on-brand"]) >= 4.5
    (light_card,) = re.findall(r"--card: (#\w+);", styles)[:1]
    assert contrast(values["link"], light_card) >= 4.5
    assert contrast(values["link-in-the-dark"], dark_card) >= 4.5


def test_every_other_colour_can_be_read_too() -> None:
    light, _, dark = stylesheet().partition("@media (prefers-color-scheme: dark)")
    for part in (light, dark):
        values = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part))
        for name in ("text", "soft", "problem"):
            assert contrast(values[name], values["card"]) >= 4.5


def test_of_two_ways_on_one_stands_out(environment: pytest.MonkeyPatch) -> None:
    for said in ({}, SAID):
        _set(environment, **said)
        for sample in SAMPLES:
            main = re.sub(
                r"<(template|noscript)\b.*?</\1>|<div [^>]*hidden>.*?</div>", "", _write(sample), flags=re.DOTALL
            )
            assert len(re.findall('class="button"', main)) <= 1, sample.name
            assert 'class="button second"' not in main or 'class="button"' in main, sample.name


def test_each_language_is_offered_by_its_own_name(environment: pytest.MonkeyPatch) -> None:
    english = write_page("todo", "en", Shown(action_url="/verify/x"))
    assert '<a href="?lang=de" lang="de" hreflang="de" dir="ltr">Deutsch</a>' in english
    assert '<span aria-current="true">English</span>' in english
    _set(environment, LOCALES="de")
    assert "hreflang" not in write_page("todo", "de", Shown(action_url="/verify/x"))


def test_assets_are_where_the_service_is_reached(environment: pytest.MonkeyPatch) -> None:
    _set(environment, PUBLIC_URL="https://id.example.com/identity/")
    assert 'href="/identity/assets/pages.css"' in write_page("no_link", "en", Shown())
    assert settings().base_url.endswith("/identity/")


OWN = """{% extends "layout.jinja" %}
{% set title = _("Your identity is verified") %}
{% block text %}{{ continue_url }}{% endblock %}
"""


# All faults of a group are found at once; those that only rendering shows come when the rest is right.
@pytest.mark.parametrize(
    "tag",
    [
        "<script src='https://cdn.example.com/x.js'></script>",
        "<img alt='' src=//cdn.example.com/x.png>",
        '<img alt="" src="data:image/png;base64,AAAA">',
        "<link rel=stylesheet href='HTTPS://fonts.example.com/x.css'>",
        '<link href="https://cdn.example.com/x.ico" rel="icon">',
    ],
)
def test_a_page_of_a_teams_own_with_a_file_of_another_host_is_found(
    tag: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "verified.jinja").write_text(OWN.replace("{{", f"{tag}{{{{"))
    _set(environment, TEMPLATES_DIR=tmp_path)
    assert faults() == ["TEMPLATES_DIR: verified.jinja: its policy blocks a file of another host"]


@pytest.mark.parametrize(
    "broken",
    [
        [("verified.jinja", OWN + "{% if %}", "TEMPLATES_DIR: verified.jinja, line 4: ")],
        [
            ("verified.jinja", OWN.replace("continue_url", "of_theirs"), "names 'of_theirs', which is not known"),
            ("ended.jinja", OWN.replace("continue_url", "session_id"), "names 'session_id', which is not known"),
            ("verfied.jinja", OWN, "verfied.jinja has no page's name, and none refers to it"),
            ("../verified.jinja", OWN, "verified.jinja lies in no folder that is read: mails, pages, shared"),
            ("../page/ended.jinja", OWN, "ended.jinja lies in no folder that is read: mails, pages, shared"),
        ],
        [
            ("verified.jinja", OWN.replace("continue_url", "1 // 0"), "cannot be rendered: ZeroDivisionError"),
            ("expired.jinja", OWN, "expired.jinja: it does not lead to link_url"),
            ("todo.jinja", OWN, "todo.jinja: it does not lead to action_url"),
            (
                "failed.jinja",
                OWN.replace("{{ continue_url }}", '<a href="{{ action_url }}">'),
                "failed.jinja: it does not lead to action_url",  # which nobody enters by a link
            ),
            ("ended.jinja", "", "ended.jinja: it has no title"),
            ("limit.jinja", OWN.replace("{{", "<style>p {}</style>{{"), "limit.jinja: its policy blocks a style"),
            (
                "opening.jinja",
                OWN.replace("{{", '<p style="color: red">{{'),
                "opening.jinja: its policy blocks a style",
            ),
            ("redacted.jinja", OWN.replace("{{", "<script>1</script>{{"), "redacted.jinja: its policy blocks a style"),
            ("link_sent.jinja", OWN.replace("{{", "<a onclick='x'>{{"), "link_sent.jinja: its policy blocks a style"),
        ],
        [("verified.jinja", OWN.replace("Your identity is", "All is"), "LOCALES names de: 1 of ")],
    ],
)
def test_a_page_of_a_teams_own_that_is_broken_is_found_with_its_name(
    broken: list[tuple[str, str, str]], tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pages").mkdir()
    for name, content, _ in broken:
        path = tmp_path / "pages" / name
        path.resolve().parent.mkdir(exist_ok=True)
        path.resolve().write_text(content)
    _set(environment, TEMPLATES_DIR=tmp_path)
    found = faults()
    for _, _, said in broken:
        assert [fault for fault in found if said in fault], found
    assert len(found) == len(broken)


def test_a_team_has_a_page_and_a_stylesheet_of_its_own(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "verified.jinja").write_text(OWN)
    (tmp_path / "pages" / "pages.css").write_text("main { color: var(--link); }")
    _set(environment, TEMPLATES_DIR=tmp_path)
    assert faults() == []
    page = write_page("verified", "de", Shown(continue_url="https://a.example/?b=1&c=2"))
    assert "https://a.example/?b=1&amp;c=2" in page
    assert "<h1>Ihre Identität ist bestätigt</h1>" in page
    assert stylesheet().endswith("\nmain { color: var(--link); }")
    (tmp_path / "pages" / "pages.css").write_bytes(b"\xff")
    assert faults() == ["TEMPLATES_DIR: pages.css cannot be rendered: UnicodeDecodeError"]
