"""Changes at Stripe: sessions are made, updated, found again, redacted and entered; an Answer is a whole session.

An Answer holds the secrets that a person enters by: it is handed on, and never stored, logged or printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from config.database import steady
from handlers.queue.failures import NotNowError
from handlers.record.events import MalformedEventError, SessionState, parse_id, parse_session
from handlers.stripe_api.client import Found, MissingError, ask, ask_for_page, unreadable
from handlers.stripe_api.sessions import MOST_LISTED, SESSION, SESSIONS, fetch, part, unless_another

_SEARCH_SECONDS = 10.0  # for all pages of a search; one that is cut off is an error, and no "not there"


@dataclass(frozen=True, slots=True)
class Answer:
    """A session as Stripe has just answered it, and a moment of Stripe's clock not later than that."""

    id: str
    state: SessionState
    content: Mapping[str, Any] = field(repr=False)
    asked_at: datetime
    is_replayed: bool  # an answer that Stripe has saved: its secrets may be used up


def create(params: Mapping[str, Any], account: str | None, idempotency_key: str) -> Answer:
    """A new session. Raises SpentKeyError if the key stands for another request or a saved error; else as ask."""
    made = ask("post", SESSIONS, SESSION, account, idempotency_key=idempotency_key, **params)
    return _answer(unless_another(made))


def retrieve(session_id: str, account: str | None) -> Answer | None:
    """The session with fresh secrets and with provided_details; None where Stripe knows none."""
    try:
        return _answer(fetch(session_id, account, ["provided_details"]))
    except MissingError:
        return None


def update(session_id: str, account: str | None, params: Mapping[str, Any]) -> None:
    """Changes an open session; raises as ask."""
    unless_another(ask("post", f"{SESSIONS}/{session_id}", SESSION, account, **params), session_id)


def search(reference: str, account: str | None, since: datetime, metadata: Mapping[str, str]) -> str | None:
    """The id of the session with this reference, created since then, that has all of this metadata: anybody may type a
    reference, but no metadata. Raises NotNowError if not all pages came in time.
    """
    ends, after = steady() + _SEARCH_SECONDS, dict[str, str]()
    wanted = {"client_reference_id": reference, "created": {"gte": int(since.timestamp())}, "limit": MOST_LISTED}
    while True:
        page = ask_for_page(SESSIONS, account, **wanted, **after).content
        # An item that cannot be read is no session of this service's; only the id before the next page must be known.
        sessions = [one for one in page["data"] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        for one in sessions:
            theirs = one.get("metadata")
            if isinstance(theirs, dict) and metadata.items() <= theirs.items():
                return str(one["id"])
        if not page["has_more"]:
            return None
        if steady() > ends or not sessions or after == {"starting_after": sessions[-1]["id"]}:
            raise NotNowError("not all of this person's sessions could be listed")
        after = {"starting_after": sessions[-1]["id"]}


def redact_at_stripe(session_id: str, account: str | None) -> bool:
    """Begins the redaction at Stripe, which takes up to four days; a second call changes nothing. False if there is no
    such session.

    Raises as ask, NotAcceptedError while the session is processing.
    """
    try:
        answer = unless_another(ask("post", f"{SESSIONS}/{session_id}/redact", SESSION, account), session_id)
    except MissingError:
        return False
    # rule: a redaction has begun only if the answer shows it
    if not part(answer.content, "redaction"):
        raise unreadable("it is not being redacted")
    return True


def ephemeral_key(session_id: str, account: str | None, stripe_version: str) -> str:
    """The secret by which a native app's SDK of this API version enters the session, once and for an hour."""
    found = ask(
        "post",
        "/v1/ephemeral_keys",
        "ephemeral_key",
        account,
        verification_session=session_id,
        stripe_version=stripe_version,
    )
    if not isinstance(found.content.get("secret"), str):
        raise unreadable("it is no key")
    return str(found.content["secret"])


def _answer(found: Found) -> Answer:
    for content, name in ((found.content, "provided_details"), (part(found.content, "options"), "document")):
        part(content, name)
    try:
        state, id_ = parse_session(found.content), parse_id(found.content)
    except MalformedEventError:
        raise unreadable("it is no session") from None
    return Answer(id_, state, found.content, found.asked_at, found.is_replayed)
