"""Writes every page there is, in every language of LOCALES, so that somebody may look at them."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from config.settings import settings
from handlers.catalogue.check import check
from handlers.catalogue.pages import STYLES, stylesheet, write_page
from handlers.catalogue.samples import page_samples

_PROBLEM = re.compile(r'<template data-problem="(\w*)">(.*?)</template>', re.DOTALL)
_ASSETS = re.compile(r'(?<==")[^"]*/assets/')


def options(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("--to", metavar="DIR", required=True, type=Path, help="a folder, made where there is none")


def write_samples(arguments: argparse.Namespace) -> int:
    """One .html for each, and the stylesheet; no database is asked."""
    check()
    written = 0
    try:
        for language in settings().locales:
            folder = arguments.to / language
            folder.mkdir(parents=True, exist_ok=True)
            for name, page in _pages(language):
                (folder / f"{name}.html").write_text(page)
                written += 1
        (arguments.to / "assets").mkdir(exist_ok=True)
        (arguments.to / "assets" / STYLES).write_text(stylesheet())
    except OSError as error:
        print(f"Nothing more was written: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    print(f"{written} pages are in {arguments.to}")
    return 0


def _pages(language: str) -> Iterator[tuple[str, str]]:
    """Each by its name; and the first, as its script changes it where Stripe's modal ends without success."""
    for sample in page_samples():
        page = _ASSETS.sub("../assets/", write_page(sample.page, language, sample.shown))
        yield sample.name, page
        if sample.name == "todo":
            for code, problem in _PROBLEM.findall(page):
                yield f"todo-modal-{code or 'unknown'}", page.replace("<main>", f"<main>{problem}")
