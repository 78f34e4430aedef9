"""Messages that no process of ours wrote, by their fault; each holds a canary that nothing may show."""

import base64
import json
from typing import Any

CANARY = "c4nary"


def envelope(task: Any = "process_events", arguments: Any = (["evt_1"],), **changed: Any) -> dict[str, Any]:
    """A message as Celery writes it, with a part or two of it changed."""
    body = base64.b64encode(json.dumps([arguments, {}, {"callbacks": None, "chain": None}]).encode()).decode()
    headers = {"lang": "py", "task": task, "id": "1", "root_id": "1", "retries": 0, "timelimit": [None, None]}
    properties = {
        "correlation_id": "1",
        "delivery_tag": "1",
        "body_encoding": "base64",
        "priority": 0,
        "delivery_info": {"exchange": "", "routing_key": "events"},
    }
    whole = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers | changed.pop("headers", {}),
        "properties": properties | changed.pop("properties", {}),
    }
    return whole | changed


def _lacking(*path: str, task: str = "process_events", arguments: Any = (["evt_1"],)) -> bytes:
    message = envelope(task, arguments)
    place = message
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return json.dumps(message).encode()


def _said(task: Any, arguments: Any = (), **changed: Any) -> bytes:
    return json.dumps(envelope(task, arguments, **changed)).encode()


UNREADABLE = {
    "nothing": b"",
    "no JSON": CANARY.encode(),
    "no text": b"\xff\xfe" + CANARY.encode(),
    "cut short": _said("process_events", ([CANARY],))[:-40],
    "null": b"null",
    "a list": b"[null]",
    "a number": b"1e400",
    "an empty object": b"{}",
    "absurd depth": b"[" * 100_000,
    "a pickle": base64.b64decode("gASVFAAAAAAAAACMBm9zLnN5c5SMBmM0bmFyeZSTlC4="),
    "a type of kombu's own": b'{"__type__": "datetime", "__value__": "c4nary"}',
    "without a body": _lacking("body"),
    "without headers": _lacking("headers"),
    "without a task": _lacking("headers", "task"),
    "headers that are a list": json.dumps({**envelope(), "headers": [CANARY]}).encode(),
    "a body that is no base64": json.dumps({**envelope(), "body": f"{CANARY}!"}).encode(),
    "a body that is no JSON": json.dumps({**envelope(), "body": base64.b64encode(CANARY.encode()).decode()}).encode(),
    "a body that is a number": json.dumps({**envelope(), "body": 7}).encode(),
    "a body without arguments": json.dumps({**envelope(), "body": base64.b64encode(b"[]").decode()}).encode(),
    "a task that is a list": _said([CANARY]),
    "a task that nobody knows": _said(CANARY, ([CANARY],)),
    "a task of Celery's": _said("celery.chord_unlock", (CANARY, None)),
    "no arguments": _said("process_events"),
    "too many arguments": _said("process_events", (["evt_1"], CANARY)),
    "arguments for one that takes none": _said("sweep", (CANARY,)),
    "arguments by name": json.dumps({**envelope(), "body": base64.b64encode(b'{"c4nary": 1}').decode()}).encode(),
    "an id alone": _said("process_events", (CANARY,)),
    "ids of another kind": _said("process_events", ([1, None, {"id": CANARY}],)),
    "an id with a NUL": _said("process_events", ([f"{CANARY}\0"],)),
    "an id beyond a column": _said("process_events", (["a" * 256],)),
    "a number beyond a column": _said("perform_actions", ([2**63],)),
    "a number as text": _said("perform_actions", (["1"],)),
    "a truth for a number": _said("perform_actions", ([True],)),
    "huge": _said("process_events", ([CANARY * 1_000_000],)),
}
READABLE = {  # ours by task and arguments; all other parts are ignored
    "an hour ahead": _said("sweep", headers={"eta": "2099-01-01T00:00:00+00:00"}),
    "a time that is none": _said("sweep", headers={"eta": CANARY}),
    "expired": _said("sweep", headers={"expires": "2000-01-01T00:00:00+00:00"}),
    "a limit that is a text": _said("sweep", headers={"timelimit": CANARY}),
    "compressed, it says": _said("sweep", headers={"compression": "bzip2"}),
    "another serializer": _said("sweep", **{"content-type": "application/x-python-serialize"}),
    "no content type": _said("sweep", **{"content-type": None}),
    "an id that is an object": _said("sweep", headers={"id": {"a": CANARY}}),
    "without an id": _lacking("headers", "id", task="sweep", arguments=()),
    "an answer to somebody": _said("sweep", properties={"reply_to": CANARY}),
    "for a queue of its own": _said("sweep", properties={"delivery_info": {"exchange": CANARY, "routing_key": CANARY}}),
    "a priority that is a text": _said("sweep", properties={"priority": CANARY}),
    "without a tag": json.dumps({**envelope("sweep", ()), "properties": {}}).encode(),
}
