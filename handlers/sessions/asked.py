"""The request of an opening, over HTTP or by a command: pydantic models, which the OpenAPI document is made from.

Stripe's parameters are those of stripe.params.identity.VerificationSessionCreateParams (stripe-python 16.1.0); a test
holds both equal. Each reaches Stripe as it was given, except `return_url`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.config import JsonDict

from config.settings import settings
from handlers.operator.audit import By
from handlers.record.events import WRITTEN_HERE
from handlers.sessions.making import our_mark
from handlers.sessions.refusals import Fault, FaultsError
from handlers.sessions.turn import Wanted

# This service's own parameters: Stripe does not get them, or gets them by code of their own.
OWN = {
    *("client_reference_id", "purpose", "integration", "stripe_version", "replaces", "adopt", "account", "locale"),
    "return_url",
}
_MOST_KEYS = 48  # Stripe's 50 less ours
_PERSONAL = re.compile(r"\S@[^\s@.]+\.\S|^\s*\+\d")  # linear: it also reads values that are far too long

# Stored and forwarded text has no control characters: PostgreSQL takes no NUL, and a log line is one line.
Text = Annotated[str, StringConstraints(min_length=1, max_length=5000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
# A purpose is the team's own word. It is stored and told to Stripe, so no mail address and no +number passes for one.
Purpose = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")]
_SessionId = Annotated[str, StringConstraints(max_length=255, pattern=r"^vs_[A-Za-z0-9_]+$")]
Email = Annotated[str, StringConstraints(max_length=800, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$")]

# Square brackets would end a key on its way to Stripe, which forbids them.
_Key = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00-\x1f\x7f\[\]]+$")]
_Value = Annotated[
    str,
    StringConstraints(max_length=500, pattern=r"^[^\x00]*$"),
    Field(json_schema_extra={"not": {"pattern": _PERSONAL.pattern}}),
]

M = TypeVar("M", bound=BaseModel)


def _given(name: str) -> JsonDict:
    return {"required": [name], "properties": {name: {"type": "string"}}}


# The rules about several fields, for the OpenAPI document; of_the_way and _of_several check requests by them.
_NATIVE: JsonDict = {
    "if": {"required": ["integration"], "properties": {"integration": {"const": "native"}}},
    "then": _given("stripe_version"),
    "else": {"not": _given("stripe_version")},
}
_TYPE_OR_FLOW: JsonDict = {"anyOf": [_given("type"), _given("verification_flow"), _given("adopt")]}
_NOT_BOTH: JsonDict = {"not": {"allOf": [_given("replaces"), _given("adopt")]}}


class Asked(BaseModel):
    """A request as JSON: its types are not converted, and unknown members are faults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DocumentOptions(Asked):
    """Options of the document check."""

    # A form to Stripe cannot hold an empty list; `document: ""` takes all of the types back.
    allowed_types: Annotated[list[Literal["driving_license", "id_card", "passport"]], Field(min_length=1)] | None = None
    require_id_number: bool | None = None
    require_live_capture: bool | None = None
    require_matching_selfie: bool | None = None


class Options(Asked):
    """Options of the checks; there are none for addresses, phones or matching."""

    document: DocumentOptions | Literal[""] | None = None


class ProvidedDetails(Asked):
    """The known details of the person; Stripe may show them to the person."""

    email: Email | None = None
    phone: Annotated[str, StringConstraints(max_length=50, pattern=r"^[+0-9 ().-]+$")] | None = None


class RelatedPerson(Asked):
    """Tokens of a person and of the account that the person belongs to."""

    account: Text
    person: Text


class Entering(Asked):
    """The body of POST /verifications/{id}/entry, and a part of that of POST /verifications: how the person goes in."""

    model_config = ConfigDict(json_schema_extra=_NATIVE)

    integration: Literal["hosted", "modal", "redirect", "native"] = "hosted"
    stripe_version: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]+)?$")] | None = None


class Changeable(Asked):
    """The parameters that Stripe can still change in an open session."""

    metadata: dict[_Key, _Value] = Field(
        default_factory=dict,
        max_length=_MOST_KEYS,
        json_schema_extra={
            "propertyNames": {
                "maxLength": 40,
                "not": {"anyOf": [{"enum": [*WRITTEN_HERE]}, {"pattern": _PERSONAL.pattern}]},
            },
            "additionalProperties": False,
        },
    )
    options: Options | None = None
    provided_details: ProvidedDetails | None = None
    type: Literal["document", "id_number"] | None = None


class Opening(Changeable, Entering):
    """The body of POST /verifications."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_NATIVE, _TYPE_OR_FLOW, _NOT_BOTH]})

    client_reference_id: Reference
    purpose: Purpose = ""
    replaces: _SessionId | None = None
    adopt: _SessionId | None = None
    account: Annotated[str, StringConstraints(max_length=255, pattern=r"^(acct_[A-Za-z0-9_]+)?$")] = ""
    locale: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)] | None = (
        None
    )
    related_customer: Text | None = None
    related_customer_account: Text | None = None
    related_person: RelatedPerson | None = None
    return_url: Text | None = None
    verification_flow: Annotated[str, StringConstraints(max_length=255, pattern=r"^vf_[A-Za-z0-9_]+$")] | None = None


def opening(body: Mapping[str, Any], return_origins: tuple[str, ...]) -> Opening:
    """The request as a model. Raises FaultsError with every fault at once."""
    return validated(Opening, body, lambda given: _of_several(given, return_origins))


def validated(model: type[M], body: Mapping[str, Any], of_several: Callable[[Mapping[str, Any]], Iterable[Fault]]) -> M:
    """The request as a model. Raises FaultsError with all faults at once: those of single fields, and those of several
    together."""
    faults = list(of_several(body))
    try:
        asked = model.model_validate(body)
    except ValidationError as error:
        raise FaultsError([*_of_the_model(error), *faults]) from None
    if faults:
        raise FaultsError(faults)
    return asked


def wanted(asked: Opening, by: By | None = None) -> Wanted:
    """The request with Stripe's parameters as they were given; `by` is the operator, if it comes from one."""
    given = asked.model_dump(include={*Opening.model_fields} - OWN, exclude_unset=True, exclude_none=True)
    return Wanted(
        client_reference_id=asked.client_reference_id,
        purpose=asked.purpose,
        account=asked.account,
        livemode=bool(settings().livemode),
        params=given,
        return_url=asked.return_url,
        locale=asked.locale,
        replaces=asked.replaces,
        adopt=asked.adopt,
        by=by,
    )


def _of_the_model(error: ValidationError) -> Iterator[Fault]:
    for one in error.errors():
        place = one["loc"]
        # pydantic adds the branch of a union, of which only the object counts, and "[key]" behind a bad key.
        if place[:2] == ("options", "document"):
            if place[2:] == ("literal['']",):
                continue
            place = place[:2] + place[3:]
        yield Fault(_pointer(place[:2] if place[:1] == ("metadata",) else place), one["msg"])


def _pointer(location: tuple[int | str, ...]) -> str:
    keys = map(str, location)
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def of_the_way(body: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults of a way in that no single field shows."""
    if (body.get("integration") == "native") != bool(body.get("stripe_version")):
        yield Fault("/stripe_version", "is needed by native, which reads the ephemeral key, and by nothing else")
    if body.get("integration") == "modal" and not settings().stripe_publishable_key.get_secret_value():
        yield Fault("/integration", "modal needs a STRIPE_PUBLISHABLE_KEY")


def _of_several(body: Mapping[str, Any], return_origins: tuple[str, ...]) -> Iterator[Fault]:
    yield from of_the_way(body)
    if not (body.get("type") or body.get("verification_flow") or body.get("adopt")):
        yield Fault("/type", "type or verification_flow is needed")
    if body.get("replaces") and body.get("adopt"):
        yield Fault("/adopt", "goes without replaces")
    url = body.get("return_url")
    if isinstance(url, str) and url and _origin(url) not in map(_origin, return_origins):
        yield Fault("/return_url", "must have an origin or app scheme of RETURN_ORIGINS")
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and len(metadata) == _MOST_KEYS and our_mark().keys() - metadata.keys():
        yield Fault("/metadata", "one key less: the mark of OUR_SESSIONS is added")
    for key, value in metadata.items() if isinstance(metadata, dict) else ():
        pointer = _pointer(("metadata", key))
        if key in WRITTEN_HERE:
            yield Fault(pointer, "is written by this service")
        if our_mark().get(key, value) != value:
            yield Fault(pointer, "is the mark of OUR_SESSIONS, which is another value")
        if any(isinstance(text, str) and _PERSONAL.search(text) for text in (key, value)):
            yield Fault(pointer, "no personal data in metadata: Stripe shows it to everybody who sees the session")


def _origin(url: str) -> str:
    """`https://host:port` of a web address, without its scheme's usual port; `scheme:` of an app's."""
    # ASCII: elsewhere a Kelvin sign is a k, which makes no scheme.
    found = re.match(r"(https?://[^/?#\\@]+)(?:[/?#]|$)|([a-z][a-z0-9+.-]*:)", url, re.ASCII | re.IGNORECASE)
    origin = (found[1] or found[2]).lower() if found else ""
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")
