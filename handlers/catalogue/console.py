"""The pages of the operator's console, in English, with their stylesheet and script."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from handlers.catalogue.mails import CONSOLE, environment
from handlers.catalogue.pages import STYLES, colors
from handlers.catalogue.words import OUR_TEMPLATES

_OWN_STYLES, _SCRIPT = "console.css", "console.js"


def write_console(name: str, values: Mapping[str, object]) -> str:
    """The whole page, as HTML."""
    return _environment().get_template(f"{name}.jinja").render(values).strip() + "\n"


def console_stylesheet() -> str:
    """The stylesheet of the person's pages, and the console's own."""
    return colors() + "".join(
        (OUR_TEMPLATES / path).read_text("utf-8") for path in (f"pages/{STYLES}", f"console/{_OWN_STYLES}")
    )


def console_script() -> str:
    """The script that keeps the overview up to date while somebody looks at it."""
    return (OUR_TEMPLATES / "console" / _SCRIPT).read_text("utf-8")


@cache
def _environment() -> Environment:
    made = environment(CONSOLE)
    made.filters["time"] = _time
    return made


def _time(moment: datetime | None) -> Markup:
    if moment is None:
        return Markup("–")
    return Markup('<time datetime="{:%Y-%m-%dT%H:%M:%SZ}">{:%Y-%m-%d %H:%M:%S}</time>').format(moment, moment)
