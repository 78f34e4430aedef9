"""The few calls we make to Stripe, each with a timeout."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import orjson
import stripe

from config.settings import settings
from handlers.queue.failures import NotNowError, PermanentError
from handlers.record.events import EVENT_TYPES, MalformedEventError, SessionState, parse_session

# Together far below a lease. The SDK's own: 80 s, and two retries on top.
_TIMEOUT_SECONDS = (3.0, 8.0)
_QUIET_SECONDS = 5.0  # about as long as a try that nobody answers: half of the time is for what needs no answer
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


def has_key() -> bool:
    """Whether there is an API key, and so anybody to ask."""
    return bool(settings().stripe_api_key)


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
    return Retrieved(state, answered_at - timedelta(seconds=time.monotonic() - started))


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


def cancel_session(session_id: str, account: str | None, idempotency_key: str) -> bool:
    """Cancels a session that waits for input; False where Stripe does not let it be canceled (any more)."""
    options: stripe.RequestOptions = {**_options(account), "idempotency_key": idempotency_key}
    try:
        _client(settings().stripe_api_key).v1.identity.verification_sessions.cancel(session_id, options=options)
    except stripe.StripeError as error:
        if error.http_status in (400, 404):
            return False
        raise _translated(error) from None
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
    return _list(_v1().events.list, params, account)


def list_sessions(since: datetime, until: datetime, account: str | None, *, after: str | None = None) -> Listed:
    """A page of the sessions created in [since, until), each as it is now."""
    return _list(_v1().identity.verification_sessions.list, _window(since, until, after), account)


def list_endpoints() -> list[dict[str, Any]]:
    """The account's first hundred webhook endpoints, in the mode of the key."""
    return _list(_v1().webhook_endpoints.list, {"limit": _MOST_LISTED}, None).items


def create_endpoint(url: str, *, connect: bool) -> tuple[str, str]:
    """Registers a webhook endpoint for our six types by name; its id, and the signing secret nobody shows again."""
    try:
        endpoint = _v1().webhook_endpoints.create(
            params={
                "url": url,
                "enabled_events": list(EVENT_TYPES),
                "api_version": stripe.api_version,  # the SDK's own, as we read its events
                "connect": connect,
                "description": "Identity verification events",
            }
        )
    except stripe.StripeError as error:
        raise _translated(error) from None
    return endpoint.id, str(endpoint.secret)


def now() -> datetime:
    """Stripe's clock, in whole seconds."""
    try:
        response: Any = _v1().balance.retrieve().last_response
    except stripe.PermissionError as error:  # a restricted key that may not ask for this: the answer has a date too
        return _date(error.headers)
    except stripe.StripeError as error:
        raise _translated(error) from None
    return _date(response.headers)


def _window(since: datetime, until: datetime, after: str | None) -> dict[str, Any]:
    window = {"created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())}, "limit": _MOST_LISTED}
    return {**window, "starting_after": after} if after else window


def _list(call: Callable[..., Any], params: dict[str, Any], account: str | None) -> Listed:
    started = time.monotonic()
    try:
        response: Any = call(params=params, options=_options(account)).last_response
    except stripe.StripeError as error:
        raise _translated(error) from None
    body = orjson.loads(response.body)
    asked_at = _date(response.headers) - timedelta(seconds=time.monotonic() - started)
    return Listed(body["data"], bool(body["has_more"]), asked_at)


def _v1() -> Any:
    return _client(settings().stripe_api_key).v1


def _retrieve(
    session_id: str, account: str | None, expand: Sequence[str], key: str = ""
) -> tuple[dict[str, Any], datetime] | None:
    try:
        session = _client(key or settings().stripe_api_key).v1.identity.verification_sessions.retrieve(
            session_id, params={"expand": list(expand)} if expand else {}, options=_options(account)
        )
    except stripe.StripeError as error:
        if error.http_status in (403, 404):
            return None
        raise _translated(error) from None
    response: Any = session.last_response
    return orjson.loads(response.body), _date(response.headers)


@cache
def _client(key: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": settings().stripe_api_base},
        max_network_retries=0,  # a wait is written down and taken up again; nobody blocks for it
        http_client=_Wary(timeout=_TIMEOUT_SECONDS),
    )


class _Wary(stripe.RequestsClient):
    """Asks nothing for some seconds after nobody answered: what waits for Stripe must not hold every thread."""

    _quiet_until = 0.0

    def request(self, *arguments: Any, **options: Any) -> Any:
        if time.monotonic() < self._quiet_until:
            raise stripe.APIConnectionError("nobody answered a moment ago")  # type: ignore[no-untyped-call]
        try:
            return super().request(*arguments, **options)
        except stripe.APIConnectionError:
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
            raise


def _options(account: str | None) -> stripe.RequestOptions:
    if account is None:
        return {}
    return {"stripe_account": account} if account.startswith("acct_") else {"stripe_context": account}


def _translated(error: stripe.StripeError) -> Exception:
    # Never Stripe's own message: it quotes parameters.
    sentence = f"Stripe answered {error.http_status}" if error.http_status else "Stripe was not reached"
    waits = error.http_status is None or error.http_status in (401, 409, 429) or error.http_status >= 500
    return NotNowError(sentence) if waits else PermanentError(sentence)


def _date(headers: Any) -> datetime:
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        raise NotNowError("Stripe's answer has no date") from None
