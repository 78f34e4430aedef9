"""Verification sessions and their events, as Stripe has them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import stripe
from pydantic import SecretStr

from config.settings import settings
from handlers.queue.failures import PermanentError
from handlers.record.events import EVENT_TYPES, MalformedEventError, SessionState, parse_session
from handlers.stripe_api.client import client, date_of, options, translated, v1

_MOST_LISTED = 100  # Stripe's own bound for a page
# Each needs its own expand (docs.stripe.com/identity/access-verification-results; changelog of 2025-05-28.basil).
_SENSITIVE = ("dob", "id_number", "sex", "unparsed_sex", "unparsed_place_of_birth")


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A session as Stripe has it, and a moment of Stripe's clock not later than when it was read."""

    state: SessionState
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list, newest first, and a moment of Stripe's clock not later than when it was read."""

    items: list[dict[str, Any]]
    has_more: bool
    asked_at: datetime


def retrieve_state(session_id: str, account: str | None) -> Retrieved | None:
    """The session's present state; None where Stripe refuses (403) or does not know it (404).

    Raises NotNowError while Stripe cannot answer.
    """
    started = time.monotonic()
    answer = _retrieve(session_id, account, expand=[])
    if answer is None:
        return None
    session, answered_at = answer
    try:
        state = parse_session(session)
    except MalformedEventError as error:
        raise PermanentError(f"Stripe's session cannot be read: {error}") from None
    # rule: an answer's stamp allows for the call's duration
    asked_at = answered_at - timedelta(seconds=time.monotonic() - started)
    return Retrieved(state, asked_at)


def retrieve_email(session_id: str, account: str | None) -> str | None:
    """The address the person was asked for or gave: provided_details.email, which no event carries."""
    answer = _retrieve(session_id, account, expand=["provided_details"])
    if answer is None:
        return None
    details = answer[0].get("provided_details") or {}
    address = details.get("email")
    # Stripe redacts before its event arrives here, and puts this in the place of every string.
    return address if isinstance(address, str) and address not in ("", "[redacted]") else None


def retrieve_outputs(session_id: str, account: str | None, names: Sequence[str]) -> dict[str, Any] | None:
    """The named verified outputs, by the restricted key, which sees the sensitive ones; None where Stripe refuses."""
    expand = ["verified_outputs", *(f"verified_outputs.{name}" for name in names if name in _SENSITIVE)]
    answer = _retrieve(session_id, account, expand, settings().stripe_restricted_key)
    if answer is None:
        return None
    outputs = answer[0].get("verified_outputs") or {}
    return {name: outputs[name] for name in names if outputs.get(name) is not None}


def cancel(session_id: str, account: str | None, idempotency_key: str) -> bool:
    """Cancels a session that waits for input; False where Stripe does not let it be canceled (any more)."""
    # rule: a cancellation carries an idempotency key
    with_key: stripe.RequestOptions = {**options(account), "idempotency_key": idempotency_key}
    try:
        v1().identity.verification_sessions.cancel(session_id, options=with_key)
    except stripe.StripeError as error:
        if error.http_status in (400, 404):
            return False
        raise translated(error) from None
    return True


def list_events(
    since: datetime, until: datetime, account: str | None, *, after: str | None = None, undelivered: bool = False
) -> Listed:
    """A page of our six types' events created in [since, until); Stripe keeps them for 30 days.

    `undelivered`: only those that some endpoint has not answered 2xx yet. `after` is the last id of the page before.
    """
    params: dict[str, Any] = {"types": list(EVENT_TYPES), **_window(since, until, after)}
    if undelivered:
        params["delivery_success"] = False
    return _list(v1().events.list, params, account)


def list_sessions(since: datetime, until: datetime, account: str | None, *, after: str | None = None) -> Listed:
    """A page of the sessions created in [since, until), each as it is now."""
    return _list(v1().identity.verification_sessions.list, _window(since, until, after), account)


def _window(since: datetime, until: datetime, after: str | None) -> dict[str, Any]:
    window = {"created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())}, "limit": _MOST_LISTED}
    return {**window, "starting_after": after} if after else window


def _list(call: Callable[..., Any], params: dict[str, Any], account: str | None) -> Listed:
    started = time.monotonic()
    try:
        response: Any = call(params=params, options=options(account)).last_response
    except stripe.StripeError as error:
        raise translated(error) from None
    body = orjson.loads(response.body)
    asked_at = date_of(response.headers) - timedelta(seconds=time.monotonic() - started)
    return Listed(body["data"], bool(body["has_more"]), asked_at)


def _retrieve(
    session_id: str, account: str | None, expand: Sequence[str], key: SecretStr | None = None
) -> tuple[dict[str, Any], datetime] | None:
    try:
        session = client(key or settings().stripe_api_key).v1.identity.verification_sessions.retrieve(
            session_id, params={"expand": list(expand)} if expand else {}, options=options(account)
        )
    except stripe.StripeError as error:
        if error.http_status in (403, 404):
            return None
        raise translated(error) from None
    response: Any = session.last_response
    return orjson.loads(response.body), date_of(response.headers)
