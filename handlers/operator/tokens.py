"""Fingerprints of the API tokens that were accepted: one that is gone from API_TOKENS, and is still used, shows.

Nobody can send one but who has it: a stranger's token has none of these fingerprints. A request writes nothing.
"""

from hashlib import sha256

from sqlalchemy import Connection, select
from sqlmodel import col

from config.inserts import NOW, insert_or
from handlers.metrics import outside
from handlers.tables.models import Bookmark

_KNOWN = "API token "
_LATER = "(name) DO UPDATE SET reached = excluded.reached"
_MOST_REFUSED = 20  # between two beats: so many are looked up
_LETTERS = 16  # nobody meets one of them by chance, or finds the token by it


class Tokens:
    """The tokens that this process was sent, by their fingerprints."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of those that were written down
        self.accepted: dict[str, str] = {}  # and of those that are still to be
        self.refused: set[str] = set()


_tokens = Tokens()


def accepted(name: str, digest: bytes) -> None:
    """Notes a request whose token is one of API_TOKENS, by the token's digest."""
    fingerprint = _fingerprint(digest)
    if _tokens.names.get(fingerprint) != name:
        _tokens.accepted[fingerprint] = name


def note_unknown_token(digest: bytes) -> None:
    """Notes a request whose token is none of API_TOKENS."""
    fingerprint = _fingerprint(digest)
    if name := _tokens.names.get(fingerprint):
        outside.note_refusal(outside.STILL_USED, f"of {name}", doing=name)
    elif len(_tokens.refused) < _MOST_REFUSED:
        _tokens.refused.add(fingerprint)


def note_tokens(connection: Connection) -> None:
    """Writes down the tokens that were accepted for the first time by this process; looks the refused ones up."""
    new, looked_up = dict(_tokens.accepted), set(_tokens.refused)
    if new:
        rows = [{"name": f"{_KNOWN}{name} {letters}", "reached": NOW} for letters, name in sorted(new.items())]
        insert_or(connection, Bookmark, rows, on_conflict=_LATER, returning="name")
        _tokens.names |= new
    if looked_up:
        names = connection.scalars(select(col(Bookmark.name)).where(col(Bookmark.name).startswith(_KNOWN)))
        for name, _, letters in (known.removeprefix(_KNOWN).partition(" ") for known in names):
            _tokens.names[letters] = name
            if letters in looked_up:
                outside.note_refusal(outside.STILL_USED, f"of {name}", doing=name)
    for letters in new:
        _tokens.accepted.pop(letters, None)
    _tokens.refused -= looked_up


def _fingerprint(digest: bytes) -> str:
    return sha256(_KNOWN.encode() + digest).hexdigest()[:_LETTERS]
