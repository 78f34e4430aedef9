"""Verification sessions and their events, as Stripe has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from config.settings import settings
from handlers.record.events import EVENT_TYPES, MalformedEventError, SessionState, Status, parse_session
from handlers.stripe_api.client import Found, MissingError, NotAcceptedError, ask, ask_for_page, unreadable

SESSIONS, SESSION = "/v1/identity/verification_sessions", "identity.verification_session"
MOST_LISTED = 100  # Stripe's own bound for a page
# Each needs its own expand (docs.stripe.com/identity/access-verification-results; changelog of 2025-05-28.basil).
_SENSITIVE = ("dob", "id_number", "sex", "unparsed_sex", "unparsed_place_of_birth")


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A session as Stripe has it, and a moment of Stripe's clock not later than when it was read."""

    state: SessionState
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list, newest first, and a moment of Stripe's clock not later than when it was read."""

    items: list[Any]  # a dict each, unless it cannot be read
    has_more: bool
    asked_at: datetime


# Each of these raises as handlers.stripe_api.client.ask does, except where its docstring says otherwise.


def retrieve_state(session_id: str, account: str | None) -> Retrieved | None:
    """The session's present state; None if Stripe says that there is no such session."""
    try:
        found = fetch(session_id, account)
        return Retrieved(parse_session(found.content, settings().our_sessions), found.asked_at)
    except MissingError:
        return None
    except MalformedEventError as error:
        raise unreadable(str(error)) from None


def retrieve_email(session_id: str, account: str | None) -> str | None:
    """The address the person was asked for or gave: provided_details.email, which no event carries."""
    address = part(fetch(session_id, account, ["provided_details"]).content, "provided_details").get("email")
    # Stripe redacts before its event arrives here, and puts this in the place of every string.
    if address in (None, "", "[redacted]"):
        return None
    if not isinstance(address, str):
        raise unreadable("its address is no text")
    return address


def retrieve_outputs(session_id: str, account: str | None, names: Sequence[str]) -> dict[str, Any]:
    """The named verified outputs, as far as there are any, by the restricted key, which sees the sensitive ones."""
    expand = _to_expand(names)
    outputs = part(fetch(session_id, account, expand, settings().stripe_restricted_key).content, "verified_outputs")
    return {name: outputs[name] for name in names if outputs.get(name) is not None}


def shows_outputs(names: Sequence[str]) -> bool:
    """Tries whether the restricted key may read the named outputs; False if no session is verified yet to try it on."""
    expand = [f"data.{path}" for path in _to_expand(names)]
    key = settings().stripe_restricted_key
    return bool(ask_for_page(SESSIONS, key=key, limit=1, status=str(Status.VERIFIED), expand=expand).content["data"])


def cancel_at_stripe(session_id: str, account: str | None) -> bool:
    """Cancels a session that waits for input; False if it cannot be canceled (any more). One that is gone is over.

    It uses no idempotency key of ours: the SDK's is new each time, else Stripe would repeat a saved refusal for a day.
    """
    try:
        answer = unless_another(ask("post", f"{SESSIONS}/{session_id}/cancel", SESSION, account), session_id)
    except MissingError:  # Stripe's final word: it is asked no more
        return True
    except NotAcceptedError:  # Stripe has no code for this: the session's status says why
        status = fetch(session_id, account).content.get("status")
        # rule: a session that Stripe will not cancel is retrieved
        if status not in (Status.CANCELED, Status.PROCESSING, Status.VERIFIED):
            raise
        return bool(status == Status.CANCELED)  # by a try whose answer was lost, or by somebody else
    # rule: a cancellation is done only if the answer shows it
    if answer.content.get("status") != Status.CANCELED:
        raise unreadable("it is not canceled")
    return True


def list_events(
    since: datetime, until: datetime, account: str | None, *, after: str | None = None, undelivered: bool = False
) -> ListPage:
    """A page of our six types' events created in [since, until); Stripe keeps them for 30 days.

    `undelivered`: only those that some endpoint has not answered 2xx yet. `after` is the last id of the page before.
    """
    params: dict[str, Any] = {"types": list(EVENT_TYPES), **_window(since, until, after)}
    if undelivered:
        params["delivery_success"] = False
    return _listed(ask_for_page("/v1/events", account, **params))


def list_sessions(since: datetime, until: datetime, account: str | None, *, after: str | None = None) -> ListPage:
    """A page of the sessions created in [since, until), each as it is now."""
    return _listed(ask_for_page(SESSIONS, account, **_window(since, until, after)))


def _to_expand(names: Sequence[str]) -> list[str]:
    return ["verified_outputs", *(f"verified_outputs.{name}" for name in names if name in _SENSITIVE)]


def _window(since: datetime, until: datetime, after: str | None) -> dict[str, Any]:
    window = {"created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())}, "limit": MOST_LISTED}
    return {**window, "starting_after": after} if after else window


def _listed(page: Found) -> ListPage:
    return ListPage(page.content["data"], page.content["has_more"], page.asked_at)


def fetch(session_id: str, account: str | None, expand: Sequence[str] = (), key: SecretStr | None = None) -> Found:
    """The whole session of this id, with the expanded fields."""
    params = {"expand": list(expand)} if expand else {}
    return unless_another(ask("get", f"{SESSIONS}/{session_id}", SESSION, account, key=key, **params), session_id)


def unless_another(found: Found, session_id: str | None = None) -> Found:
    """The answer, if it is about this session, or about a new one, of the key's mode; raises as unreadable."""
    # rule: an answer about another session, or of the other mode, is none
    if session_id not in (None, found.content.get("id")) or found.content.get("livemode") is not settings().livemode:
        raise unreadable("it is another session")
    return found


def part(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of Stripe's answer; empty if there is none. Raises as unreadable if it is no object."""
    found = content.get(name)
    # rule: only a whole answer shows that there is no address
    if found is not None and not isinstance(found, dict):
        raise unreadable(f"{name} is not an object")
    return found or {}
