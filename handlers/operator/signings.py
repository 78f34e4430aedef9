"""Fingerprints of the keys that signed links, and of PUBLIC_URL: a change that links in mails do not survive shows."""

from datetime import datetime, timedelta
from hashlib import sha256
from threading import Event

from sqlalchemy import ColumnElement, Connection, delete, select
from sqlmodel import col

from config.database import now, reading, transaction
from config.defaults import link_keys
from config.inserts import NOW, insert_or
from config.settings import settings
from handlers.operator.audit import By, note
from handlers.tables.models import Bookmark

_SIGNED = "link key "
_LATER = "(name) DO UPDATE SET reached = excluded.reached"
signed = Event()  # by this process, since it was written down last
_LETTERS = 8  # too few to guess a weak key from, and enough to tell a handful of keys apart


def note_signing(connection: Connection) -> None:
    """Writes down that the newest key has signed links, if this process has since the last time."""
    if signed.is_set():
        insert_or(connection, Bookmark, [{"name": _names()[0], "reached": NOW}], on_conflict=_LATER, returning="name")
        signed.clear()


def signed_in_vain() -> datetime | None:
    """The last time at which a removed key signed links that may still be open by their age; None if there is none."""
    still = col(Bookmark.reached) > now(-timedelta(days=settings().link_days))
    with reading() as session:
        return session.scalars(
            select(col(Bookmark.reached)).where(*_gone(), still).order_by(col(Bookmark.reached).desc()).limit(1)
        ).first()


def give_up_gone(by: By) -> int:
    """Forgets the removed keys, so that nobody is warned of their ended links any more; returns how many keys."""
    with transaction() as session:
        count = session.connection().execute(delete(Bookmark).where(*_gone())).rowcount
        if count:
            note(session, by, "end-links", ["LINK_KEYS"])
    return count


def _gone() -> list[ColumnElement[bool]]:
    return [col(Bookmark.name).startswith(_SIGNED), col(Bookmark.name).not_in(_names())]


def _names() -> list[str]:
    """The bookmarks' names of all keys that open links here, newest first; empty if there are no pages."""
    keys = () if settings().why_no_links else link_keys(settings())
    return [f"{_SIGNED}{_fingerprint(key)} {_fingerprint(settings().base_url.rstrip('/'))}" for key in keys]


def _fingerprint(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_LETTERS]
