"""The page, the OpenAPI document and the code name the same refusals and the same routes."""

import json
import re
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from receiver.api.openapi import document
from receiver.api.problems import CODES
from receiver.api.routes import Room

EVERY = {(code, status) for code, titles in CODES.items() for status in titles}
PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()


def test_the_page_has_every_code_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE, re.MULTILINE)
    assert sorted((code, int(status)) for code, status in rows) == sorted(EVERY)


def test_the_document_has_every_code_with_its_status() -> None:
    documented = {
        (code, int(status))
        for path in document()["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        for content in response["content"].values()
        for part in content["schema"].get("allOf", [])[1:]
        for code in part["properties"]["code"]["enum"]
    }
    assert documented == EVERY


def test_page_document_and_routes_are_the_same_paths() -> None:
    routes = {
        (method, route.path)
        for route in Room().routes()
        if isinstance(route, Route) and route.path != "/openapi.json"
        for method in (route.methods or set()) - {"HEAD"}
    }
    documented = {(method.upper(), path) for path, some in document()["paths"].items() for method in some}
    on_the_page = set(re.findall(r"^\| `(GET|POST) (\S+)` \|", PAGE, re.MULTILINE))
    assert routes == documented == on_the_page


def test_the_document_is_openapi_3_1() -> None:
    assert list(OpenAPIV31SpecValidator(json.loads(json.dumps(document()))).iter_errors()) == []


def test_every_reference_in_the_document_leads_somewhere() -> None:
    named = set(re.findall(r"#/components/schemas/(\w+)", repr(document())))
    assert named <= document()["components"]["schemas"].keys()
