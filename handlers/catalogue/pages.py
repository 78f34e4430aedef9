"""The words of a page: the HTML of one state in one language, and the stylesheet of all pages."""

from dataclasses import asdict, dataclass, field, fields
from functools import cache
from html import escape
from urllib.parse import urlsplit

from config.settings import settings
from handlers.catalogue.brand import readable_on, text_on
from handlers.catalogue.mails import MOST_CHARACTERS, PAGE_FORM, UNWRITTEN, environment, speaking
from handlers.catalogue.words import direction, folders, is_english, words_of
from handlers.record.error_codes import ErrorClass, classify

# Pages that say the same to everybody.
REFUSALS = ("no_link", "returned", "foreign", "too_long", "away", "busy")
# Each page has a template of its name.
PAGES = (
    *("todo", "failed", "opening", "processing", "verified"),
    *("ended", "limit", "redacted", "expired", "link_sent", *REFUSALS),
)
_HERE = "?lang="  # this page's address, to which a language is added
STYLES = "pages.css"
_CARD, _DARK_CARD = "#ffffff", "#1d1f22"  # as the stylesheet has them


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """The values that a page's template may use; absent ones are left out. A browser may follow each address."""

    word: str = ""  # of the state, as the status page is told it, and its version
    version: str = ""
    code: str | None = None  # of the failure
    reason: str | None = field(default=None, repr=False)  # Stripe's own sentence, in English
    submissions: int = 0
    link_days: int = 7
    action_url: str | None = field(default=None, repr=False)  # where the form enters; none where nobody may
    link_url: str | None = field(default=None, repr=False)  # where the form asks for a new link
    status_url: str = field(default="", repr=False)
    refresh_url: str | None = field(default=None, repr=False)  # the page loads it by itself if no script runs
    verify_url: str | None = field(default=None, repr=False)  # of the page that has the form
    language_url: str = field(default=_HERE, repr=False)  # this page's address, to which a language is added
    again_url: str = field(default="", repr=False)  # of this page; an empty one leads to it, too
    continue_url: str | None = field(default=None, repr=False)  # the application's
    logo_url: str | None = None
    stripe_js_url: str | None = None  # with both there is a modal
    publishable_key: str | None = None
    account: str | None = None


def write_page(name: str, language: str, shown: Shown) -> str:
    """The whole page. Raises Jinja's errors for a broken template: `check` finds it at the start."""
    values = asdict(shown)
    if shown.code and classify(shown.code) is ErrorClass.FRAUD_SIGNAL:  # no person is told of it
        values |= {"code": None, "reason": None}
    if values["reason"]:
        line = UNWRITTEN.sub(" ", values["reason"]).strip()[:MOST_CHARACTERS]
        values["reason"] = line if is_english(language) else None
    template = environment(PAGE_FORM).get_template(f"{name}.jinja")
    return template.render(values, **_around(shown.language_url), **speaking(language)).strip() + "\n"


def write_refusal(name: str, language: str, logo_url: str | None, language_url: str) -> str:
    """One of REFUSALS. Raises as write_page."""
    return _refusal(name, language, logo_url).replace(f'="{_HERE}', f'="{escape(language_url)}')


@cache
def _refusal(name: str, language: str, logo_url: str | None) -> str:
    # Written once: anybody may be refused a thousand times.
    return write_page(name, language, Shown(logo_url=logo_url))


def stylesheet() -> str:
    """The stylesheet: TEMPLATES_DIR's or ours, below the brand's colours."""
    (path, *_) = (path for folder in folders() if (path := folder / "pages" / STYLES).exists())
    return colors() + path.read_text("utf-8")


def colors() -> str:
    """The brand's colours as variables for a stylesheet: each has contrast enough in its place."""
    color = settings().brand_color
    named = {
        "brand": color,
        "on-brand": text_on(color),
        "link": readable_on(_CARD, color),
        "link-in-the-dark": readable_on(_DARK_CARD, color),
    }
    chosen = "".join(f"  --{name}: {value};\n" for name, value in named.items())
    return f":root {{\n{chosen}}}\n"


def names_in_pages() -> set[str]:
    """The names that a page's template may use."""
    given = {one.name for one in fields(Shown)} | {"title"} | _around().keys()
    return given | environment(PAGE_FORM).globals.keys() | speaking("en").keys()


def _around(language_url: str = "") -> dict[str, object]:
    """The values that every page has besides: the address of its assets, and the languages that it exists in."""
    languages = [
        # "English" in the words of a language is its own name.
        {
            "language": one,
            "name": words_of(one).gettext("English"),
            "direction": direction(one),
            "url": language_url + one,
        }
        for one in settings().locales
    ]
    return {"assets_url": urlsplit(settings().base_url).path.rstrip("/") + "/assets", "languages": languages}
