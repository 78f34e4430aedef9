"""PUBLIC_URL, looked at from inside: a definite answer alone says that it does not lead here.

A platform may let none of its processes reach their own public address, and a firewall may stand before it: silence,
a refused connection and a refusal say nothing.
"""

import socket
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from config.names import look_up
from config.settings import LOOPBACK, settings
from handlers.metrics import outside
from handlers.queue.calls import WholeAnswer, looked_at, proxy_for

_SECONDS = 4.0
_SOON = 1.0  # seconds
# Judged only of a certificate that somebody we know has signed: no router of one's own has one.
_WRONG_CERTIFICATES = ("has expired", "is not valid yet", "is of another host")
# A wall's answers, or those of a router that knows a POST alone.
_UNCERTAIN = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_UNKNOWN = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))  # the second is no POSIX name
_SEVERAL = 2  # looks: what stands before web answers by itself for a moment, too, while web starts

_failed = 0  # answers of 500 and more, one after the other


def look_twice(webhook: str) -> None:
    """Looks at the webhook's URL, and where web seems to be away, once more."""
    look_once(webhook)
    if _failed == 1:
        time.sleep(_SOON)
        look_once(webhook)


def look_once(webhook: str) -> None:
    """Asks for the webhook's URL, which wants a POST, for the findings; notes only what is certain."""
    parts = urlsplit(webhook)
    is_behind_proxy = bool(proxy_for(parts))
    if not settings().public_url or parts.hostname in LOOPBACK or (is_behind_proxy and parts.scheme == "http"):
        return  # such a proxy answers in another's place
    word = ("" if is_behind_proxy else _name(str(parts.hostname))) or _answer(webhook)
    if word:
        outside.note_refusal(outside.PUBLIC_URL, word)
    elif word is not None:
        outside.note_answer(outside.PUBLIC_URL)


def _name(host: str) -> str:
    unknown = "has a name that no name server knows"
    try:
        look_up(host, None)
    except UnicodeError:  # a part of it is too long for a name
        return unknown
    except OSError as error:
        return unknown if error.errno in _UNKNOWN else ""
    return ""


def _answer(webhook: str) -> str | None:
    """A fault, "" for our own answer, or None for nothing certain."""
    global _failed
    answer = looked_at(webhook, _SECONDS)
    if not isinstance(answer, WholeAnswer):
        wrong = [word for word in _WRONG_CERTIFICATES if answer.endswith(f"certificate {word}")]
        return f"has a certificate that {wrong[0]}" if wrong else None
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _failed += 1
        return f"answers {answer.status}, and web lets none of it through" if _failed >= _SEVERAL else None
    _failed = 0
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED and answer.headers.get("Allow") == "POST":
        return ""
    if answer.status in _UNCERTAIN:
        return None
    return f"leads to another service, which answered {answer.status} at {urlsplit(webhook).path}"
