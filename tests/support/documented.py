"""Answers of the API, held against its own OpenAPI document."""

import re
from typing import Any

from httpx2 import Response
from openapi_schema_validator import OAS31Validator

from receiver.api.openapi import document


def must_be_documented(answer: Response) -> None:
    """A hook of a client. Raises AssertionError if the document does not have this status, code, header or body."""
    answer.read()
    request = answer.request
    if (documented := _documented(request.method, request.url.path)) is None:
        return
    about = f"{answer.status_code} to {request.method} {request.url.path}"
    response = documented.get(str(answer.status_code))
    assert response, about
    for name, header in response["headers"].items():
        assert OAS31Validator(header["schema"]).is_valid(_typed(header, answer.headers[name])), f"{name} of {about}"
    [(media_type, content)] = response["content"].items()
    assert answer.headers["content-type"] == media_type, about
    if request.method != "HEAD":
        body, schema = answer.json(), {"components": document()["components"], **content["schema"]}
        assert [error.message for error in OAS31Validator(schema).iter_errors(body)] == [], about
        if media_type == "application/problem+json":
            assert (body["status"], body["type"].rpartition(":")[2]) == (answer.status_code, body["code"]), about


def _documented(method: str, path: str) -> dict[str, Any] | None:
    """The answers of an operation, or for another method those of its path; None for a path that there is not."""
    for template, operations in document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path.removesuffix("/")):
            operation = operations.get({"HEAD": "get"}.get(method, method.lower()), next(iter(operations.values())))
            responses: dict[str, Any] = operation["responses"]
            return responses
    return None


def _typed(header: dict[str, Any], text: str) -> object:
    return int(text) if header["schema"]["type"] == "integer" else text
