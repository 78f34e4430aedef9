"""Answers from elsewhere: a proxy, an edge or a Stripe in trouble sends them in the place of the true one."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

PAGE = b"<!doctype html><html><title>Sign in</title><body>Please sign in to the network.</body></html>"
_JSON, _HTML = "application/json", "text/html; charset=utf-8"


class Nonsense(Exception):  # noqa: N818  # it is an answer
    """An answer that goes out in the place of the true one."""

    def __init__(self, kind: str, true_body: bytes) -> None:
        super().__init__(kind)
        self.instead = (KINDS | PARTLY)[kind](true_body)


@dataclass(frozen=True, slots=True)
class Instead:
    """A status, headers and a body to send; `dated` says whether with a Date."""

    status: int = 200
    body: bytes = PAGE
    content_type: str = _HTML
    headers: dict[str, str] = field(default_factory=dict)
    dated: bool = True


def _changed(body: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(body) | changes).encode()


def _with_element(body: bytes, element: object) -> Instead:
    """A list with something else before its true elements; a body that is no list stays as it is."""
    page = json.loads(body)
    if "data" in page:
        page["data"].insert(0, element)
    return Instead(body=json.dumps(page).encode(), content_type=_JSON)


def _with_another(body: bytes, **changes: object) -> Instead:
    """A list whose first element is there once more, changed."""
    elements = json.loads(body).get("data") or [None]
    return (
        _with_element(body, {**elements[0], **changes})
        if isinstance(elements[0], dict)
        else Instead(body=body, content_type=_JSON)
    )


@cache
def _bomb() -> bytes:
    return gzip.compress(b'{"object": "' + bytes(100_000_000) + b'"}', 9)


# Each takes the true answer's body.
KINDS: dict[str, Callable[[bytes], Instead]] = {
    "a page": lambda _: Instead(),
    "a page that says it is JSON": lambda _: Instead(content_type=_JSON),
    "a redirect": lambda _: Instead(302, headers={"Location": "/login"}),
    "a permanent redirect": lambda _: Instead(308, headers={"Location": "/v1/elsewhere"}),
    "a page with 400": lambda _: Instead(400),
    "a page with 401": lambda _: Instead(401),
    "a page with 403": lambda _: Instead(403),
    "a page with 404": lambda _: Instead(404),
    "a page with 407": lambda _: Instead(407, headers={"Proxy-Authenticate": "Basic"}),
    "a page with 410": lambda _: Instead(410),
    "a page with 451": lambda _: Instead(451),
    "a page with 502": lambda _: Instead(502),
    "JSON of another's with 404": lambda _: Instead(404, b'{"message": "no route matched"}', _JSON),
    "a lock": lambda _: Instead(429, b'{"error": {"code": "lock_timeout"}}', _JSON, headers={"Retry-After": "60"}),
    "a limit of the object's": lambda _: Instead(
        429, b'{"error": {}}', _JSON, headers={"Stripe-Rate-Limited-Reason": "resource-specific"}
    ),
    "no such URL": lambda _: Instead(404, b'{"error": {"type": "invalid_request_error"}}', _JSON),
    "nothing": lambda _: Instead(body=b"", content_type=_JSON),
    "nothing with 204": lambda _: Instead(204, b"", _JSON),
    "half": lambda true: Instead(body=true[: len(true) // 2], content_type=_JSON),
    "a part": lambda true: Instead(206, true, _JSON),
    "a text": lambda true: Instead(body=true, content_type="text/plain"),
    "null": lambda _: Instead(body=b"null", content_type=_JSON),
    "a list": lambda true: Instead(body=b"[" + true + b"]", content_type=_JSON),
    "a word": lambda _: Instead(body=b'"ok"', content_type=_JSON),
    "an error with 200": lambda _: Instead(body=b'{"error": {"code": "resource_missing"}}', content_type=_JSON),
    "another id": lambda true: Instead(body=_changed(true, id="vs_somebody_elses", metadata={}), content_type=_JSON),
    "another object": lambda true: Instead(body=_changed(true, object="customer"), content_type=_JSON),
    "no object": lambda true: Instead(body=_changed(true, object=None), content_type=_JSON),
    "no gzip": lambda true: Instead(body=true, content_type=_JSON, headers={"Content-Encoding": "gzip"}),
    "a bomb": lambda _: Instead(body=_bomb(), content_type=_JSON, headers={"Content-Encoding": "gzip"}),
}
# True answers but for one part, which not every caller uses.
PARTLY: dict[str, Callable[[bytes], Instead]] = {
    "no date": lambda true: Instead(body=true, content_type=_JSON, dated=False),
    "an element that is null": lambda true: _with_element(true, None),
    "an element without an id": lambda true: _with_element(true, {"object": "event", "livemode": False}),
    "an element of another kind": lambda true: _with_element(true, {"type": 5, "status": ["verified"]}),
    "an element of the other mode": lambda true: _with_another(true, id="vs_elsewhere", livemode=True),
    "an element of a time that never comes": lambda true: _with_another(true, id="vs_elsewhere", created=10**12),
    "an element with no id of Stripe's": lambda true: _with_another(true, id="vs_1\0/../../balance"),
    "an element that is another object": lambda true: _with_another(true, id="vr_1", object="identity.report"),
    "no id": lambda true: Instead(body=_changed(true, id=None), content_type=_JSON),
    "another mode": lambda true: Instead(body=_changed(true, livemode=True), content_type=_JSON),
    "a list without an end": lambda true: Instead(body=_changed(true, has_more=True), content_type=_JSON),
    # As of a replica that lags behind.
    "as it was created": lambda true: Instead(
        body=_changed(true, status="requires_input", last_error=None, last_verification_report=None, redaction=None),
        content_type=_JSON,
    ),
    "as it was verified": lambda true: Instead(
        body=_changed(true, status="verified", last_error=None, redaction=None), content_type=_JSON
    ),
    "a status of the future": lambda true: Instead(body=_changed(true, status="on_hold"), content_type=_JSON),
    "as it was before": lambda true: Instead(
        body=_changed(true, status="processing", last_verification_report=None), content_type=_JSON
    ),
    "an address that is no text": lambda true: Instead(
        body=_changed(true, provided_details={"email": ["jenny@example.com"]}), content_type=_JSON
    ),
    "a session whose parts are none": lambda true: Instead(
        body=_changed(true, options="o_1", metadata={"idv_id": 1}), content_type=_JSON
    ),
    "options whose parts are none": lambda true: Instead(
        body=_changed(true, options={"document": ["d_1"]}), content_type=_JSON
    ),
    "no way in": lambda true: Instead(body=_changed(true, client_secret=None, url=5, secret=None), content_type=_JSON),
    "parts that are none": lambda true: Instead(
        body=_changed(true, provided_details="pd_1", verified_outputs="vo_1", status={}), content_type=_JSON
    ),
}
