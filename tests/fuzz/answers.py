"""Any answers in Stripe's place: each is Stripe's own verdict or none, and no other error ever rises."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handlers.queue.failures import AwayError, NotNowError
from handlers.stripe_api import sessions
from handlers.stripe_api.client import MissingError
from tests.support import databases, shapes
from tests.support.wire import saying

_EMAIL = "jenny@example.com"
_TRUE = shapes.session("vs_1", "verified", report="vr_1") | {"provided_details": {"email": _EMAIL}}
_MISSING = {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such session"}}
_WORDS: tuple[Any, ...] = (None, True, 0, -1, 1e300, "", "x" * 6000, "\0", "[redacted]", [], [[]], {}, {"object": []})
_STATUSES: tuple[int, ...] = (
    100,
    101,
    199,
    200,
    201,
    204,
    206,
    226,
    299,
    301,
    302,
    304,
    400,
    401,
    402,
    403,
    404,
    407,
    409,
    418,
    422,
)
_STATUSES += (424, 429, 451, 500, 502, 503, 504, 520, 599, 600, 999)
_TYPES = ("application/json", "application/json; charset=utf-8", "text/html", "application/problem+json", "")
_HEADERS = (
    b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\n",
    b"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
    b"Date: \xff\r\n",
    b"Retry-After: -1\r\n",
    b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
    b"Location: http://[\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: deflate, br, zstd\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 7\r\n",
    b"Content-Type: application/json\r\n",
    b"Set-Cookie: =;;=\r\n",
    b"no colon\r\n",
    b" folded\r\n",
)
_CALLS: tuple[Callable[[], object], ...] = (
    lambda: sessions.retrieve_state("vs_1", None),
    lambda: sessions.retrieve_email("vs_1", None),
    lambda: sessions.cancel_at_stripe("vs_1", None),
)


def fuzz_answers(number: int, seed: int) -> list[str]:
    """Tries so many answers. Returns the problems, in sentences."""
    dice, problems = random.Random(seed), []
    with saying() as wire, pytest.MonkeyPatch.context() as environment:
        environment.setenv("STRIPE_API_BASE", wire.url.rstrip("/"))
        environment.setenv("STRIPE_API_KEY", "sk_test_made_up_for_tests")
        environment.setattr("handlers.stripe_api.client._TOTAL_SECONDS", 0.5)
        databases.forget_process_state()
        for _ in range(number):
            said = _said(dice)
            wire.says = lambda _, said=said: _and_no_more(said)  # type: ignore[misc]
            call = dice.choice(_CALLS)
            try:
                found = call()
                if call is _CALLS[1] and found not in (_EMAIL, None):
                    problems.append(f"{found!r} was read in {said!r}")
            except AwayError:
                databases.forget_process_state()  # else Stripe would be left alone for a while
            except NotNowError:
                pass
            except MissingError:
                if b"resource_missing" not in said:
                    problems.append(f"a verdict was read in {said!r}")
            except Exception as error:
                problems.append(f"{type(error).__name__} rose for {said!r}")
    databases.forget_process_state()
    return problems


def _and_no_more(said: bytes) -> Iterator[bytes]:
    yield said
    raise ConnectionError


def _said(dice: random.Random) -> bytes:
    body = _body(dice)
    lines = b"HTTP/1.1 %d Said\r\n" % dice.choice((200, 200, 404, *_STATUSES))
    lines += b"Content-Type: %s\r\n" % dice.choice((_TYPES[0], _TYPES[0], *_TYPES)).encode()
    lines += b"".join(dice.sample(_HEADERS, dice.choice((0, 0, 1, 3))))
    lines += b"Content-Length: %d\r\n" % len(body) if dice.random() < 0.8 else b""
    said = lines + b"\r\n" + body
    if dice.random() < 0.1:
        said = said[: dice.randrange(len(said))]
    if dice.random() < 0.1:
        place = dice.randrange(len(said) or 1)
        said = said[:place] + dice.randbytes(dice.randrange(1, 9)) + said[place + 1 :]
    return said


def _body(dice: random.Random) -> bytes:
    content: Any = dict(dice.choice((_TRUE, _TRUE, _MISSING)))
    for _ in range(dice.choice((0, 1, 1, 5))):
        content[dice.choice([*content, "object", "id", "status", "error"])] = dice.choice(_WORDS)
    content = dice.choice((content, content, content, [content], {"error": content}, *_WORDS))
    text = json.dumps(content)
    return dice.choice((text, text, text, text + "x", "[" * 100_000, "NaN", '{"object": "\\ud800"}')).encode()
