"""The command that writes every page to files, in every language of LOCALES, to be looked at."""

import argparse
import re
from collections.abc import Iterator

from config.settings import settings
from handlers.catalogue.pages import STYLES, stylesheet, write_page
from handlers.catalogue.samples import page_samples
from worker.commands.samples import write_files

_PROBLEM = re.compile(r'<template data-problem="(\w*)">(.*?)</template>', re.DOTALL)
_ASSETS = re.compile(r'(?<==")[^"]*/assets/')


def write_pages(arguments: argparse.Namespace) -> int:
    """Writes one .html for each page, and the stylesheet."""
    return write_files(arguments.to, "pages", _files())


def _files() -> Iterator[tuple[str, bytes]]:
    for language in settings().locales:
        for name, page in _pages(language):
            yield f"{language}/{name}.html", page.encode()
    yield f"assets/{STYLES}", stylesheet().encode()


def _pages(language: str) -> Iterator[tuple[str, str]]:
    """Each page with its name; `todo` also as its script changes it when Stripe's modal ends without success."""
    for sample in page_samples():
        page = _ASSETS.sub("../assets/", write_page(sample.page, language, sample.shown))
        yield sample.name, page
        if sample.name == "todo":
            for code, problem in _PROBLEM.findall(page):
                yield f"todo-modal-{code or 'unknown'}", page.replace("<main>", f"<main>{problem}")
