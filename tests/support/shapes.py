"""Stripe's JSON as the simulator renders it, for tests that need one body and no Stripe around it.

`client_secret` and `url` are filled as if Stripe sent them: nothing of ours may keep them.
"""

import json
import time
from collections.abc import Collection
from typing import Any

from handlers.record.events import VerificationEvent, parse
from tests.simulator import rendering, signing
from tests.simulator.reasons import reason
from tests.simulator.store import Scope, Session

SECRET = "whsec_made_up_for_tests"


def session(session_id: str, status: str, **fields: Any) -> dict[str, Any]:
    """A verification session; `code` sets last_error, `report` the last report, `user` some of the metadata."""
    code, user, waits = fields.get("code"), fields.get("user"), status == "requires_input"
    metadata = {**fields.get("metadata", {}), **({"user_id": user} if user else {})}
    return rendering.snapshot(
        Session(
            id=session_id,
            scope=Scope(livemode=fields.get("livemode", False)),
            created=1763600000,
            type="document",
            status=status,
            metadata=metadata,
            options={"document": {"require_matching_selfie": True}},
            client_reference_id=fields.get("reference"),
            last_error={"code": code, "reason": reason(code)} if code else None,
            report_id=fields.get("report"),
            redaction=fields.get("redaction"),
        ),
        client_secret=f"{session_id}_secret_c4nary" if waits else None,
        url=f"https://verify.stripe.com/start/{session_id}_c4nary" if waits else None,
    )


def event(event_id: str, kind: str, created: int, about: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A snapshot event about a session."""
    return rendering.snapshot_event(event_id, kind, created, Scope(livemode=about["livemode"]), about) | fields


def thin(event_id: str, kind: str, created: str, session_id: str, **fields: Any) -> dict[str, Any]:
    """A thin notification: it names the session and says nothing of it."""
    return rendering.thin_event(event_id, kind, created, Scope(), session_id) | fields


def parsed(payload: object, marks: Collection[str] = ()) -> VerificationEvent:
    """The event in the JSON of one that is about a session."""
    event = parse(payload, marks)
    assert isinstance(event, VerificationEvent)
    return event


def as_body(payload: Any) -> bytes:
    """A request body as Stripe sends it: indented, UTF-8."""
    return json.dumps(payload, indent=2, ensure_ascii=False).encode()


def signature(body: bytes, secret: str = SECRET, at: float | None = None) -> str:
    """The Stripe-Signature header of a body, made from Stripe's documentation and not by the SDK that verifies it."""
    return signing.header(body, [secret], int(time.time() if at is None else at), livemode=True)


def digest(body: bytes, secret: str, stamp: int) -> str:
    """The v1 part of a signature."""
    return signing.header(body, [secret], stamp, livemode=True).rpartition("v1=")[2]
