"""Refusals: one table of codes, and RFC 9457 problems made of it."""

from collections.abc import Collection, Sequence

import orjson
from starlette.responses import Response

from handlers.sessions.refusals import Fault

# Code: its title by its status. The codes are the contract: docs/api.md and the OpenAPI document name the same ones.
CODES = {
    "https-needed": {403: "Secrets go over HTTPS, or from this machine itself."},
    "unauthorized": {401: "A bearer token of API_TOKENS is needed."},
    "not-found": {404: "There is no such verification, static link or path."},
    "method-not-allowed": {405: "The path has other methods."},
    "processing": {409: "Stripe is checking what the person submitted."},
    "verified": {409: "The person is verified."},
    "canceled": {409: "The session is canceled, or gone at Stripe."},
    "redacted": {409: "The verification is redacted."},
    "submission-limit": {409: "The person has submitted as often as SUBMISSION_LIMIT allows."},
    "configuration-differs": {409: "The open session was made with other parameters, which cannot be changed."},
    "not-adoptable": {409: "The session is not an open one of this person's."},
    "no-links": {409: "No links are made here."},
    "too-large": {413: "The body is too large."},
    "not-json": {400: "The body is not a JSON object.", 415: "The body must be application/json."},
    "invalid": {422: "The request has faults."},
    "too-many": {429: "OPENINGS_PER_DAY new sessions were opened."},
    "internal": {500: "Something went wrong here that nobody meant."},
    "stripe-refused": {502: "Stripe refuses for good."},
    "opening": {503: "The verification is being opened, or its session is still to be made."},
    "stripe-unavailable": {503: "Stripe cannot be asked now."},
    "database-unavailable": {503: "The database cannot be asked now."},
}
RETRY_SECONDS = 5  # for a 503 that says no other


class ProblemError(Exception):
    """The refusal of a request with a code of the table, by its first status unless another is given. Neither detail
    nor faults quote the request or Stripe's text.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        faults: Sequence[Fault] = (),
        retry_after: int | None = None,
        allowed: Collection[str] = (),
    ) -> None:
        super().__init__(code)
        self.code, self.detail, self.faults, self.retry_after = code, detail, faults, retry_after
        self.status, self.allowed = status or next(iter(CODES[code])), allowed

    def response(self) -> Response:
        """As application/problem+json, with Retry-After, WWW-Authenticate and Allow where they belong."""
        status, type_ = self.status, f"urn:problem-type:identity-events:{self.code}"
        body = {"type": type_, "title": CODES[self.code][status], "status": status, "code": self.code}
        if self.detail:
            body["detail"] = self.detail
        if self.faults:
            body["faults"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in self.faults]
        headers = {"Cache-Control": "no-store"}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.allowed:
            headers["Allow"] = ", ".join(sorted(self.allowed))
        if retry_after := self.retry_after or (RETRY_SECONDS if status == 503 else None):
            headers["Retry-After"] = str(retry_after)
        return Response(orjson.dumps(body), status, headers, "application/problem+json")
