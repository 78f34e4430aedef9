"""The application's requests: Stripe's own parameters, and every fault at once."""

import typing
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from stripe import RequestOptions
from stripe.params.identity import VerificationSessionCreateParams, VerificationSessionUpdateParams

from config.settings import settings
from handlers.sessions import asked
from handlers.sessions.asked import Changeable, Opening, opening
from handlers.sessions.refusals import FaultsError

ORIGINS = ("https://app.example", "shop:", "book:")
LEAST = {"client_reference_id": "user-1", "type": "document"}
OURS = asked.OWN - {"client_reference_id", "return_url"}


def _of_the_sdk(params: Any) -> dict[str, Any]:
    """The names of the parameters, and below each its parts, with the words of an enumeration as they are."""
    # Only its own members: those of RequestOptions name types that the SDK imports for type checkers alone.
    others = {*RequestOptions.__annotations__, "expand"}
    own = {name: hint for name, hint in params.__annotations__.items() if name not in others}
    hints = typing.get_type_hints(type("Own", (), {"__annotations__": own, "__module__": params.__module__}))
    return {name: _shape(hint) for name, hint in hints.items()}


def _of_ours(model: type[BaseModel]) -> dict[str, Any]:
    return {name: _shape(field.annotation) for name, field in model.model_fields.items()}


def _shape(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return _of_ours(hint)
    if hasattr(hint, "__total__"):  # a TypedDict, of typing or of typing_extensions
        return _of_the_sdk(hint)
    if get_origin(hint) is Literal:
        return frozenset(get_args(hint))
    parts = [_shape(part) for part in get_args(hint) if part is not type(None)]
    words = frozenset[str]().union(*(part for part in parts if isinstance(part, frozenset)))
    below = {name: shape for part in parts if isinstance(part, dict) for name, shape in part.items()}
    return below or words - {""} or None


def test_the_model_is_the_installed_sdks() -> None:
    ours = _of_ours(Opening)
    assert {name: shape for name, shape in ours.items() if name not in OURS} == _of_the_sdk(
        VerificationSessionCreateParams
    )
    assert ours.keys() >= OURS
    assert _of_ours(Changeable) == _of_the_sdk(VerificationSessionUpdateParams)


def test_everything_that_stripe_takes_is_taken() -> None:
    asked = opening(
        LEAST
        | {
            "options": {"document": {"allowed_types": ["passport"], "require_id_number": True}},
            "provided_details": {"email": "jenny@example.com", "phone": "5555551212"},
            "metadata": {"plan": "gold", "sum": "+ 3"},
            "related_customer": "cus_1",
            "related_person": {"account": "tok_1", "person": "tok_2"},
            "return_url": "https://app.example/done?x=1",
            "verification_flow": "vf_1",
            "locale": "pt-BR",
            "purpose": "age",
        },
        ORIGINS,
    )
    assert asked.provided_details is not None
    assert asked.provided_details.phone == "5555551212"


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"type": None}, {"/type"}),
        ({"client_reference_id": ""}, {"/client_reference_id"}),
        ({"client_reference_id": "u" * 201}, {"/client_reference_id"}),
        ({"client_reference_id": "a\x00b"}, {"/client_reference_id"}),
        ({"client_reference_id": 7}, {"/client_reference_id"}),
        ({"options": {"email": {"require_verification": True}}}, {"/options/email"}),
        ({"options": {"document": {"require_smile": True}}}, {"/options/document/require_smile"}),
        ({"options": {"document": {"allowed_types": ["library_card"]}}}, {"/options/document/allowed_types/0"}),
        ({"related_person": {"person": "tok_2"}}, {"/related_person/account"}),
        ({"metadata": {"idv_id": "x"}}, {"/metadata/idv_id"}),
        ({"metadata": {"a/b~": "jenny@example.com"}}, {"/metadata/a~1b~0"}),
        ({"metadata": {"tel": " +49 30 1234"}}, {"/metadata/tel"}),
        ({"metadata": {f"k{n}": "v" for n in range(49)}}, {"/metadata"}),
        ({"metadata": {"k" * 41: "v"}}, {f"/metadata/{'k' * 41}"}),
        ({"metadata": {"k": "v" * 501}}, {"/metadata/k"}),
        ({"metadata": {"idv_id]": "x", "a][b": "y", "[": "z"}}, {"/metadata/idv_id]", "/metadata/a][b", "/metadata/["}),
        ({"metadata": {"k": "a\x00b", "l\n": "v"}}, {"/metadata/k", "/metadata/l\n"}),
        ({"metadata": {"k": "who@a@b.example"}}, {"/metadata/k"}),
        ({"metadata": {"jenny@example.org": "v", "+49 30": "w"}}, {"/metadata/jenny@example.org", "/metadata/+49 30"}),
        ({"metadata": {"literal['']": "v" * 501}}, {"/metadata/literal['']"}),
        ({"metadata": {"DocumentOptions": "v" * 501}}, {"/metadata/DocumentOptions"}),
        ({"options": {"document": {"literal['']": 1}}}, {"/options/document/literal['']"}),
        ({"options": {"document": "all"}}, {"/options/document"}),
        ({"options": {"document": {"allowed_types": []}}}, {"/options/document/allowed_types"}),
        ({"provided_details": {"email": "a\x00b@example.org"}}, {"/provided_details/email"}),
        ({"return_url": "https://evil.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example@evil.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example.evil.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example\\@evil.example/"}, {"/return_url"}),
        ({"return_url": "//app.example/"}, {"/return_url"}),
        ({"return_url": "javascript:alert(1)"}, {"/return_url"}),
        ({"return_url": "https:app.example/"}, {"/return_url"}),
        ({"return_url": "https:///app.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example:8443/"}, {"/return_url"}),
        ({"return_url": "https://app.example:80/"}, {"/return_url"}),
        ({"return_url": "https://app.example:443.evil.example/"}, {"/return_url"}),
        ({"return_url": "https://user@app.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example%2f@evil.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example\t.evil.example/"}, {"/return_url"}),
        ({"return_url": "https://app.example\u3002evil.example/"}, {"/return_url"}),
        ({"return_url": "https://xn--pp-zia.example/"}, {"/return_url"}),
        ({"return_url": " https://app.example/"}, {"/return_url"}),
        ({"return_url": "shopping:done"}, {"/return_url"}),
        ({"return_url": "boo\u212a:done"}, {"/return_url"}),
        ({"return_url": ["https://app.example/"]}, {"/return_url"}),
        ({"integration": "native"}, {"/stripe_version"}),
        ({"stripe_version": "2026-10-28.endive"}, {"/stripe_version"}),
        ({"integration": "native", "stripe_version": "\uff12026-10-28"}, {"/stripe_version"}),
        ({"integration": "modal"}, {"/integration"}),
        ({"verification_flow": "my flow"}, {"/verification_flow"}),
        ({"replaces": "vs_1", "adopt": "vs_2"}, {"/adopt"}),
        ({"email": "x@y.example", "purpose": "why not?", "locale": "!"}, {"/email", "/purpose", "/locale"}),
    ],
)
def test_every_fault_is_named_at_once_and_quotes_nothing(changes: dict[str, Any], pointers: set[str]) -> None:
    with pytest.raises(FaultsError) as raised:
        opening({**LEAST, **changes}, ORIGINS)
    assert {fault.pointer for fault in raised.value.faults} == pointers
    assert "example.com" not in "".join(fault.detail for fault in raised.value.faults)


def test_what_is_adopted_has_a_type_already() -> None:
    assert opening({"client_reference_id": "user-1", "adopt": "vs_1"}, ORIGINS).type is None


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("https://app.example", "https://app.example:443/done"),
        ("https://app.example:443", "https://app.example/done"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
    ],
)
def test_an_origin_is_the_same_with_its_usual_port(allowed: str, url: str) -> None:
    assert opening({**LEAST, "return_url": url}, (allowed,)).return_url == url


def test_an_app_scheme_is_a_place_to_return_to() -> None:
    assert opening({**LEAST, "return_url": "shop://done"}, ORIGINS).return_url == "shop://done"


def test_a_metadata_value_of_a_whole_body_is_judged_at_once() -> None:
    """It would hold up all of web: a cost that grows with the square takes minutes here."""
    with pytest.raises(FaultsError):
        opening({**LEAST, "metadata": {"k": "@" * 1_000_000, "l": " " * 1_000_000}}, ORIGINS)


def test_the_mark_of_our_sessions_takes_one_of_the_keys(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUR_SESSIONS", "app=onboarding")
    settings.cache_clear()
    metadata = {f"k{number}": "v" for number in range(47)}
    assert opening({**LEAST, "metadata": metadata | {"app": "onboarding"}}, ORIGINS).metadata["app"] == "onboarding"
    for wrong, pointer in ({"k47": "v"}, "/metadata"), ({"app": "mine"}, "/metadata/app"):
        with pytest.raises(FaultsError) as raised:
            opening({**LEAST, "metadata": metadata | wrong}, ORIGINS)
        assert [fault.pointer for fault in raised.value.faults] == [pointer]
