"""Stripe's error answers."""

from typing import Any

DOCS = "https://stripe.com/docs/error-codes/"


class ApiError(Exception):
    """An answer other than 2xx. `saved` says whether an idempotency key remembers it: never for a failed validation."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        saved: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.saved = saved
        self.error: dict[str, Any] = {"message": message, "type": kind}
        if code:
            self.error |= {"code": code, "doc_url": DOCS + code.replace("_", "-")}
        if param:
            self.error["param"] = param


def no_api_key() -> ApiError:
    return ApiError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer "
        "auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for "
        "details, or we can help at https://support.stripe.com/.",
        headers={"WWW-Authenticate": 'Bearer realm="Stripe"'},
    )


def invalid_api_key(key: str) -> ApiError:
    return ApiError(
        401, f"Invalid API Key provided: {masked(key)}", headers={"WWW-Authenticate": 'Bearer realm="Stripe"'}
    )


def expired_api_key(key: str) -> ApiError:
    return ApiError(401, f"Expired API Key provided: {masked(key)}", code="api_key_expired")


def publishable_key() -> ApiError:
    return ApiError(
        403,
        "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list of "
        "your API keys at https://dashboard.stripe.com/account/apikeys.",
        code="secret_key_required",
    )


def masked(key: str) -> str:
    """A key in Stripe's words: its kind and its last four characters."""
    return f"{key[:8]}{'*' * max(len(key) - 12, 4)}{key[-4:]}"


def missing_permission(key: str, account: str, permission: str) -> ApiError:
    return ApiError(
        403,
        f"The provided key '{masked(key)}' does not have the required permissions for this endpoint on account "
        f"'{account}'. Having the '{permission}' permission would allow this request to continue.",
    )


def account_not_reachable(key: str, account: str) -> ApiError:
    return ApiError(
        403,
        f"The provided key '{masked(key)}' does not have access to account '{account}' (or that account does not "
        "exist). Application access may have been revoked.",
        code="account_invalid",
    )


def no_such(kind: str, object_id: str, param: str, *, status: int = 404, similar_in: str | None = None) -> ApiError:
    """`similar_in` is "test" or "live" when the object exists in the other mode."""
    message = f"No such {kind}: '{object_id}'"
    if similar_in:
        used = "live" if similar_in == "test" else "test"
        message += (
            f"; a similar object exists in {similar_in} mode, but a {used} mode key was used to make this request."
        )
    return ApiError(status, message, code="resource_missing", param=param)


def unknown_url(method: str, path: str) -> ApiError:
    return ApiError(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/.",
    )


def unknown_parameter(name: str) -> ApiError:
    return ApiError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def missing_parameter(name: str) -> ApiError:
    return ApiError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)


def invalid_parameter(name: str, message: str) -> ApiError:
    return ApiError(400, message, code="parameter_invalid", param=name)


def not_expandable(path: str) -> ApiError:
    return ApiError(400, f"This property cannot be expanded ({path}).", param="expand")


def illegal_transition(message: str) -> ApiError:
    return ApiError(400, message, saved=True)


def key_reused(key: str) -> ApiError:
    return ApiError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a "
        f"key other than '{key}' if you meant to execute a different request.",
        kind="idempotency_error",
    )


def key_reused_elsewhere(key: str, first: str, now: str) -> ApiError:
    return ApiError(
        400,
        "Keys for idempotent requests can only be used for the same endpoint they were first used for "
        f"('{now}' vs '{first}'). Try using a key other than '{key}' if you meant to execute a different request.",
        kind="idempotency_error",
    )


def key_in_use(key: str) -> ApiError:
    return ApiError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later.",
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def on_demand(status: int, retry_after: float | None) -> ApiError:
    """The answer of an injected fault."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    if status == 429:
        return ApiError(
            429,
            "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
            code="rate_limit",
            headers={"Stripe-Rate-Limited-Reason": "global-rate", **headers},
        )
    if status >= 500:
        return ApiError(
            status,
            "An unknown error occurred. We have been notified of the problem; please try again.",
            kind="api_error",
            headers=headers,
        )
    if status == 403:
        return ApiError(
            403, "The provided key does not have the required permissions for this endpoint.", headers=headers
        )
    if status == 404:
        return ApiError(404, "No such object", code="resource_missing", param="id", headers=headers)
    return ApiError(status, f"A fault with status {status} was asked for.", headers=headers)
