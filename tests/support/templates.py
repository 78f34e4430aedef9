"""Templates that are compiled once a process, though each test has environments of its own."""

from types import CodeType

from jinja2 import Environment

from handlers.catalogue import mails, pages, words

# The caches of the catalogue that hold settings.
REMEMBERED = (
    *(mails.environment, mails.speaking, mails.names_in, mails._named, mails._written),
    *(pages._refusal, words.words_of),
)
_compile = Environment.compile
_codes: dict[tuple[object, ...], CodeType] = {}


def compiled_once(made: Environment, source: str, name: str | None, filename: str | None) -> CodeType:
    """The code that Jinja makes of a template; no other difference between environments reaches the code."""
    key = (source, name, filename, made.autoescape)
    if key not in _codes:
        _codes[key] = _compile(made, source, name, filename)
    return _codes[key]
