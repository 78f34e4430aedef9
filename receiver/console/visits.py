"""The console's cookies: a signed one for a visit of eight hours, one for its forms, and one for a known browser."""

import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256

from itsdangerous import BadSignature, Signer
from starlette.requests import Request
from starlette.responses import Response

from config.settings import settings
from handlers.operator.console_users import User, user_named
from handlers.sessions.links import ClockSigner

_LASTS, _KNOWN_LASTS = timedelta(hours=8), timedelta(days=90)
_SALT, _FORM_SALT = "identity-events.console", "identity-events.console.form"
_KEY = re.compile(r"[\w-]{22}", re.ASCII)  # as secrets.token_urlsafe(16) makes it
_VISIT, _FORM, _KNOWN = "console", "console-form", "console-known"
_KNOWN_SALT = "identity-events.console.known"


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """A user who has signed in, in one browser."""

    user: User
    key: str = field(repr=False)  # random; makes the tokens of its forms


def visit_of(request: Request) -> Visit | None:
    """The visit of this browser, within eight hours; None if the user's name, role or password is another by now."""
    try:
        words, is_recent = _signer().read(_cookie(request, _VISIT), _LASTS)
        key, proof, name = words.split(".", 2)
    except (BadSignature, ValueError):
        return None
    user = user_named(name) if is_recent else None
    # rule: a user who was removed, or has another role or password, is signed out
    return Visit(user=user, key=key) if user and secrets.compare_digest(user.proof, proof) else None


def sign_in(request: Request, response: Response, user: User) -> None:
    """Signs a user in, by a new key that nobody can have known before."""
    words = f"{secrets.token_urlsafe(16)}.{user.proof}.{user.name}"
    _set(request, response, _VISIT, _signer().sign(words).decode())
    _set(request, response, _KNOWN, _known().sign(f"{user.name}.{secrets.token_urlsafe(16)}").decode(), _KNOWN_LASTS)


def known_as(request: Request, name: str) -> str | None:
    """A word for this browser, if this name has signed in there within ninety days: its tries are counted by it."""
    try:
        words, is_recent = _known().read(_cookie(request, _KNOWN), _KNOWN_LASTS)
    except (BadSignature, ValueError):
        return None
    return words if is_recent and words.rpartition(".")[0] == name else None


def sign_out(request: Request, response: Response) -> None:
    """Signs the user out."""
    response.delete_cookie(_name(request, _VISIT), secure=_is_https(request), httponly=True, samesite="strict")


def form_key(request: Request) -> str:
    """The key for the tokens of forms: the visit's, or that of a browser in which nobody has signed in."""
    visit: Visit | None = request.state.visit
    if visit:
        return visit.key
    kept = _cookie(request, _FORM)
    return kept if _KEY.fullmatch(kept) else ""


def keep_form_key(request: Request, response: Response, key: str) -> None:
    """Keeps the key of the sign-in form, in a cookie of its own: a browser that comes from another site does not send
    the cookie of the visit, and must not lose it by that.
    """
    _set(request, response, _FORM, key)


def token_of(key: str) -> str:
    """The token that a form sends, made by this key."""
    return _forms().get_signature(key).decode()


def is_token(key: str, token: str) -> bool:
    """Whether this is the token of a form of ours in this browser."""
    return bool(key) and token.isascii() and _forms().verify_signature(key.encode(), token)


def _cookie(request: Request, name: str) -> str:
    return request.cookies.get(_name(request, name), "")


def _set(request: Request, response: Response, name: str, value: str, lasts: timedelta = _LASTS) -> None:
    name, is_https = _name(request, name), _is_https(request)
    seconds = int(lasts.total_seconds())
    response.set_cookie(name, value, max_age=seconds, secure=is_https, httponly=True, samesite="strict")


def _name(request: Request, name: str) -> str:
    # A browser takes a cookie with this prefix from this host alone, over https.
    return f"__Host-{name}" if _is_https(request) else name


def _is_https(request: Request) -> bool:
    return bool(request.scope["scheme"] == "https")


def _signer() -> ClockSigner:
    return ClockSigner(_keys(), salt=_SALT, key_derivation="hmac", digest_method=sha256)


def _known() -> ClockSigner:
    return ClockSigner(_keys(), salt=_KNOWN_SALT, key_derivation="hmac", digest_method=sha256)


def _forms() -> Signer:
    return Signer(_keys(), salt=_FORM_SALT, key_derivation="hmac", digest_method=sha256)


def _keys() -> list[str]:
    # The last key signs, and the first of CONSOLE_KEYS is the newest.
    return [key.get_secret_value() for key in reversed(settings().console_keys)]
