"""How Stripe is asked: the client, its bounds, its clock, and what its refusals mean."""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import stripe
from pydantic import SecretStr

from config.settings import settings
from handlers.queue.failures import NotNowError, PermanentError

# Together far below a lease. The SDK's own: 80 s, and two retries on top.
_TIMEOUT_SECONDS = (3.0, 8.0)
_SILENT_SECONDS = 5.0  # about as long as a try that nobody answers: half of the time is for what needs no answer


@cache
def client(key: SecretStr) -> stripe.StripeClient:
    """This process's client for a key."""
    return stripe.StripeClient(
        key.get_secret_value(),
        base_addresses={"api": settings().stripe_api_base.get_secret_value()},
        max_network_retries=0,  # a wait is written down and taken up again; nobody blocks for it
        http_client=_Wary(timeout=_TIMEOUT_SECONDS),
    )


def v1() -> Any:
    """The services of Stripe's v1 API, by STRIPE_API_KEY."""
    return client(settings().stripe_api_key).v1


def options(account: str | None) -> stripe.RequestOptions:
    """The options that ask on behalf of another account; none for our own."""
    if account is None:
        return {}
    # rule: Stripe is asked in the account's name
    return {"stripe_account": account} if account.startswith("acct_") else {"stripe_context": account}


def translated(error: stripe.StripeError) -> Exception:
    """NotNowError where Stripe may answer otherwise later, else PermanentError; never with Stripe's own message, which
    quotes parameters."""
    sentence = f"Stripe answered {error.http_status}" if error.http_status else "Stripe was not reached"
    waits = error.http_status is None or error.http_status in (401, 409, 429) or error.http_status >= 500
    return NotNowError(sentence) if waits else PermanentError(sentence)


def date_of(headers: Any) -> datetime:
    """Stripe's clock in an answer, in whole seconds. Raises NotNowError."""
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        raise NotNowError("Stripe's answer has no date") from None


class _Wary(stripe.RequestsClient):
    """Asks nothing for some seconds after nobody answered: what waits for Stripe must not hold every thread."""

    _silent_until = 0.0

    def request(self, *arguments: Any, **options: Any) -> Any:
        if time.monotonic() < self._silent_until:
            raise stripe.APIConnectionError("nobody answered a moment ago")  # type: ignore[no-untyped-call]
        try:
            return super().request(*arguments, **options)
        except stripe.APIConnectionError:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            raise
