"""The command that writes every mail to files, in every language of LOCALES, to be looked at."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from config.settings import Address, settings
from handlers.catalogue.samples import Sample, mail_samples
from handlers.outbox.mails import Mail, render, retry_url_for, to_the_reviewer
from handlers.outbox.registry import REGISTRY
from handlers.owed.kinds import KINDS
from handlers.tables.models import VerificationRecord
from worker.commands.samples import write_files


def write_mails(arguments: argparse.Namespace) -> int:
    """Writes one .eml and one .html for each mail, and sends none."""
    return write_files(arguments.to, "mails", _files())


def _files() -> Iterator[tuple[str, bytes]]:
    for language in settings().locales:
        for sample in mail_samples():
            raw = _written(language, sample)
            html = message_from_bytes(raw, EmailMessage, policy=default).get_body(("html",))
            assert html is not None  # noqa: S101  # `render` makes this part
            yield f"{language}/{sample.name}.eml", raw
            yield f"{language}/{sample.name}.html", html.get_content().encode()


def _written(language: str, sample: Sample) -> bytes:
    to_the_person, about = REGISTRY[sample.template] is not to_the_reviewer, sample.about
    if about.link_url and settings().retry_url and KINDS[sample.template].link == "retry":
        about = replace(about, link_url=retry_url_for(VerificationRecord(session_id=about.session_id, livemode=False)))
    return render(
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
