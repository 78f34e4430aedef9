"""The words of a mail: its subject, its text and its HTML, from one template, in one language."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from unicodedata import bidirectional
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, meta

from config.settings import settings
from handlers.catalogue.brand import text_on
from handlers.catalogue.words import OUR_TEMPLATES, direction, folders, is_english, words_of

FORMS = ("text", "html")
PAGE_FORM = "page"  # a form that has one part; handlers/catalogue/pages.py writes it
CONSOLE = "console"  # another one, in English and ours alone: handlers/catalogue/console.py
_PLACES = {
    "text": ("mails/text", "mails", "shared"),
    "html": ("mails/html", "mails", "shared"),
    PAGE_FORM: ("pages", "shared"),
    CONSOLE: ("console",),
}
SUBJECT = "Subject:"
MOST_CHARACTERS = 300  # of a value that others wrote; a link is left whole
# Ends of lines, letters that are not printed, halves of letters, and marks that turn the direction of a text.
UNWRITTEN = re.compile("[\\s\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_FROM_RIGHT_TO_LEFT = {"R", "AL"}  # letters, as Unicode has them
_GAPS = re.compile(r"\s*\n\s*\n\s*")
_OF_MANY = {"code", "submissions", "is_at_limit", "will_cancel", "livemode"}  # values that many persons share
_MOST_KEPT = 100  # mails with no other values, some 5 KB each


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The values that a mail's template may use; one that is absent, or not the reader's to know, is left out."""

    session_id: str
    verification_id: str | None = None
    account: str | None = None
    livemode: bool = False
    code: str | None = None
    report_id: str | None = None
    reason: str | None = field(default=None, repr=False)  # Stripe's own sentence, in English
    link_url: str | None = field(default=None, repr=False)  # where the person goes on
    submissions: int = 0
    is_at_limit: bool = False
    will_cancel: bool = False
    dashboard_url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A mail's parts."""

    subject: str
    text: str
    html: str
    language: str


_SPOKEN_OF = {one.name for one in fields(About)} | {"site"}


class NoSubjectError(Exception):
    """A template gives no subject."""


def write_mail(template: str, language: str, about: About) -> Written:
    """Both forms of one template; the first line of its text is the subject.

    Raises NoSubjectError, or Jinja's errors, for a broken template: `check` finds it at the start.
    """
    values: dict[str, object] = {"site": urlsplit(about.link_url or "").hostname}
    for name, value in asdict(about).items():
        line = UNWRITTEN.sub(" ", value).strip() if isinstance(value, str) else value
        is_cut = isinstance(line, str) and len(line) > MOST_CHARACTERS and not name.endswith("_url")
        values[name] = f"{line[:MOST_CHARACTERS]}…" if is_cut else line
    if about.reason and not is_english(language):
        values["reason"] = None
    named = names_in(template)
    said = tuple((name, value) for name, value in values.items() if name in named)
    return (_written if named <= _OF_MANY else _written.__wrapped__)(template, language, said)


@lru_cache(maxsize=_MOST_KEPT)
def _written(template: str, language: str, said: tuple[tuple[str, object], ...]) -> Written:
    text, html = (
        environment(form).get_template(f"{template}.jinja").render(said, **speaking(language)) for form in FORMS
    )
    first, _, text = text.strip().partition("\n")
    subject = " ".join(first.removeprefix(SUBJECT).split())
    if not subject or not first.startswith(SUBJECT):
        raise NoSubjectError("its text does not begin with Subject: and one")
    return Written(
        subject=subject,
        text=_GAPS.sub("\n\n", text).strip() + "\n",
        html=html.strip() + "\n",
        language=language,
    )


@cache
def names_in(template: str) -> frozenset[str]:
    """The names of `About`, and `site`, that a mail may use: its template has them, or a file that it is made of."""
    names, made_of = set[str](), [(form, f"{template}.jinja") for form in FORMS]
    for form, name in made_of:
        named, others = _named(form, name)
        names |= named
        made_of += [(form, other) for other in others if (form, other) not in made_of]
    return frozenset(names)


@cache
def _named(form: str, name: str) -> tuple[set[str], set[str]]:
    """The names in one file, and the files that it is made of. One that chooses these by a value may use any name."""
    source = templates(form).get_source(environment(form), name)[0]
    parsed = environment(form).parse(source)
    others = set(meta.find_referenced_templates(parsed))
    named = _SPOKEN_OF if None in others else meta.find_undeclared_variables(parsed) & _SPOKEN_OF
    return named, {other for other in others if other}


@cache
def environment(form: str) -> Environment:
    """Jinja's environment for the templates of one form, with the values that all of them may use."""
    made = Environment(
        loader=templates(form),
        autoescape=form != "text",  # noqa: S701  # a mail's text is no markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    chosen = settings()
    made.globals |= {
        "company": chosen.company,
        "color": chosen.brand_color,
        "on_color": text_on(chosen.brand_color),
        "contact": chosen.support_email.mailbox if chosen.support_email else None,
        "privacy_url": chosen.privacy_url.get_secret_value() or None,
        "alternative_url": chosen.alternative_url.get_secret_value() or None,
        "mails_go_out": chosen.mails_go_out,
    }
    return made


def templates(form: str) -> FileSystemLoader:
    """The loader of one form's templates: TEMPLATES_DIR's before ours; for the console only ours."""
    chosen = [OUR_TEMPLATES] if form == CONSOLE else folders()
    return FileSystemLoader([folder / place for folder in chosen for place in _PLACES[form]])


def names_in_mails() -> set[str]:
    """The names that a mail's template may use."""
    given = _SPOKEN_OF | {"subject", "preview"}
    return given | environment("text").globals.keys() | speaking("en").keys()


@cache
def speaking(language: str) -> Mapping[str, object]:
    """The functions and values by which a template speaks a language. Raises WordsError."""
    words, way = words_of(language), direction(language)

    def say(sentence: str, /, **values: object) -> str:
        return words.gettext(sentence) % {name: _apart(value, way) for name, value in values.items()}

    def say_number(one: str, many: str, num: int, /, **values: object) -> str:
        said = words.ngettext(one, many, num)
        return said % ({name: _apart(value, way) for name, value in values.items()} | {"num": num})

    return {"_": say, "ngettext": say_number, "language": language, "direction": way}


def _apart(value: object, way: str) -> str:
    """A value of a sentence, set apart where either is read from right to left: else the words change places."""
    text = str(value)
    is_mixed = way == "rtl" or not _FROM_RIGHT_TO_LEFT.isdisjoint(map(bidirectional, text))
    return f"\u2068{text}\u2069" if is_mixed else text
