"""HTTP requests: well-framed ones, which can share a connection, and others, which cannot."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import bodies
from tests.support import shapes

SECRET = "whsec_fuzz_fuzz_fuzz_fuzz"
PATH = b"/webhooks/stripe"


@dataclass(frozen=True, slots=True)
class Request:
    """Bytes for a socket, and whether Stripe might have signed them: only these may be answered with 200."""

    raw: bytes
    signed: bool


def well_framed(dice: random.Random, event_id: str) -> Request:
    """A request of the right length, so that others may follow it on its connection."""
    body = bodies.mutated(dice, bodies.event_json(dice, event_id))
    signature, signed = _signature(dice, body)
    method, path = b"POST", PATH
    if dice.random() < 0.05:
        method = dice.choice((b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"POST"))
        path = dice.choice((PATH, b"/", b"/webhooks/stripe/", b"//webhooks//stripe", b"/webhooks/%73tripe", b"/%00"))
    headers = [b"Host: 127.0.0.1", *signature, *_odd_headers(dice)]
    dice.shuffle(headers)
    if dice.random() < 0.15:
        return Request(_head(method, path, [*headers, b"Transfer-Encoding: chunked"]) + _chunked(dice, body), signed)
    headers.append(b"Content-Length: %d" % len(body))
    return Request(_head(method, path, headers) + body, signed)


def of_a_page(dice: random.Random) -> Request:
    """A request to the pages, of a browser or a scanner, by a link that is none of ours."""
    token = dice.choice(TOKENS)(dice)
    method = dice.choice((b"GET", b"GET", b"POST", b"PUT", b"OPTIONS"))
    headers = [b"Host: 127.0.0.1", dice.choice(_OF_BROWSERS), *_odd_headers(dice)]
    body = dice.randbytes(dice.choice((0, 10, 1000, 5000))) if method == b"POST" else b""
    headers.append(b"Content-Length: %d" % len(body))
    return Request(_head(method, dice.choice(PAGES) % token, headers) + body, signed=False)


def ill_framed(dice: random.Random, event_id: str) -> Request:
    """A request after which nobody knows where the next one begins."""
    body = shapes.as_body(bodies.event_json(dice, event_id))
    signature = b"Stripe-Signature: " + shapes.signature(body, SECRET).encode()
    return Request(dice.choice(FRAMES)(body, signature), signed=True)


def faultless(dice: random.Random, event_id: str) -> Request:
    """A request as Stripe sends it."""
    body = shapes.as_body(bodies.event_json(dice, event_id))
    signature = b"Stripe-Signature: " + shapes.signature(body, SECRET).encode()
    return Request(_head(b"POST", PATH, [b"Host: x", signature, b"Content-Length: %d" % len(body)]) + body, signed=True)


PAGES: tuple[bytes, ...] = (
    b"/verify/%s",
    b"/verify/%s?lang=de&after=1.2.3",
    b"/verify/%s/status",
    b"/verify/%s/link",
    b"/return/%s",
)
PAGES += (b"/verify/%s/x/y", b"/assets/%s", b"/verify/%s?lang=%%00&times=999")
TOKENS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda dice: b"idv_%032x.aSbsDw.%027x" % (dice.getrandbits(128), dice.getrandbits(108)),
    lambda dice: b"vs_1." + b"A" * dice.randrange(3000),
    lambda dice: b"%%%02x" % dice.randrange(256) * dice.randrange(1, 30),
    lambda _: b"..%2f..%2fetc%2fpasswd",
    lambda _: b"%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    lambda _: b"\xc3\xa9\xff",
    lambda _: b"pages.css",
    lambda _: b"",
)
_OF_BROWSERS = (
    b"Accept: application/json",
    b"Accept-Language: " + b"de-AT;q=0.9," * 300,
    b"Accept-Language: \xff;q=x",
    b"Origin: https://evil.example",
    b"Sec-Fetch-Site: cross-site",
    b'If-None-Match: "x", *',
    b"X-Forwarded-Proto: javascript",
)


def _signature(dice: random.Random, body: bytes) -> tuple[list[bytes], bool]:
    """The signature's headers, and whether they are right."""
    now = int(time.time())
    right = shapes.signature(body, SECRET, now)
    stamp, digest = right[2:].split(",v1=")
    if dice.random() < 0.5:
        return [b"Stripe-Signature: " + right.encode()], True
    odd: list[tuple[str | bytes, bool]] = [
        (f"t={stamp},v1={'0' * 64},v1={digest}", True),
        (f"t={stamp},v0=1,v1={digest}", True),
        (f"v1={digest},t={stamp}", True),
        (f"t={stamp},v1={digest.upper()}", False),
        (shapes.signature(body, "whsec_somebody_else", now), False),
        (shapes.signature(body, SECRET, now - 10**4), False),
        (shapes.signature(body, SECRET, now + 10**4), False),
        (f"t={stamp}", False),
        (f"t={stamp},v1=", False),
        (f"t=,v1={digest}", False),
        (f"t=x,v1={digest}", False),
        (f"t=-{stamp},v1={digest}", False),
        (f"t={'9' * 400},v1={digest}", False),
        (f"t=1e400,v1={digest}", False),
        (f"t={stamp}.5,v1={digest}", False),
        (f"t={stamp}", False),
        ("t=NaN,v1=NaN", False),
        ("=,=,=", False),
        (",,,,", False),
        ("t", False),
        ("", False),
        (f"t={stamp}," + ",".join(["v1=" + "0" * 64] * 200), False),
        ("v1=" * 4000, False),
        (f"t={stamp},v1=".encode() + b"\xe9" * 64, False),
        (b"\xff\xfe\x80", False),
        (f"t={stamp},v1=\u00e9\u4e2d".encode(), False),
        (f"t=\u0661\u0662\u0663,v1={digest}".encode(), False),
    ]
    header, signed = dice.choice(odd)
    value = header.encode() if isinstance(header, str) else header
    # With several signatures, a right one among them may count.
    twice = [b"stripe-signature: " + right.encode()] if dice.random() < 0.05 else []
    return [b"Stripe-Signature: " + value, *twice], signed or bool(twice)


def _odd_headers(dice: random.Random) -> list[bytes]:
    if dice.random() < 0.7:
        return []
    return [
        dice.choice(
            (
                b"Content-Encoding: gzip",
                b"Content-Encoding: br, deflate, gzip",
                b"Content-Type: multipart/form-data; boundary=x",
                b"Content-Type: application/json; charset=utf-7",
                b"Content-Type: \xff",
                b"X-Forwarded-For: " + b"127.0.0.1, " * 200,
                b"Cookie: " + b"a=b; " * 800,
                b"X-Empty:",
                b"X-Latin: \xe9\xe8",
                b"Accept-Encoding: \t ,;q=",
                b"Range: bytes=0-,-1",
                b"Host: other.example.com",
                b"X-Http-Method-Override: DELETE",
                b"If-None-Match: *",
                b"Authorization: Basic ////",
                b"X-" + b"a" * 3000 + b": 1",
            )
        )
        for _ in range(dice.randint(1, 4))
    ]


def _chunked(dice: random.Random, body: bytes) -> bytes:
    pieces = []
    while body:
        size = dice.choice((1, 2, 100, 5000, 100_000)) if len(body) < 10_000 else 100_000
        piece, body = body[:size], body[size:]
        extension = dice.choice((b"", b"", b";a=b", b';name="value"'))
        pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece))
        if len(pieces) > 50:
            pieces.append(b"%X\r\n%s\r\n" % (len(body), body) if body else b"")
            break
    return b"".join(pieces) + b"0\r\n\r\n"


def _head(method: bytes, path: bytes, headers: list[bytes], version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([method + b" " + path + b" " + version, *headers]) + b"\r\n\r\n"


def _post(*headers: bytes) -> bytes:
    return _head(b"POST", PATH, [b"Host: x", *headers])


Frame = Callable[[bytes, bytes], bytes]
FRAMES: tuple[Frame, ...] = (
    lambda body, sign: _post(sign, b"Content-Length: %d" % (len(body) + 1000)) + body,
    lambda body, sign: _post(sign, b"Content-Length: %d" % (len(body) // 2)) + body,
    lambda body, sign: _post(sign, b"Content-Length: 0") + body,
    lambda body, sign: _post(sign) + body,
    lambda body, sign: _post(sign, b"Content-Length: -1") + body,
    lambda body, sign: _post(sign, b"Content-Length: +%d" % len(body)) + body,
    lambda body, sign: _post(sign, b"Content-Length: 0x%x" % len(body)) + body,
    lambda body, sign: _post(sign, b"Content-Length: 99999999999999999999999") + body,
    lambda body, sign: _post(sign, b"Content-Length: 9999999999") + body,
    lambda body, sign: _post(sign, b"Content-Length: %d" % len(body), b"Content-Length: 1") + body,
    lambda body, sign: _post(sign, b"Content-Length: %d, %d" % (len(body), len(body))) + body,
    lambda body, sign: _post(sign, b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked") + body,
    lambda body, sign: _post(sign, b"Transfer-Encoding: gzip, chunked") + body,
    lambda body, sign: _post(sign, b"Transfer-Encoding: chunked, identity") + body,
    lambda body, sign: (
        _post(sign, b"Transfer-Encoding: chunked") + b"%x\r\n" % (len(body) + 50) + body + b"\r\n0\r\n\r\n"
    ),
    lambda body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"zz\r\n" + body + b"\r\n0\r\n\r\n",
    lambda body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"-1\r\n" + body,
    lambda body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"f" * 40 + b"\r\n" + body,
    lambda body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"1;" + b"x" * 70_000 + b"\r\n" + body,
    lambda body, sign: (
        _post(sign, b"Transfer-Encoding: chunked")
        + b"%x\r\n" % len(body)
        + body
        + b"\r\n0\r\nX-Trailer: 1\r\nStripe-Signature: t=1\r\n\r\n"
    ),
    lambda body, sign: _post(sign, b"Expect: 100-continue", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: (
        _post(sign, b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: %d" % len(body)) + body
    ),
    lambda body, sign: (
        _post(sign, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"Content-Length: %d" % len(body)) + body
    ),
    lambda body, sign: _post(sign, b"Upgrade: h2c", b"Connection: Upgrade", b"Transfer-Encoding: chunked") + body,
    lambda body, sign: _post(sign, b"Upgrade: a, b", b"Upgrade: c", b"Connection: Upgrade") * 40 + body,
    lambda _body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"0\r\n" + b"a:\r\n" * 50_000 + b"\r\n",
    lambda _body, sign: _post(sign, b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 200_000,
    lambda _body, _sign: _head(b"GET", b"/metrics", [b"Host: x"]) * 3000,
    lambda body, sign: _post(sign, *[b"X-%d: y" % n for n in range(3000)], b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"X: " + b"y" * 200_000, b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"X\0Y: 1", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"X: a\0b", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"X : 1", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"X: 1\r\n folded", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"no colon here", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"\xc3\xa9: 1", b"Content-Length: %d" % len(body)) + body,
    lambda body, sign: _post(sign, b"Content-Length: %d" % len(body)).replace(b"\r\n", b"\n") + body,
    lambda body, sign: _head(b"POST", PATH, [sign, b"Content-Length: %d" % len(body)], b"HTTP/1.0") + body,
    lambda body, sign: _head(b"POST", PATH, [sign, b"Content-Length: %d" % len(body)], b"HTTP/9.9") + body,
    lambda body, sign: _head(b"POST", PATH, [sign, b"Content-Length: %d" % len(body)], b"HTTP/1.1 x") + body,
    lambda body, sign: _head(b"post", PATH, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"HEAD", PATH, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"CONNECT", b"x:1", [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"TRACE", PATH, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"\xff\xff", PATH, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", b"http://x" + PATH, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", PATH + b"?" + b"q" * 100_000, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", b"/\xff\xfe", [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", b"/" + b"../" * 2000, [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", b"*", [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda body, sign: _head(b"POST", b"", [sign, b"Content-Length: %d" % len(body)]) + body,
    lambda _body, sign: _post(sign, b"Content-Length: 100")[:-10],
    lambda _body, _sign: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    lambda _body, _sign: bytes.fromhex("1603010200010001fc0303") + b"\x11" * 400,
    lambda body, _sign: body,
    lambda _body, _sign: b"\r\n" * 5000,
    lambda _body, _sign: b"\0" * 5000,
    lambda _body, _sign: b"G" * 100_000,
)
