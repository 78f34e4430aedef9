"""Request bodies: Stripe's events, and the same with nearly any fault."""

import gzip
import json
import random
import zlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.support import shapes

KINDS = ("created", "processing", "requires_input", "verified", "canceled", "redacted")


class Raw(str):
    """A text that goes into the JSON as it is."""

    __slots__ = ()


NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    0.5,
    2**31,
    2**63,
    2**64,
    253402300800,
    10**400,
    Raw("1e308"),
    Raw("-1e308"),
    Raw("1e400"),
    Raw("1e-400"),
    Raw("0e99999999"),
    Raw("NaN"),
    Raw("-Infinity"),
    Raw("1" * 5000),
    Raw("00"),
    Raw("1."),
    Raw("0x10"),
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\U0010ffff",
    "\u202e\u2066",
    "é" * 3000,
    "a" * 5001,
    "a" * 70000,
    "'; DROP TABLE inbox_event; --",
    "${jndi:ldap://127.0.0.1/a}",
    "../../etc/passwd",
    "%s%n%00",
    "9999-12-31T23:59:59+23:59",
    "0001-01-01T00:00:00-23:59",
    "2026-11-20T12:00:00.123456789Z",
    "1" * 20,
    "identity.verification_session.verified",
    "v1.identity.verification_session.verified",
    "event",
    "v2.core.event",
    [],
    {},
    [[]],
    {"id": {"id": {}}},
    {"": ""},
    {"__proto__": {"id": 1}},
    Raw("[" * 200 + "]" * 200),
    Raw("[" * 1200 + "]" * 1200),
    Raw("[" * 60000),
    Raw('{"a":' * 5000 + "1" + "}" * 5000),
    Raw('{"id":1,"id":2,"id":3}'),
    Raw("{,}"),
    Raw('"\\u0000"'),
    Raw('"\\ud800\\u0041"'),
    Raw('"\\x41"'),
    Raw('"\t"'),
    Raw("/* */ 1"),
)


def event_json(dice: random.Random, event_id: str) -> dict[str, Any]:
    """A faultless event."""
    kind = dice.choice(KINDS)
    session_id = f"vs_fuzz{dice.randrange(10**6)}"
    if dice.random() < 0.3:
        return shapes.thin(event_id, kind, "2026-11-20T12:00:00.000Z", session_id)
    status = {"created": "requires_input", "redacted": "canceled"}.get(kind, kind)
    about = shapes.session(session_id, status, code="abandoned" if kind == "requires_input" else None)
    return shapes.event(event_id, kind, 1_794_830_400 + dice.randrange(10**6), about)


def mutated(dice: random.Random, event: dict[str, Any]) -> bytes:
    """The event as bytes, with up to three faults in its values or in its text."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        _spoil_a_value(dice, event)
    text = as_text(event)
    body = text.encode("utf-8", "surrogatepass")
    return dice.choice(SPOILERS)(dice, body) if dice.random() < 0.4 else body


def as_text(value: Any) -> str:
    """The value as JSON, with raw texts as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{as_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    return json.dumps(value)


def _spoil_a_value(dice: random.Random, event: dict[str, Any]) -> None:
    parent: dict[str, Any] = event
    while True:
        name = dice.choice(list(parent)) if parent else "id"
        value = parent.get(name)
        if not isinstance(value, dict) or dice.random() < 0.3:
            break
        parent = value
    action = dice.random()
    if action < 0.1:
        parent.pop(name, None)
    elif action < 0.2:
        parent[dice.choice(("", "id", "\0", "\ud800", "x" * 1000))] = deepcopy(dice.choice(NASTY))
    else:
        parent[name] = deepcopy(dice.choice(NASTY))


def _flip(dice: random.Random, body: bytes) -> bytes:
    spoiled = bytearray(body)
    for _ in range(dice.randint(1, 5)):
        spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
    return bytes(spoiled)


def _repeat_keys(dice: random.Random, body: bytes) -> bytes:
    name = dice.choice((b"id", b"type", b"object", b"data", b"created", b"livemode"))
    return b'{"' + name + b'":' + dice.choice((b"1", b'"evt_other"', b"null", b"{}")) + b"," + body[1:]


Spoiler = Callable[[random.Random, bytes], bytes]
SPOILERS: tuple[Spoiler, ...] = (
    _flip,
    _repeat_keys,
    lambda dice, body: body[: dice.randrange(len(body))],
    lambda dice, body: body[:5] + dice.choice((b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")) + body[5:],
    lambda _, body: b"\xef\xbb\xbf" + body,
    lambda _, body: body.decode("utf-8", "replace").encode("utf-16"),
    lambda _, body: gzip.compress(body, 1),
    lambda _, body: zlib.compress(body, 1),
    lambda _, body: body + body,
    lambda _, body: body + b"\0",
    lambda _, body: b" \r\n\t" * 500 + body,
    lambda _, body: b"[" + body + b"]",
    lambda dice, _: dice.choice((b"", b"null", b"[1]", b'"x"', b"0", b"{}", b"true", b"{", b"\0", b"-", b"payload=1")),
    lambda dice, _: dice.randbytes(dice.randrange(2000)),
    lambda dice, body: b'{"pad":"' + b"x" * (1_100_000 if dice.random() < 0.1 else 90_000) + b'",' + body[1:],
)
