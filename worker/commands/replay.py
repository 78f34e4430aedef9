"""Replay: events as the Stripe CLI prints them, signed again and posted to the receiver."""

import http.client
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

from rich.console import Console
from rich.progress import track
from stripe import WebhookSignature

from config.database import true_now

# `stripe listen` mixes such lines in: "2026-11-20 10:00:00  <-- [200] POST http://… [evt_…]"; those with an arrow also
# come into a file.
_CLI_LINE = re.compile(
    r"^[^{}\"\n]*(<--|-->|> Warning|Ready! You are|Getting ready|Checking for new versions|A newer version of).*$",
    re.MULTILINE,
)
_ANSWERS_WITHIN = 30.0  # seconds; the receiver gives up after ten
_MOST_UNANSWERED = 3  # in a row: then no event is the cause
_LONGEST_ANSWER = 64 * 1024  # bytes; the receiver's answers have a hundred


class UnreadableInputError(Exception):
    """The input holds a value that is no event; the message says where."""


def read(text: str) -> list[dict[str, Any]]:
    """The events in `stripe listen --format JSON` or `stripe events list` output, JSON lines, or an array.

    Raises UnreadableError.
    """
    events = [event for value in _values(_CLI_LINE.sub("", text)) for event in _flatten(value)]
    for number, event in enumerate(events, start=1):
        if not isinstance(event, dict) or not all(isinstance(event.get(name), str) for name in ("id", "type")):
            raise UnreadableInputError(f"value {number} is not an event: it has no id and type")
    return events


def replay(events: list[dict[str, Any]], url: str, secret: str) -> Counter[str]:
    """Posts each event, in order. Returns the number of events for each outcome: the receiver's words,
    `refused (STATUS)`, or `unanswered`.

    Raises OSError or HTTPException when several events in a row get no answer that can be understood.
    """
    target = urlsplit(url)
    connection = _connect(target)
    outcomes: Counter[str] = Counter()
    terminal, unanswered = Console(stderr=True), 0
    try:
        for event in track(events, "Replaying", console=terminal, disable=not terminal.is_terminal):
            try:
                outcomes[_post(connection, target.path, event, secret)] += 1
                unanswered = 0
            except (OSError, http.client.HTTPException):
                outcomes["unanswered"] += 1
                unanswered += 1
                connection.close()  # the next event opens it again
                if unanswered == _MOST_UNANSWERED:
                    raise
    finally:
        connection.close()
    return outcomes


def _values(text: str) -> Iterator[Any]:
    decoder, position = json.JSONDecoder(), 0
    while match := re.compile(r"\s*,?\s*").match(text, position):
        position = match.end()
        if position == len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            line = text.count("\n", 0, position) + 1
            raise UnreadableInputError(f"line {line} does not begin an event") from None
        yield value


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, dict) and value.get("object") == "list":
        value = value.get("data")
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _connect(target: SplitResult) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    return kind(target.hostname or "127.0.0.1", target.port, timeout=_ANSWERS_WITHIN)


def _post(connection: http.client.HTTPConnection, path: str, event: dict[str, Any], secret: str) -> str:
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    signature = WebhookSignature.generate_signature_header(body, secret, int(true_now().timestamp()))
    headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
    connection.request("POST", path, body.encode("utf-8", "surrogatepass"), headers)
    answer = connection.getresponse()
    content = answer.read(_LONGEST_ANSWER + 1)
    if len(content) > _LONGEST_ANSWER:
        raise http.client.HTTPException("the answer is too long")
    if answer.status != 200:
        return f"refused ({answer.status})"
    try:
        return str(json.loads(content)["outcome"])
    except (ValueError, TypeError, KeyError):
        raise http.client.HTTPException("the answer is not the receiver's") from None
