"""Every form in which the Stripe CLI prints events is read; anything else is refused with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import shapes
from worker.commands.replay import UnreadableInputError, read

EVENTS = [
    shapes.event(f"evt_{n}", kind, 1_794_830_400 + n, shapes.session("vs_1", status, user='Zoë ☂ {x} "q" <-- [1]'))
    for n, (kind, status) in enumerate(
        [("created", "requires_input"), ("processing", "processing"), ("verified", "verified")]
    )
]
CLI_LINES = (
    "> Ready! You are using Stripe API Version [2026-10-28.endive]. Your signing secret is whsec_x (^C to quit)\n",
    "2026-11-16 09:00:00   --> identity.verification_session.created [evt_0]\n",
    "2026-11-16 09:00:00  <-- [200] POST http://127.0.0.1:8000/webhooks/stripe [evt_0]\n",
    "2026-11-16 09:00:00  <-- [400] POST http://127.0.0.1:8000/webhooks/stripe [evt_1]\n",
    "\n",
)

# The output of CLI 1.52.0 without a terminal, before the first event.
FIRST_LINES = (
    "Checking for new versions...\n\n"
    "A newer version of the Stripe CLI is available, please update to: v1.53.0\n"
    "Getting ready...\n"
    "Ready! You are using Stripe API Version [2026-10-28.endive]. Your webhook signing secret is whsec_x (^C to quit)\n"
)


def _listen(events: list[dict[str, Any]]) -> str:
    lines = [CLI_LINES[0]]
    for event in events:
        lines += [json.dumps(event, sort_keys=True, ensure_ascii=False), "\n", *CLI_LINES[1:]]
    return "".join(lines)


FORMS = {
    "one": json.dumps(EVENTS[0]),
    "lines": "\n".join(json.dumps(event) for event in EVENTS),
    "lines with blanks": "\n\n\n".join(json.dumps(event) for event in EVENTS) + "\n\n",
    "windows lines": "\r\n".join(json.dumps(event) for event in EVENTS),
    "one line": " ".join(json.dumps(event) for event in EVENTS),
    "array": json.dumps(EVENTS),
    "pretty array": json.dumps(EVENTS, indent=2),
    "list": json.dumps({"object": "list", "data": EVENTS, "has_more": False, "url": "/v1/events"}, indent=2),
    "two lists": "\n".join(json.dumps({"object": "list", "data": EVENTS[:1]}) for _ in range(2)),
    "pretty": "\n".join(json.dumps(event, indent=2, ensure_ascii=False) for event in EVENTS),
    "listen": _listen(EVENTS),
    "listen into a file": FIRST_LINES + "\n\n".join(json.dumps(event, sort_keys=True) for event in EVENTS),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_in_its_order(form: str) -> None:
    expected = {"one": EVENTS[:1], "two lists": [EVENTS[0], EVENTS[0]]}.get(form, EVENTS)
    assert read(FORMS[form]) == expected


@pytest.mark.parametrize("text", ["", "\n \n", "[]", '{"object": "list", "data": []}', "".join(CLI_LINES)])
def test_nothing_is_no_events(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("hello", "line 1"),
        (json.dumps(EVENTS[0]) + "\n{broken", "line 2"),
        ('{"id": "evt_1", "type": "x"', "line 1"),
        ("null", "value 1"),
        ("[1]", "value 1"),
        ('"x"', "value 1"),
        ("{}", "value 1"),
        (json.dumps([EVENTS[0], {"id": "evt_2"}]), "value 2"),
        ('{"object": "list"}', "value 1"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_what_is_no_event_is_refused_with_its_place(text: str, where: str) -> None:
    with pytest.raises(UnreadableInputError, match=where):
        read(text)


def test_the_bundled_capture_is_readable() -> None:
    capture = Path(__file__).parents[1] / "payloads" / "capture.txt"
    assert len(read(capture.read_text())) == 50
