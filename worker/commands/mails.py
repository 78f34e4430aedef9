"""Writes every mail there is, in every language of LOCALES, so that somebody may look at them."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from config.settings import Address, settings
from handlers.catalogue.check import check
from handlers.catalogue.samples import Sample, mail_samples
from handlers.outbox.mails import Mail, render, retry_url_for, to_the_reviewer
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS
from handlers.tables.models import VerificationRecord


def options(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("--to", metavar="DIR", required=True, type=Path, help="a folder, made where there is none")


def write_samples(arguments: argparse.Namespace) -> int:
    """One .eml and one .html for each; nothing is sent, and no database is asked."""
    check()
    written = 0
    try:
        for language in settings().locales:
            folder = arguments.to / language
            folder.mkdir(parents=True, exist_ok=True)
            for sample in mail_samples():
                _write(folder, language, sample)
                written += 1
    except OSError as error:
        print(f"Nothing more was written: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    print(f"{written} mails are in {arguments.to}")
    return 0


def _write(folder: Path, language: str, sample: Sample) -> None:
    to_the_person, about = REGISTRY[sample.template] is not to_the_reviewer, sample.about
    if about.link_url and settings().retry_url and KINDS[sample.template].link == "retry":
        about = replace(about, link_url=retry_url_for(VerificationRecord(session_id=about.session_id, livemode=False)))
    message = render(
        Mail(
            template=sample.template,
            recipient=Address("", "person@example.com") if to_the_person else Address("", "review@example.com"),
            key=(about.session_id, sample.template, sample.name),
            language=language,
            reply_to=settings().support_email if to_the_person else None,
            about=about,
            last_look=bool,
        )
    )
    (folder / f"{sample.name}.eml").write_bytes(bytes(message))
    html = message.get_body(("html",))
    assert html is not None  # noqa: S101  # `render` makes one
    (folder / f"{sample.name}.html").write_text(html.get_content())
