"""Asking Stripe: the client, its bounds, Stripe's clock, and the answers that are final."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import orjson
import stripe
from pydantic import SecretStr

from config.database import steady, true_now
from config.settings import settings
from handlers.metrics import counting, outside
from handlers.queue.calls import Line, WholeAnswer, asked_pause, moment_in
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError, UnreadableError

_TOTAL_SECONDS = 10.0  # far below a lease; the SDK's own: 80 s, and two retries on top
_MOST_OF_ONE = 128 * 1024  # a session has 27 KB of metadata at most
_MOST_OF_A_PAGE = 4 * 1024 * 1024  # a hundred of them
_NOT_ENABLED = "not set up to use Identity"  # in Stripe's sentence; some accounts get a code for it
_IDENTITY_IS_OFF = "Identity is not enabled for the account"
_RESTRICTED = "STRIPE_RESTRICTED_KEY"
_NOT_NEEDED = ("/v1/balance", "/v1/webhook_endpoints")  # a key may lack these: a check that cannot look is left out
_ID = re.compile(r"(?<=_sessions/)[^/]+|(?<=/events/)[^/]+")  # in an address
_PERMISSION = re.compile(r"'(rak_[a-z_]{1,60})'")  # in Stripe's sentence about a restricted key
# In an error's `param`; the application chooses the names below it, so they are not repeated.
_PARAMETER = re.compile(
    r"(client_reference_id|metadata|options|provided_details|related_customer(_account)?|related_person|return_url|type"
    r"|verification_flow)(?=\[|$)"
)
_AHEAD = timedelta(minutes=5)  # a clock of ours that is further behind Stripe's finds none of its signatures good


class MissingError(PermanentError):
    """Stripe's verdict: there is no such object."""

    why = ""


class NotAcceptedError(NotNowError):
    """Stripe's own 400: it does not accept the request, which says little about the object that the request names."""


class DeniedError(NotAllowedError):
    """Stripe's own refusal of us, and no proxy's before it: the request has done nothing."""


class HeldError(NotNowError):
    """Stripe's own word about one object or key: another request holds it, or too many have asked for it."""


class SpentKeyError(NotNowError):
    """An idempotency key stands for another request, or for a saved error: no request succeeds under it any more."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as Stripe has it, and a moment of Stripe's clock not later than when it was read."""

    content: dict[str, Any]
    dated: datetime | None  # None where the answer has no date
    seconds: float  # the call's duration
    is_replayed: bool  # saved by Stripe under an idempotency key, and perhaps handed out before

    @property
    def asked_at(self) -> datetime:
        """Stripe's time when it was asked, or earlier. Raises UnreadableError if the answer has no date."""
        if self.dated is None:
            raise UnreadableError("Stripe's answer has no date")
        # rule: an answer's stamp allows for the call's duration
        return self.dated - timedelta(seconds=self.seconds)


@cache
def client() -> stripe.StripeClient:
    """This process's client; each request names its key."""
    return stripe.StripeClient(
        settings().stripe_api_key.get_secret_value(),
        base_addresses={"api": settings().stripe_api_base.get_secret_value()},
        max_network_retries=0,  # a wait is written down and taken up again; nobody blocks for it
        http_client=_Verdicts(),
    )


def ask(
    method: str,
    path: str,
    wanted: str,
    account: str | None = None,
    /,
    key: SecretStr | None = None,
    **params: Any,
) -> Found:
    """The whole object, of the wanted type.

    Raises MissingError if Stripe says that there is none, NotAllowedError if it refuses us, AwayError if it is not
    there or wants quiet, and NotNowError for everything else, such as NotAcceptedError and UnreadableError. None of
    them has Stripe's own message, which quotes parameters.
    """
    options = {"api_key": (key or settings().stripe_api_key).get_secret_value()}
    if account is not None:
        # rule: Stripe is asked in the account's name
        options["stripe_account" if account.startswith("acct_") else "stripe_context"] = account
    started = steady()
    try:
        response: Any = client().raw_request(method, path, **params, **options)
    except stripe.StripeError:  # the SDK reads JSON by itself: too deep for it, on an older Python
        raise unreadable("its library does not read it") from None
    if response.data["object"] != wanted:
        raise unreadable("it is another object")
    seconds, is_replayed = steady() - started, "Idempotent-Replayed" in response.headers
    return Found(response.data, dated(response.headers), seconds, is_replayed)


def ask_for_page(path: str, account: str | None = None, /, **params: Any) -> Found:
    """A page of a list, whose content has the items in `data` and whether there are more in `has_more`; as `ask`.

    An item may be anything: one that cannot be read says nothing of the others.
    """
    found = ask("get", path, "list", account, **params)
    if not isinstance(found.content.get("data"), list) or not isinstance(found.content.get("has_more"), bool):
        raise unreadable("it is no page of a list")
    return found


def unreadable(why: str) -> UnreadableError:
    """Counts an answer that came whole and is not the wanted object; returns the error to raise."""
    counting.NO_ANSWERS.labels(of=outside.STRIPE, why="unreadable").inc()
    outside.note_refusal(outside.STRIPE, f"sends answers that cannot be read: {why}")
    return UnreadableError(f"Stripe's answer cannot be read: {why}")


def dated(headers: Mapping[str, str]) -> datetime | None:
    """Stripe's clock in an answer, in whole seconds; never far ahead of ours, since a stamp from the future would make
    everything after it stale. None if the answer has no date."""
    moment = moment_in(headers.get("Date", ""))
    # rule: Stripe's clock is bounded by ours
    return moment and min(moment, true_now() + _AHEAD)


class _Verdicts(stripe.HTTPClient):
    """Hands the SDK only whole answers of Stripe's: it would take a proxy's page, or half an object, for one."""

    name = "bounded"

    def __init__(self) -> None:
        super().__init__()
        self._line = Line(outside.STRIPE, _TOTAL_SECONDS, stripe.ca_bundle_path, _is_of_one)

    def request(  # type: ignore[override]  # as all of the SDK's own clients do it
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        most = _MOST_OF_A_PAGE if "limit=" in url else _MOST_OF_ONE
        account = _account(headers or {})
        answer = self._line.call(method, url, headers or {}, post_data, most=most, in_name_of=account)
        content = _stripes_own(answer)
        if answer.status != 200:
            no_answer = _no_answer(answer, content.get("error"))
            no_answer.why = _why(answer.status, content.get("error"))
            _note(no_answer, method, url, headers or {})
            raise no_answer
        # rule: only a whole object is an answer
        if not isinstance(content.get("object"), str):
            raise unreadable("it is no object of Stripe's")
        outside.note_answer(outside.STRIPE, _doing(method, url, headers or {}))
        return answer.body, answer.status, answer.headers


def _is_of_one(limit: WholeAnswer) -> bool:
    """Whether a 429 is about the requested object alone."""
    error = _stripes_own(limit).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code == "lock_timeout" or limit.headers.get("Stripe-Rate-Limited-Reason") == "resource-specific"


def _stripes_own(answer: WholeAnswer) -> dict[str, Any]:
    """The JSON object in an answer; an empty one if there is none, as in a proxy's."""
    if not answer.headers.get("Content-Type", "").startswith("application/json"):
        return {}
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _no_answer(answer: WholeAnswer, error: object) -> NotNowError | MissingError:
    """The error for an answer other than 200; only Stripe's own word about the requested object is final."""
    sentence, again_after = f"Stripe answered {answer.status}", asked_pause(answer.headers) or 0.0
    said = error if isinstance(error, dict) else {}
    is_reused = said.get("type") == "idempotency_error" and answer.status == 400
    # rule: an answer that Stripe has saved says nothing of today
    is_spent = is_reused or "Idempotent-Replayed" in answer.headers
    # rule: only Stripe's own word is final
    if answer.status == 404 and said.get("code") == "resource_missing" and not is_spent:
        return MissingError(sentence)
    is_refusal = answer.status in (401, 403, 407) and not is_spent
    if is_refusal:
        kind = DeniedError if said.get("type") else NotAllowedError
        return kind(sentence, again_after, dated(answer.headers) if answer.status == 403 else None)
    # A 429 is about one object: the line raises at all others.
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS or said.get("code") == "idempotency_key_in_use":
        return HeldError(sentence, again_after)
    if is_spent:
        return SpentKeyError(sentence, again_after)
    if answer.status == 400 and said.get("type"):
        return NotAcceptedError(sentence, again_after)
    return NotNowError(sentence, again_after)


def _note(no_answer: NotNowError | MissingError, method: str, url: str, headers: Mapping[str, str]) -> None:
    """Notes who or what is refused by an answer: the key, one of its permissions, an account, or the one object."""
    account, doing = _account(headers), _doing(method, url, headers)
    is_needed = account or urlsplit(url).path not in _NOT_NEEDED
    if isinstance(no_answer, NotAllowedError) and no_answer.dated and not is_needed:
        outside.note_answer(outside.STRIPE)
        return
    if not isinstance(no_answer, MissingError):
        why = "not allowed" if isinstance(no_answer, NotAllowedError) else "failing"
        counting.NO_ANSWERS.labels(of=outside.STRIPE, why=why).inc()
    word = f"{str(no_answer).removeprefix('Stripe ')}{no_answer.why and f': {no_answer.why}'}"
    if isinstance(no_answer, NotAllowedError) and account:
        outside.note_refusal(outside.STRIPE, word, doing="in the name of an account", about=account)
    elif no_answer.why == _IDENTITY_IS_OFF or (isinstance(no_answer, NotAllowedError) and no_answer.dated):
        outside.note_refusal(outside.STRIPE, word, doing=doing)
    elif isinstance(no_answer, MissingError | NotAcceptedError | SpentKeyError | HeldError):
        outside.note_answer(outside.STRIPE, doing)
    elif _RESTRICTED in doing:
        outside.note_refusal(outside.STRIPE, word, doing=doing)
    else:
        outside.note_refusal(outside.STRIPE, word)


def _account(headers: Mapping[str, str]) -> str:
    """The account in whose name a request is made; "" for our own."""
    return headers.get("Stripe-Account") or headers.get("Stripe-Context") or ""


def _doing(method: str, url: str, headers: Mapping[str, str]) -> str:
    """The kind of a request, and the restricted key's name if the request is made by that."""
    key = settings().stripe_restricted_key.get_secret_value()
    by = f", by {_RESTRICTED}" if key and headers.get("Authorization") == f"Bearer {key}" else ""
    return f"{method} {_ID.sub('…', urlsplit(url).path)}{by}"


def _why(status: int, error: object) -> str:
    """The reason of Stripe's refusal in our own words, or "" if we have none: Stripe's words quote the request."""
    said = error if isinstance(error, dict) else {}
    message, code = str(said.get("message")), said.get("code")
    if _NOT_ENABLED in message or code == "identity_api_invalid_application":
        return _IDENTITY_IS_OFF
    if status == 401:
        return "it knows no such key, or it was revoked"
    if code == "account_invalid":
        return "the key does not reach the account"
    if status == 403 and (permission := _PERMISSION.search(message)):
        return f"the key lacks the permission {permission[1]}"
    parameter = _PARAMETER.match(str(said.get("param")))
    return f"Stripe does not accept {parameter[1]}" if parameter else ""
