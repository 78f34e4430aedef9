"""The catalogue: every sentence in every language, chosen rightly, whole or refused at the start."""

import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from babel import Locale, localedata
from babel.messages.catalog import Catalog
from jinja2 import nodes
from jinja2.defaults import DEFAULT_NAMESPACE

from config.settings import SettingsError, settings
from handlers.catalogue import mails, pages
from handlers.catalogue.brand import contrast, text_on
from handlers.catalogue.check import check, faults, sentences, unsaid
from handlers.catalogue.mails import FORMS, PAGE_FORM, environment, names_in, templates, write_mail
from handlers.catalogue.samples import mail_templates, samples
from handlers.catalogue.words import OUR_TEMPLATES, catalogs, direction, language_for
from tests.support import databases
from tests.support.pseudo import CLOSES, OPENS, pseudo_catalog, write_words

RIGHT_TO_LEFT = "ar"  # it also has six forms of a plural


@pytest.fixture
def set_(environment: pytest.MonkeyPatch) -> "Set":
    return Set(environment)


class Set:
    """Gives this process other settings."""

    def __init__(self, environment: pytest.MonkeyPatch) -> None:
        self._environment = environment

    def __call__(self, **variables: object) -> None:
        for name, value in variables.items():
            self._environment.setenv(name, str(value))
        databases.forget_process_state()


def test_ours_are_whole() -> None:
    assert faults() == []
    assert settings().locales == ("en", "de")
    assert unsaid() == []


def test_our_words_are_those_sentences_and_no_others() -> None:
    for language in settings().locales[1:]:
        ((path, catalog),) = catalogs(language)
        ours = [message for message in catalog if message.id]
        assert {message.id for message in ours} == sentences(), path.name
        assert [message.id for message in ours if message.fuzzy or not message.string] == []
        assert list(catalog.obsolete) == []


def test_no_sentence_stands_in_a_template_outside_the_catalogue() -> None:
    for form in (*FORMS, PAGE_FORM):
        made = environment(form)
        for name in made.list_templates(["jinja"]):
            if "/" in name:
                continue
            source, file, _ = templates(form).get_source(made, name)
            written = "".join(node.data for node in made.parse(source, name, file).find_all(nodes.TemplateData))
            bare = re.sub(r"<style>.*?</style>|<[^>]*>|&\w+;|&#\d+;", " ", written, flags=re.DOTALL)
            assert re.findall(r"[^\W\d_]+", bare.replace(mails.SUBJECT, "")) == [], f"{form}/{name}"


@pytest.mark.parametrize("language", ["eo", RIGHT_TO_LEFT])
@pytest.mark.parametrize("is_said", [False, True])
def test_in_a_language_that_nobody_speaks_every_word_of_a_mail_is_of_the_catalogue(
    language: str, is_said: bool, tmp_path: Path, set_: Set
) -> None:
    write_words(tmp_path, language)
    set_(LOCALES=language, TEMPLATES_DIR=tmp_path, BRAND_NAME="1234")
    if is_said:
        set_(SUPPORT_EMAIL="1@2.3", PRIVACY_URL="https://4.example/", ALTERNATIVE_URL="https://5.example/")
    check()
    for sample in (one for template in mail_templates() for one in samples(template)):
        written = write_mail(sample.template, language, sample.about)
        body = re.sub(r"<head>.*?</head>|<!--.*?-->", "", written.html, flags=re.DOTALL)
        for part in (written.subject, written.text, unescape(re.sub("<[^>]*>", " ", body))):
            assert OPENS in part
            rest = re.sub(f"{OPENS}[^{OPENS}{CLOSES}]*{CLOSES}", "", part)
            for given in _given(sample.about):
                rest = rest.replace(given, "")
            assert re.findall(r"[^\W\d_]+", rest) == [], sample.name
        assert f'dir="{"rtl" if language == RIGHT_TO_LEFT else "ltr"}"' in written.html
        assert re.findall(r'<(?:html|div class="page")[^>]* lang="(\w+)"', written.html) == [language] * 2


def _given(about: mails.About) -> list[str]:
    values = [getattr(about, name) for name in ("link_url", "dashboard_url", "session_id", "verification_id")]
    values += [about.account, about.code, about.report_id, "https://4.example/", "https://5.example/"]
    return [value for value in values if value]


def test_among_letters_from_right_to_left_a_name_stands_by_itself(tmp_path: Path, set_: Set) -> None:
    write_words(tmp_path, RIGHT_TO_LEFT)
    set_(LOCALES=RIGHT_TO_LEFT, TEMPLATES_DIR=tmp_path, BRAND_NAME="Example (Ltd)")
    (sample,) = samples("email_verified")
    written = write_mail("email_verified", RIGHT_TO_LEFT, sample.about)
    assert "\u2068Example (Ltd)\u2069" in written.text
    assert '<span dir="auto">Example (Ltd)</span>' in written.html
    assert "\u2068" not in write_mail("email_verified", "en", sample.about).text


def test_a_name_from_right_to_left_turns_no_line_of_another_language(set_: Set) -> None:
    set_(BRAND_NAME="\u05e9\u05dc\u05d5\u05dd 24")
    (sample, *_) = samples("email_reminder")
    # Where nothing says how a text is read, its first letter that stands by no other does.
    written = write_mail("email_reminder", "en", sample.about)
    for text in (written.text, written.html):
        assert "\u2068\u05e9\u05dc\u05d5\u05dd 24\u2069 has asked you to verify your identity" in text


def test_which_way_a_language_is_read_is_what_babel_says() -> None:
    # All but scripts from top to bottom: nobody's mail is written so.
    of_a_script = re.compile("[a-z]{2}(_(?!Mong)[A-Z][a-z]{3})?")
    known = [name for name in localedata.locale_identifiers() if of_a_script.fullmatch(name)]
    assert len(known) > 150
    assert [name for name in known if direction(name.replace("_", "-")) != Locale.parse(name).text_direction] == []


@pytest.mark.parametrize(
    ("locales", "wanted", "accepted", "chosen"),
    [
        ("en,de", [], "", "en"),
        ("de,en", [None, ""], "", "de"),
        ("en,de", ["de"], "", "de"),
        ("en,de", ["DE_at"], "", "de"),
        ("en,de-AT,de", ["de-AT"], "", "de-AT"),
        ("en,de-AT", ["de-CH"], "", "de-AT"),
        ("en,zh-Hant", ["zh-Hant-TW"], "", "zh-Hant"),
        ("en,de", ["fr", "de"], "en", "de"),
        ("en,de", ["fr"], "", "en"),
        ("en,de", [None, "en"], "de", "en"),
        ("en,de", [], "fr, de;q=0.5, en;q=0.4", "de"),
        ("en,de", [], "fr, de;q=0.4, en;q=0.5", "en"),
        ("en,de", [], "en;q=0, de;q=0.1", "de"),
        ("en,de", [], "*", "en"),
        ("en,de", [], "de-DE-1996,de;q=0.9", "de"),
        ("en,de", [], ";q=,,de;q=x", "de"),
        ("en,de", ["../../etc/passwd"], "\x00" * 9, "en"),
        ("en,de", [], "xx," * 10_000 + "de", "en"),
    ],
)
def test_the_first_language_that_is_wanted_and_offered_is_chosen(
    locales: str, wanted: list[str | None], accepted: str, chosen: str, set_: Set
) -> None:
    set_(LOCALES=locales)
    assert language_for(*wanted, accepted=accepted) == chosen


def test_a_language_without_words_is_refused_by_name(set_: Set) -> None:
    set_(LOCALES="en,fr")
    with pytest.raises(SettingsError, match=r"^LOCALES names fr, of which there are no words"):
        check()


BROKEN = {
    "Your identity is verified": None,
    "About your identity verification": ("",),
    "Your identity verification has ended": ("Fini", "fuzzy"),
    "Your identity could not be verified for %(company)s yet.": ("Pas encore.",),
    "The reason that Stripe gave: “%(reason)s”": ("%(reason)s pour %(company)s",),
    "If you did not expect this, write to %(contact)s.": ("%(contact)s, 100 %",),
    "The link leads to %(site)s, where you can continue your verification for %(company)s.": ("%(site)s %(company)q",),
}


def test_words_that_are_not_whole_are_refused_with_the_sentence(tmp_path: Path, set_: Set) -> None:
    catalog = pseudo_catalog("fr")
    for sentence, words in BROKEN.items():
        assert sentence in catalog
        catalog.delete(sentence)
        if words:
            catalog.add(sentence, words[0], flags=words[1:])
    write_words(tmp_path, "fr", catalog)
    set_(LOCALES="en,fr", TEMPLATES_DIR=tmp_path)
    *others, missing = faults()
    first, *without = sorted(BROKEN)[:1], *list(BROKEN)[:3]
    assert first
    assert missing.startswith(
        f"LOCALES names fr: 3 of {len(sentences())} sentences have no words, such as: {min(without)}"
    )
    said = "LOCALES names fr: in fr.po, other placeholders than in: "
    assert sorted(others) == sorted(said + sentence for sentence in list(BROKEN)[3:])


def test_what_is_written_once_for_many_says_nothing_of_one_of_them(tmp_path: Path, set_: Set) -> None:
    persons = [replace(next(iter(samples("email_verified"))).about, session_id=name) for name in ("vs_1", "vs_2")]
    one, other = (write_mail("email_verified", "en", person) for person in persons)
    assert one is other
    (tmp_path / "mails").mkdir()
    (tmp_path / "mails" / "email_verified.jinja").write_text(
        "Subject: x\n{% set part = 'who.jinja' %}{% include part %}"
    )
    (tmp_path / "mails" / "who.jinja").write_text("{{ session_id }}")
    set_(TEMPLATES_DIR=tmp_path)
    assert [write_mail("email_verified", "en", person).text for person in persons] == ["vs_1\n", "vs_2\n"]


def test_a_mail_names_what_the_files_that_it_is_made_of_name() -> None:
    assert not names_in("email_verified")
    assert names_in("email_canceled") == {"is_at_limit", "submissions"}
    assert names_in("email_link") == {"link_url", "site"}


def test_a_plural_that_lacks_a_form_is_refused(tmp_path: Path, set_: Set) -> None:
    path = write_words(tmp_path, "fr")
    path.write_text(re.sub(r"(?m)^msgstr\[1\] (.*\n)+?(?=\n|\Z)", "", path.read_text(), count=1))
    set_(LOCALES="fr", TEMPLATES_DIR=tmp_path)
    (fault,) = faults()
    assert fault.startswith("LOCALES names fr: ")


@pytest.mark.parametrize("content", [b'msgid "x', b"hello", b'msgid "x"\nmsgstr "\xff"\n'])
def test_a_file_of_words_that_cannot_be_read_is_named(content: bytes, tmp_path: Path, set_: Set) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "de.po").write_bytes(content)
    set_(TEMPLATES_DIR=tmp_path)
    (fault,) = faults()
    assert fault.startswith("LOCALES names de: de.po cannot be read: ")


TOLD = "Your identity has been verified for %(company)s. There is nothing more for you to do."


def test_a_team_says_one_sentence_in_words_of_its_own(tmp_path: Path, set_: Set) -> None:
    for language, words in (("en", "Done, thanks to %(company)s!"), ("de", "Geschafft, %(company)s dankt!")):
        catalog = Catalog(locale=language)
        catalog.add(TOLD, words)
        catalog.add("A sentence of an older version", "x")
        write_words(tmp_path, language, catalog)
    set_(TEMPLATES_DIR=tmp_path, BRAND_NAME="Us")
    check()
    (sample,) = samples("email_verified")
    assert "Done, thanks to Us!" in write_mail("email_verified", "en", sample.about).text
    german = write_mail("email_verified", "de", sample.about).text
    assert "Geschafft, Us dankt!" in german
    assert "Guten Tag," in german
    assert unsaid() == [f"{name}.po: A sentence of an older version" for name in ("en", "de")]


def test_a_language_of_one_country_is_its_language_with_what_differs(tmp_path: Path, set_: Set) -> None:
    catalog = Catalog(locale="de_CH")
    catalog.add("Hello,", "Grüezi")
    write_words(tmp_path, "de-CH", catalog)
    set_(LOCALES="de-CH", TEMPLATES_DIR=tmp_path)
    check()
    (sample,) = samples("email_verified")
    written = write_mail("email_verified", "de-CH", sample.about)
    assert "Grüezi" in written.text
    assert written.subject == "Ihre Identität ist bestätigt"


MAIL = """{% extends "layout.jinja" %}
{% from "parts.jinja" import p %}
{% set subject = _("Your identity is verified") %}
{% block text %}
{{ p(_("Hello,")) }}
{% endblock %}
"""


def _own(folder: Path, name: str, content: str) -> None:
    path = folder / "mails" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


WORDS = (Path(__file__).parents[2] / "docs" / "words.md").read_text()


def test_the_examples_of_words_and_of_a_mail_and_a_page_work_as_they_stand(tmp_path: Path, set_: Set) -> None:
    (words,), (mail, page) = (re.findall(rf"```{kind}\n(.*?)```", WORDS, re.DOTALL) for kind in ("po", "jinja"))
    _own(tmp_path, "../pages/verified.jinja", page)
    _own(tmp_path, "email_verified.jinja", mail)
    _own(tmp_path, "../words/en.po", words)
    set_(LOCALES="en", TEMPLATES_DIR=tmp_path, BRAND_NAME="Us")
    assert (faults(), unsaid()) == ([], [])
    (sample,) = samples("email_verified")
    written = write_mail("email_verified", "en", sample.about)
    assert written.subject == "You are verified"
    assert "Welcome to Us." in written.text
    assert 'href="https://app.example.com/"' in written.html
    assert "<h1>You are verified</h1>\n<p>Welcome to Us.</p>" in pages.write_page("verified", "en", pages.Shown())


def test_the_page_names_all_that_a_template_may_speak_of() -> None:
    ours = (mails.names_in_mails() | pages.names_in_pages()) - {
        *DEFAULT_NAMESPACE,
        "_",
        "ngettext",
        "subject",
        "preview",
    }
    assert [name for name in pages.PAGES if f"`{name}`" not in WORDS] == []
    assert [name for name in sorted(ours) if f"`{name}`" not in WORDS] == []


def test_a_team_writes_a_mail_and_a_layout_of_its_own(tmp_path: Path, set_: Set) -> None:
    _own(tmp_path, "email_verified.jinja", MAIL)
    _own(tmp_path, "html/layout.jinja", '<!doctype html><p class="ours">{{ subject }}{% block text %}{% endblock %}')
    set_(TEMPLATES_DIR=tmp_path)
    check()
    (sample,) = samples("email_verified")
    written = write_mail("email_verified", "de", sample.about)
    assert written.subject == "Ihre Identität ist bestätigt"
    assert written.html.startswith('<!doctype html><p class="ours">Ihre')
    assert written.text.count("Guten Tag,") == 2


# All faults of a group are found at once; those that only rendering shows come when the rest is right.
@pytest.mark.parametrize(
    "broken",
    [
        [
            ("email_verified.jinja", MAIL + "{% if %}", "email_verified.jinja, line 7: "),
            ("email_canceled.jinja", MAIL.replace('_("Hello,")', "company | shout"), "No filter named 'shout'"),
        ],
        [
            ("email_verified.jinja", MAIL.replace('_("Hello,")', "nmae"), "names 'nmae', which is not known"),
            ("email_canceled.jinja", MAIL.replace("layout", "lay"), "refers to 'lay.jinja', which is not there"),
            ("email_alternative.jinja", MAIL.replace('"Hello,"', "company"), "line 5: what _ says is not written out"),
            ("email_retry_prompt.jinja", MAIL.replace('"Hello,"', ""), "line 5: what _ says is not written out"),
            ("email_verifed.jinja", MAIL, "email_verifed.jinja has no mail's name, and none refers to it"),
            ("footer.jinja", "{{ secret }}", "footer.jinja names 'secret', which is not known"),
        ],
        [
            ("email_verified.jinja", MAIL.replace("set subject", "set title"), "does not begin with Subject:"),
            (
                "email_canceled.jinja",
                MAIL.replace('_("Hello,")', "session_id.x.y"),
                "email_canceled.jinja: 'str object'",
            ),
            ("email_alternative.jinja", MAIL.replace('_("Hello,")', "1 // 0"), "rendered: ZeroDivisionError"),
            ("email_retry_prompt.jinja", MAIL.replace("Hello,", "%(name)s"), "rendered: KeyError"),
        ],
        [("email_verified.jinja", MAIL.replace("Hello,", "Well done."), "LOCALES names de: 1 of ")],
        [("text/layout.jinja", "{{ subject }}", "email_verified.jinja: its text does not begin with Subject:")],
        [("text/layout.jinja", "Subject: {{ subject }}", "email_link.jinja: its text does not lead to link_url")],
        [("html/layout.jinja", "{{ subject }}", "email_link.jinja: its HTML does not lead to link_url")],
    ],
)
def test_a_template_that_is_broken_is_found_with_its_name(
    broken: list[tuple[str, str, str]], tmp_path: Path, set_: Set
) -> None:
    for name, content, _ in broken:
        _own(tmp_path, name, content)
    set_(TEMPLATES_DIR=tmp_path, LOCALES="en" if "KeyError" in broken[-1][2] else "en,de")
    found = faults()
    for _, _, said in broken:
        assert [fault for fault in found if said in fault], (said, found)
    assert len(found) < 12


def test_a_template_that_is_no_text_is_found(tmp_path: Path, set_: Set) -> None:
    (tmp_path / "mails").mkdir()
    (tmp_path / "mails" / "email_verified.jinja").write_bytes(b"\xff")
    set_(TEMPLATES_DIR=tmp_path)
    assert faults() == ["TEMPLATES_DIR: email_verified.jinja is not written in UTF-8"]


@pytest.mark.parametrize("name", ["pages/todo.jinja", "pages/pages.css", "mails/html/layout.jinja", "words/de.po"])
def test_instead_of_a_file_that_is_not_there_or_none_ours_is_not_taken(name: str, tmp_path: Path, set_: Set) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere")
    set_(TEMPLATES_DIR=tmp_path)
    assert faults() == [f"TEMPLATES_DIR: {path.name} cannot be read: FileNotFoundError"]
    path.unlink()
    path.mkdir()
    assert faults() == [f"TEMPLATES_DIR: {path.name} cannot be read: IsADirectoryError"]


def test_what_a_team_writes_is_escaped_in_html_as_ours_is(tmp_path: Path, set_: Set) -> None:
    catalog = Catalog(locale="de")
    catalog.add("Hello,", 'Hallo <b>&"')
    write_words(tmp_path, "de", catalog)
    set_(TEMPLATES_DIR=tmp_path, BRAND_NAME="Müller & <Söhne>")
    (sample,) = samples("email_verified")
    written = write_mail("email_verified", "de", sample.about)
    assert "Hallo &lt;b&gt;&amp;&#34;" in written.html
    assert "Müller &amp; &lt;Söhne&gt;" in written.html
    assert "Müller & <Söhne>" in written.text


def test_letters_on_any_colour_can_be_read() -> None:
    shades = range(0, 256, 15)
    colors = [f"#{red:02x}{green:02x}{blue:02X}" for red in shades for green in shades for blue in shades]
    assert min(contrast(text_on(color), color) for color in colors) >= 4.5
    assert (text_on("#000000"), text_on("#FFDD00"), text_on("#1a5fb4")) == ("#ffffff", "#000000", "#ffffff")
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example of too little


@pytest.mark.parametrize("ground", ["#ffffff", "#1d1f22"])
def test_the_colours_of_a_mail_can_be_read_by_day_and_by_night(ground: str) -> None:
    layout = (OUR_TEMPLATES / "mails" / "html" / "layout.jinja").read_text()
    parts = (OUR_TEMPLATES / "mails" / "html" / "parts.jinja").read_text()
    day, night = {"#1b1d20", "#55585e", "#0b57d0"}, {"#f1f2f4", "#b3b7be", "#8ab4f8"}
    assert all(color in layout + parts for color in (*day, *night, ground))
    for color in day if ground == "#ffffff" else night:
        assert contrast(color, ground) >= 4.5


def test_a_language_of_thousands_of_parts_is_looked_up_no_oftener_than_a_real_one() -> None:
    calls = 0
    language_for()  # reads the settings

    def count(_frame: object, event: str, _of: object) -> None:
        nonlocal calls
        calls += event == "c_call"

    sys.setprofile(count)
    found = language_for("de-" + "a-" * 4000), language_for(accepted="de-" + "a-" * 4000)
    sys.setprofile(None)
    assert found == ("de", "de")
    assert calls < 1000
