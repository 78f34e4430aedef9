"""Links of ours, which may be mailed: signed over an id, so that each leads to the session that is current by then."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from itsdangerous import BadSignature, Signer, TimestampSigner

from config.database import true_now
from config.defaults import link_keys
from config.settings import settings
from handlers.operator.signings import signed
from handlers.sessions.refusals import OpeningError
from handlers.sessions.views import NotFoundError, made_elsewhere, verification

_SALT = "identity-events.link"  # another text signed with LINK_KEYS is no link of ours
_RETURN_SALT = "identity-events.return"
_AHEAD = timedelta(minutes=10)  # more than two measured clocks differ; a text from further ahead would last too long


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """An address that lets a person go on, until it expires."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A link's token, read. Its text has several spellings, so only the subject identifies it."""

    subject: str  # a verification's id, or that of a session that was made elsewhere
    is_expired: bool


def link_of(id_: str) -> Link:
    """A new link to a verification, by its id or a session's, or to a session that was made elsewhere.

    Raises NotFoundError, OpeningError for a forgotten person, and as link_to.
    """
    try:
        found = verification(id_)
        subject, redacted_at = found.id, found.redaction_asked_at
    except NotFoundError:
        record = made_elsewhere(id_)
        subject, redacted_at = record.session_id, record.redacted_at or record.redaction_asked_at
    if redacted_at:
        raise OpeningError("redacted")
    return link_to(subject)


def link_to(subject: str) -> Link:
    """A new link to the subject of this id, valid for LINK_DAYS. Raises OpeningError if the settings allow none."""
    if why := settings().why_no_links:
        raise OpeningError("no-links", why)
    signer = _signer()
    token = signer.sign(subject).decode()
    _, signed_at = signer.unsign(token, return_timestamp=True)
    url = f"{settings().base_url.rstrip('/')}/verify/{token}"
    signed.set()
    return Link(url=url, expires_at=signed_at + timedelta(days=settings().link_days))


def read_token(token: str) -> Token:
    """The token's subject and age. Raises NotFoundError for a text that none of our keys has signed."""
    try:
        if not re.fullmatch(r"[\w.-]{1,400}", token, re.ASCII):  # an id of Stripe's has 255 at most
            raise NotFoundError
        subject, is_valid = _signer().read(token, timedelta(days=settings().link_days))
    except BadSignature:
        raise NotFoundError from None
    return Token(subject=subject, is_expired=not is_valid)


def return_url_of(verification_id: str) -> str:
    """The address that Stripe sends the person back to: the same each time, since a repeated creation must be equal.

    It is signed though it is no link: ids are in logs and at Stripe, and a person who returns gets a link.
    """
    sealed = _returns().sign(verification_id).decode()
    return f"{settings().base_url.rstrip('/')}/return/{sealed}"


def read_return(sealed: str) -> str:
    """The verification's id. Raises NotFoundError for a text that none of our keys has signed."""
    try:
        return _returns().unsign(sealed).decode()
    except (BadSignature, UnicodeError):
        raise NotFoundError from None


class ClockSigner(TimestampSigner):
    """Signs a text together with the time."""

    def get_timestamp(self) -> int:
        """The seconds since 1970 by the clock that decides (config/database.py)."""
        return int(true_now().timestamp())

    def read(self, signed: str, lasts: timedelta) -> tuple[str, bool]:
        """The text, and whether it was signed within this time. Raises BadSignature."""
        text, signed_at = self.unsign(signed, return_timestamp=True)
        # rule: a text signed minutes ahead of our clock is valid
        is_valid = -_AHEAD <= true_now() - signed_at <= lasts
        return text.decode(), is_valid


def _signer() -> ClockSigner:
    return ClockSigner(_keys(), salt=_SALT, key_derivation="hmac", digest_method=sha256)


def _returns() -> Signer:
    return Signer(_keys(), salt=_RETURN_SALT, key_derivation="hmac", digest_method=sha256)


def _keys() -> list[str]:
    # The library signs with its last key, and the first of LINK_KEYS is the newest.
    keys = list(reversed(link_keys(settings())))
    if not keys:
        raise NotFoundError
    return keys
