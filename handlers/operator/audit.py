"""Audit: who changed what, by which way and why, written down in the transaction that changes it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import literal, select
from sqlmodel import Session, col

from config.database import now, transaction
from config.inserts import NOW, insert_new
from handlers.tables.models import Audited

REASON = re.compile(r"[\w .,:'-]{1,80}")  # a few words that are kept, without anything personal


class Way(StrEnum):
    """The way by which somebody changes something."""

    COMMAND = "command"
    CONSOLE = "console"
    API = "api"


@dataclass(frozen=True, kw_only=True, slots=True)
class By:
    """The author of a change, and the reason: nothing personal of the person whom it is about."""

    who: str
    way: Way
    reason: str | None = None


def note(session: Session, by: By, what: str, about: Iterable[object]) -> None:
    """Writes down a change of this transaction, about these ids: of sessions, verifications, events or actions."""
    words = " ".join(dict.fromkeys(map(str, about)))
    row = {"at": NOW, "who": by.who, "way": by.way, "what": what, "about": words, "reason": by.reason}
    insert_new(session.connection(), Audited, [row])


def note_beforehand(by: By, what: str, about: Iterable[object] = ()) -> None:
    """Writes down a change that takes many transactions, or happens at Stripe: before the first of them."""
    with transaction() as session:
        note(session, by, what, about)


def audited(
    about: str | None = None,
    what: str | None = None,
    since: datetime | timedelta | None = None,
    limit: int = 50,
    among: int | None = None,
) -> Sequence[Audited]:
    """The changes, the latest first: about one id, by one command or button, since a moment or for so long; with
    `among`, only of so many of the latest.
    """
    wanted = select(Audited).order_by(col(Audited.id).desc()).limit(limit)
    if about:
        words = literal(" ") + col(Audited.about) + " "
        wanted = wanted.where(words.contains(f" {about} ", autoescape=True))
    if what:
        wanted = wanted.where(col(Audited.what) == what)
    if since:
        wanted = wanted.where(col(Audited.at) >= (now(-since) if isinstance(since, timedelta) else since))
    if among:
        latest = select(col(Audited.id)).order_by(col(Audited.id).desc()).limit(1).scalar_subquery()
        wanted = wanted.where(col(Audited.id) > latest - among)
    with transaction() as session:
        return session.scalars(wanted).all()
