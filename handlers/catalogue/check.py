"""Checks that every template and every language is whole: at the start, so that no person is the first to see."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path
from typing import cast

from babel.messages.catalog import Catalog
from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.ext import extract_from_ast

from config.settings import SettingsError, settings
from handlers.catalogue import mails, pages
from handlers.catalogue.mails import FORMS, PAGE_FORM, NoSubjectError, environment, templates, write_mail
from handlers.catalogue.pages import PAGES, STYLES, stylesheet, write_page
from handlers.catalogue.samples import PageSample, Sample, mail_samples, mail_templates, page_samples
from handlers.catalogue.words import WordsError, catalogs, is_english

Sentence = str | tuple[str, str]  # or its singular and its plural
_Parsed = Mapping[tuple[str, str], nodes.Template]  # by form and name
_SAYS = {"_": 1, "ngettext": 2}  # the functions of templates, and how many sentences each takes
_LEADS_TO = {
    "todo": ("action", "action_url"),
    "failed": ("action", "action_url"),
    "processing": ("href", "status_url"),
    "expired": ("action", "link_url"),
}
_FOLDERS = ("mails", "pages", "shared")
_TITLED = re.compile(r"<title>\s*[^\s<]")
_BLOCKED = re.compile(r"<style\b|<script\b(?![^>]*\ssrc=)|<[^>]+\s(?:style|on\w+)=", re.IGNORECASE)
# An address with a scheme or a host, of a file that only our own host may have; Stripe's script is for the button.
_FOREIGN = re.compile(
    r"<(?:script|img|link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon)\b))\b[^>]*\s(?:src|href)=[\"']?\s*"
    r"(?!https://js\.stripe\.com/)(?:[a-z][a-z\d+.-]*:|//)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]")


class _OfNoUseError(Exception):
    """A mail or page that says nothing, or from which nobody gets any further."""


def check() -> None:
    """Raises SettingsError if a mail or a page could not be written, with each reason on a line of its own.

    Without TEMPLATES_DIR only a language may be missing: our own files are whole, since the tests ask for `faults`.
    """
    if found := faults() if settings().templates_dir else list(_unread()):
        raise SettingsError("\n".join(found))


def faults() -> list[str]:
    """All faults of LOCALES and TEMPLATES_DIR; files that cannot be read come first, and alone."""
    languages = settings().locales
    if lost := list(_lost()):
        return lost
    if unread := list(_unread()):
        return unread
    parsed: dict[tuple[str, str], nodes.Template] = {}
    if broken := list(dict.fromkeys(_parse(parsed))):
        return broken
    found = [*_faults_of_each(parsed), *_unused(parsed)]
    if not found:
        said = set(_said(parsed))
        found = [fault for language in languages for fault in list(_wordless(language, said)) or _unwritten(language)]
    return list(dict.fromkeys(found))


def sentences() -> set[Sentence]:
    """Every sentence that a template says, in English."""
    parsed: dict[tuple[str, str], nodes.Template] = {}
    assert not list(_parse(parsed)), "a template is broken"  # noqa: S101  # asked after `faults`
    return set(_said(parsed))


def unsaid() -> list[str]:
    """Words of TEMPLATES_DIR that no template says (any more), each with its file."""
    said, theirs = sentences(), settings().templates_dir
    return [
        f"{path.name}: {_start(message.id)}"
        for language in settings().locales
        for path, catalog in catalogs(language)
        if theirs in path.parents
        for message in catalog
        if message.id and message.id not in said
    ]


def _lost() -> Iterator[str]:
    """Faults of files and folders of TEMPLATES_DIR that cannot be read: ours would be taken instead."""
    lost: list[tuple[str, OSError]] = []
    theirs = settings().templates_dir
    walk = os.walk(theirs, onerror=lambda why: lost.append((why.filename, why))) if theirs else ()
    for path in sorted(Path(folder, name) for folder, *names in walk for name in chain(*names)):
        if path.suffix in (".jinja", ".po", ".css"):
            try:
                path.read_bytes()
            except OSError as error:
                lost.append((str(path), error))
    for name, why in lost:
        yield f"TEMPLATES_DIR: {Path(name).name} cannot be read: {type(why).__name__}"


def _unread() -> Iterator[str]:
    """Languages without words, or with words that cannot be read."""
    for language in dict.fromkeys(["en", *settings().locales]):
        try:
            if not catalogs(language) and not is_english(language):
                yield f"LOCALES names {language}, of which there are no words: see docs/words.md"
        except WordsError as error:
            yield f"LOCALES names {language}: {error}"


def _parse(parsed: dict[tuple[str, str], nodes.Template]) -> Iterator[str]:
    """Reads every template of each form; yields a fault for each that Jinja cannot read."""
    for form in (*FORMS, PAGE_FORM):
        made = environment(form)
        for name in _names(form):
            try:
                source, file, _ = templates(form).get_source(made, name)
                parsed[form, name] = made.parse(source, name, file)
                made.get_template(name)
            except TemplateSyntaxError as error:
                yield f"TEMPLATES_DIR: {name}, line {error.lineno}: {error.message}"
            except UnicodeDecodeError:
                yield f"TEMPLATES_DIR: {name} is not written in UTF-8"


def _names(form: str) -> list[str]:
    # A template in a form's own folder has no slash in its name.
    return [name for name in templates(form).list_templates() if name.endswith(".jinja") and "/" not in name]


def _faults_of_each(parsed: _Parsed) -> Iterator[str]:
    """The faults of each template that show without rendering it."""
    known = {**dict.fromkeys(FORMS, mails.names_in_mails()), PAGE_FORM: pages.names_in_pages()}
    for (form, name), tree in parsed.items():
        for one in sorted(meta.find_undeclared_variables(tree) - known[form] - _own(tree)):
            yield f"TEMPLATES_DIR: {name} names {one!r}, which is not known"
        for other in meta.find_referenced_templates(tree):
            if (form, other) not in parsed:
                yield f"TEMPLATES_DIR: {name} refers to {other!r}, which is not there"
        for call in tree.find_all(nodes.Call):
            function = call.node.name if isinstance(call.node, nodes.Name) else ""
            given = call.args[: _SAYS.get(function, 0)]
            if len(given) < _SAYS.get(function, 0) or not all(isinstance(one, nodes.Const) for one in given):
                yield f"TEMPLATES_DIR: {name}, line {call.lineno}: what {function} says is not written out"


def _own(tree: nodes.Template) -> set[str]:
    """The names that a template defines; to Jinja those from outside a block are unknown within."""
    imported = [one for node in tree.find_all(nodes.FromImport) for one in node.names]
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    return stored | {one if isinstance(one, str) else one[1] for one in imported}


def _unused(parsed: _Parsed) -> Iterator[str]:
    """The faults of files that no mail or page uses, and of mails and pages that have no file."""
    theirs = settings().templates_dir
    for path in sorted(theirs.rglob("*.jinja")) if theirs else []:
        if path.relative_to(theirs or path).parts[0] not in _FOLDERS:
            yield f"TEMPLATES_DIR: {path.name} lies in no folder that is read: {', '.join(_FOLDERS)}"
    for forms, kind, names in ((FORMS, "mail", mail_templates()), ((PAGE_FORM,), "page", PAGES)):
        written = {f"{name}.jinja" for name in names}
        trees = {name: tree for (form, name), tree in parsed.items() if form in forms}
        used = {other for tree in trees.values() for other in meta.find_referenced_templates(tree)}
        for path in sorted(theirs.glob(f"{kind}s/**/*.jinja")) if theirs else []:
            if path.name not in {*written, *used}:
                yield f"TEMPLATES_DIR: {path.name} has no {kind}'s name, and none refers to it"
        for name in sorted(written - trees.keys()):
            yield f"TEMPLATES_DIR: {name} is not there"


def _said(parsed: _Parsed) -> Iterator[Sentence]:
    for tree in parsed.values():
        for _, function, strings in extract_from_ast(tree, list(_SAYS), babel_style=False):
            one, *more = cast("tuple[str, ...]", strings)  # since all of them are written out
            yield (one, more[0]) if _SAYS[function] == 2 else one


def _wordless(language: str, said: set[Sentence]) -> Iterator[str]:
    """The faults of one language: sentences without a translation, or with other placeholders in it."""
    translated: set[Sentence] = set()
    for path, catalog in catalogs(language):
        for message in catalog:
            if message.id not in said or message.fuzzy or not message.string or not all(message.string):
                continue
            translated.add(message.id)
            if not _fits(message.id, message.string, catalog):
                yield f"LOCALES names {language}: in {path.name}, other placeholders than in: {_start(message.id)}"
    missing = sorted(map(_start, said - translated))
    if missing and not is_english(language):
        first = f"{len(missing)} of {len(said)} sentences have no words, such as: {missing[0]}"
        yield f"LOCALES names {language}: {first}"


def _fits(sentence: Sentence, words: str | Sequence[str], catalog: Catalog) -> bool:
    if isinstance(sentence, str):
        return isinstance(words, str) and _fills(words, sentence, sentence)
    return len(words) == catalog.num_plurals and all(_fills(one, *sentence) for one in words)


def _fills(words: str, least: str, most: str) -> bool:
    named, needed, allowed = (set(_PLACEHOLDER.findall(text)) for text in (words, least, most))
    try:
        _ = words % defaultdict(int)
    except (ValueError, TypeError):
        return False
    return needed - {"num"} <= named <= allowed  # words for one may leave out the number


def _unwritten(language: str) -> Iterator[str]:
    """The faults that rendering shows, of every mail and page in one language."""
    writers: list[tuple[str, Callable[[], object]]] = [
        *((f"{one.template}.jinja", partial(_mail, language, one)) for one in mail_samples()),
        *((f"{one.page}.jinja", partial(_page, language, one)) for one in page_samples()),
        (STYLES, stylesheet),
    ]
    for name, write in writers:
        try:
            write()
        except (UndefinedError, NoSubjectError, _OfNoUseError) as error:
            yield f"TEMPLATES_DIR: {name}: {error}"
        except Exception as error:  # a team's own template may raise anything
            yield f"TEMPLATES_DIR: {name} cannot be rendered: {type(error).__name__}"


def _mail(language: str, sample: Sample) -> None:
    written, url = write_mail(sample.template, language, sample.about), sample.about.link_url or ""
    is_led = {"text": url in written.text, "HTML": escape(url) in written.html}
    for form in [form for form, leads in is_led.items() if not leads and any(is_led.values())]:
        raise _OfNoUseError(f"its {form} does not lead to link_url")


def _page(language: str, sample: PageSample) -> None:
    page, (attribute, name) = write_page(sample.page, language, sample.shown), _LEADS_TO.get(sample.page, ("", ""))
    if not _TITLED.search(page):
        raise _OfNoUseError("it has no title")
    if _BLOCKED.search(page):
        raise _OfNoUseError("its policy blocks a style or script that is no file")
    if _FOREIGN.search(page):
        raise _OfNoUseError("its policy blocks a file of another host")
    if sample.page == "expired" and not settings().mails_go_out:
        return  # another link can only be mailed
    if name and (url := getattr(sample.shown, name)) and f'{attribute}="{url}"' not in page:
        raise _OfNoUseError(f"it does not lead to {name}")


def _start(sentence: str | Sequence[str]) -> str:
    return sentence if isinstance(sentence, str) else sentence[0]
