"""The words of each language: .po files, read once; English needs none, since the templates speak it."""

import re
from collections.abc import Iterator
from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po

from config.settings import settings

OUR_TEMPLATES = Path(__file__).parent / "templates"
_MOST_WANTED = 20  # languages of one Accept-Language: browsers send less, and anybody may send more
_LONGEST_TAG = 35  # letters that a language may have (RFC 5646, 4.4.1): each part more would be looked up once more
# Babel knows them, too, but reads four megabytes for it. A test compares both.
_RIGHT_TO_LEFT = {
    *("apc", "ar", "bal", "bgn", "ckb", "dv", "fa", "he", "ks", "lrc", "mzn", "nqo", "ps", "rhg", "sd", "sdh"),
    *("skr", "syr", "trw", "ug", "ur", "yi"),
}
_RIGHT_TO_LEFT_SCRIPTS = {"adlm", "arab", "hebr", "nkoo", "rohg", "syrc", "thaa"}


class WordsError(Exception):
    """A file of words cannot be read; the message says which and why."""


def folders() -> list[Path]:
    """The folders with templates and words: TEMPLATES_DIR's before ours."""
    theirs = settings().templates_dir
    return [theirs, OUR_TEMPLATES] if theirs else [OUR_TEMPLATES]


def language_for(*wanted: str | None, accepted: str = "") -> str:
    """The first of these languages that LOCALES has, then the first of an Accept-Language header, else LOCALES' first.

    de-AT is answered by de-AT, or else by de, or else by another de (RFC 4647's look-up, and one step more).
    """
    for one in (*wanted, *_accepted(accepted)):
        if found := offered(one or ""):
            return found
    return settings().locales[0]


def offered(wanted: str) -> str | None:
    """The language of LOCALES that answers this one, as in language_for; None if none does."""
    known = {language.lower(): language for language in settings().locales}
    parts = wanted[:_LONGEST_TAG].lower().replace("_", "-").split("-")
    for length in range(len(parts), 0, -1):
        if found := known.get("-".join(parts[:length])):
            return found
    return next((language for name, language in known.items() if name.partition("-")[0] == parts[0]), None)


def is_english(language: str) -> bool:
    """Whether this language is the one of the templates' own sentences."""
    return language.lower().partition("-")[0] == "en"


def direction(language: str) -> str:
    """The direction in which a language is read: ltr or rtl."""
    name, *parts = language.lower().split("-")
    scripts = [part for part in parts if len(part) == 4]
    is_rtl = scripts[0] in _RIGHT_TO_LEFT_SCRIPTS if scripts else name in _RIGHT_TO_LEFT
    return "rtl" if is_rtl else "ltr"


@cache
def words_of(language: str) -> NullTranslations:
    """The words of a language. Raises WordsError."""
    found = NullTranslations()
    for _, catalog in reversed(catalogs(language)):
        compiled = BytesIO()
        write_mo(compiled, catalog)
        compiled.seek(0)
        closer = GNUTranslations(compiled)
        closer.add_fallback(found)
        found = closer
    return found


def catalogs(language: str) -> list[tuple[Path, Catalog]]:
    """A language's files with their content, in the order of asking: TEMPLATES_DIR's before ours, de-AT's before de's.

    Raises WordsError.
    """
    names = dict.fromkeys([language, language.partition("-")[0]])
    paths = [folder / "words" / f"{name}.po" for folder in folders() for name in names]
    return [(path, _read(path)) for path in paths if path.exists()]


def _read(path: Path) -> Catalog:
    try:
        with path.open("rb") as file:
            return read_po(file, abort_invalid=True)
    except PoFileError as error:
        raise WordsError(f"{path.name} cannot be read: {error}") from None
    except (OSError, ValueError, LookupError) as error:  # of its bytes, its header or its charset
        raise WordsError(f"{path.name} cannot be read: {type(error).__name__}") from None


def _accepted(header: str) -> Iterator[str]:
    asked = []
    for item in header.split(",")[:_MOST_WANTED]:
        name, _, weight = item.partition(";")
        found = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", weight)
        asked.append((float(found[1]) if found else 1.0, name.strip()))
    yield from (name for weight, name in sorted(asked, key=lambda one: -one[0]) if weight)
