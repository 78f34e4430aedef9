"""Picking a language: a person who presses a button in it gets their pages and mails in it from then on."""

from sqlalchemy import update
from sqlmodel import col

from config.database import statement
from handlers.sessions.views import is_of
from handlers.tables.models import Verification


def pick_language(subject: str, language: str) -> None:
    """Makes a language that of a verification, unless it is wiped. A session made elsewhere has none."""
    is_kept = col(Verification.client_reference_id).is_not(None)
    with statement() as connection:
        connection.execute(update(Verification).where(is_of(subject), is_kept).values(locale=language))
