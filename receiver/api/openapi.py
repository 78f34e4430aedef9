"""The OpenAPI 3.1 document: made of the models that validate and the table of codes."""

from functools import cache
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from config.version import VERSION
from handlers.record.decide import Outcome
from handlers.record.error_codes import ErrorClass
from handlers.record.events import Status
from handlers.sessions.asked import Entering, Opening
from handlers.tables.models import ActionStatus, InboxStatus
from receiver.api.problems import CODES
from receiver.api.requests import Canceling, Linking, Listing

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_ALWAYS = ("https-needed", "unauthorized", "method-not-allowed", "internal", "database-unavailable")
_ASKING = ("stripe-refused", "stripe-unavailable")
_BODY = ("not-json", "too-large", "invalid")
_RETRY_AFTER = {"Retry-After": {"type": "integer"}}
_HEADERS = {"Cache-Control": {"type": "string", "const": "no-store"}}  # of every answer
_OWN_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"type": "string", "const": "Bearer"}},
    405: {"Allow": {"type": "string"}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
# The operations by id, which the answer to an opening links to.
_THEN = ("showVerification", "enterVerification", "linkVerification", "cancelVerification", "redactVerification")


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Session(_Shown):
    """One of a verification's sessions at Stripe."""

    session_id: str
    generation: int
    status: Status | None
    error_code: str | None
    submissions: int
    replaced_at: str | None
    redacted_at: str | None
    created_at: str
    updated_at: str


class Listed(_Shown):
    """One person and one purpose, without its sessions."""

    id: str
    client_reference_id: str | None
    purpose: str
    account: str
    status: Status
    error_code: str | None
    error_class: ErrorClass | None
    can_retry: bool
    submissions: int
    submissions_left: int
    generation: int
    session_id: str | None
    verification_flow: str | None
    livemode: bool
    created_at: str
    updated_at: str
    redacted_at: str | None


class Verification(Listed):
    """One person and one purpose."""

    sessions: list[Session]


class Happening(_Shown):
    """One thing that happened to a session: the outcome of an event, or of an action, or a change of ours."""

    at: str
    session_id: str
    what: Literal["opened", "event", "action", "replaced", "redaction_asked", "redacted"]
    name: str | None
    id: str | None
    status: InboxStatus | Outcome | ActionStatus | None
    reason: str | None
    received_at: str | None
    ended_at: str | None


class VerificationInTime(Verification):
    """One person and one purpose, with what happened, oldest first."""

    timeline: list[Happening]


class Entry(_Shown):
    """The members that the integration needs, and no others."""

    client_secret: str | None = None
    publishable_key: str | None = None
    url: str | None = None
    session_id: str | None = None
    ephemeral_key_secret: str | None = None


class Opened(Verification):
    """A verification; with an entry while its session is open."""

    entry: Entry | None = None


class Entered(_Shown):
    """A fresh entry."""

    entry: Entry


class Link(_Shown):
    """The address of a page where the person goes on, which may be mailed."""

    url: str
    expires_at: str


class StaticLink(_Shown):
    """The address of a flow's static link for one person."""

    url: str


class Page(_Shown):
    """Verifications, newest first."""

    data: list[Listed]
    has_more: bool


class Fault(_Shown):
    """One thing that is wrong with a request."""

    pointer: str
    detail: str


class Problem(_Shown):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    faults: list[Fault] | None = None


async def openapi(_: Request) -> Response:
    """GET /openapi.json: for everybody, since it holds no data of anybody."""
    return Response(orjson.dumps(document()), headers={"Cache-Control": "no-store"}, media_type="application/json")


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    shown = (
        Opening,
        Entering,
        Linking,
        Verification,
        VerificationInTime,
        Opened,
        Entered,
        Link,
        StaticLink,
        Page,
        Problem,
    )
    _, schemas = models_json_schema(
        [(model, "validation") for model in shown], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Identity verifications", "version": VERSION},
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    over = ("processing", "verified", "redacted")
    opening = (
        *over,
        "submission-limit",
        "configuration-differs",
        "not-adoptable",
        "too-many",
        "opening",
    )
    return {
        "/verifications": {
            "get": _operation("listVerifications", {200: Page}, "invalid", "not-found", query=Listing),
            "post": _operation(
                "openVerification", {200: Opened, 201: Opened}, *_BODY, *_ASKING, *opening, body=Opening, then=_THEN
            ),
        },
        "/verifications/{id}": {
            "get": _operation("showVerification", {200: VerificationInTime}, "not-found", of_one="id")
        },
        "/verifications/{id}/entry": {
            "post": _operation(
                "enterVerification",
                {200: Entered},
                *_BODY,
                *_ASKING,
                "not-found",
                "opening",
                "submission-limit",
                "canceled",
                *over,
                body=Entering,
                of_one="id",
            )
        },
        "/verifications/{id}/cancel": {
            "post": _operation(
                "cancelVerification",
                {200: Verification},
                *_ASKING,
                "not-found",
                "invalid",
                "opening",
                *over,
                query=Canceling,
                of_one="id",
            )
        },
        "/verifications/{id}/link": {
            "post": _operation("linkVerification", {200: Link}, "not-found", "redacted", "no-links", of_one="id")
        },
        "/static-links/{name}": {
            "post": _operation("makeStaticLink", {200: StaticLink}, *_BODY, "not-found", body=Linking, of_one="name")
        },
        "/verifications/{id}/redact": {
            "post": _operation("redactVerification", {202: Verification}, "not-found", of_one="id")
        },
    }


def _operation(
    name: str,
    answers: dict[int, type[BaseModel]],
    *codes: str,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    of_one: str = "",
    then: tuple[str, ...] = (),
) -> dict[str, Any]:
    links = {one: {"operationId": one, "parameters": {"id": "$response.body#/id"}} for one in then}
    responses = {
        str(status): _response(status, model.__name__, _content("application/json", _of(model)))
        | ({"links": links} if links else {})
        for status, model in answers.items()
    }
    by_status: dict[int, list[str]] = {}
    for code in (*_ALWAYS, *codes):
        for status in CODES[code]:
            by_status.setdefault(status, []).append(code)
    for status, some in by_status.items():
        problem = {"allOf": [_PROBLEM, {"properties": {"code": {"enum": some}}}]}
        responses[str(status)] = _response(status, ", ".join(some), _content("application/problem+json", problem))
    operation: dict[str, Any] = {"operationId": name, "responses": responses}
    parameters: list[dict[str, Any]] = []
    if of_one:
        parameters.append({"name": of_one, "in": "path", "required": True, "schema": {"type": "string"}})
    for name, schema in query.model_json_schema()["properties"].items() if query else ():
        if name == "status":
            schema = {"enum": list(Status)}
        # A query has no null: an unused parameter is left out.
        given = next((one for one in schema.get("anyOf", ()) if one != {"type": "null"}), schema)
        parameters.append({"name": name, "in": "query", "schema": given})
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": _content("application/json", _of(body))}
    return operation


def _response(status: int, description: str, content: dict[str, Any]) -> dict[str, Any]:
    headers = _HEADERS | _OWN_HEADERS.get(status, {})
    shown = {name: {"required": True, "schema": schema} for name, schema in headers.items()}
    return {"description": description, "headers": shown, "content": content}


def _of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _content(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {media_type: {"schema": schema}}
