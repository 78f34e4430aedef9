"""The application's requests beside an opening (handlers.sessions.asked), as pydantic models."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.datastructures import QueryParams

from handlers.record.events import Status
from handlers.sessions.asked import Asked, Email, Entering, Purpose, Reference, Text, of_the_way, validated
from handlers.sessions.entering import WayIn
from handlers.sessions.refusals import Fault
from handlers.sessions.views import PageQuery


class Linking(Asked):
    """The body of POST /static-links/{name}; in a URL routers would log it."""

    client_reference_id: Reference
    email: Email | None = None


class Listing(BaseModel):
    """The query of GET /verifications."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_reference_id: Reference | None = None
    purpose: Purpose | None = None
    status: Status | None = None
    verification_flow: Text | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 10
    starting_after: Annotated[str, StringConstraints(pattern=r"^idv_[A-Za-z0-9]+$", max_length=64)] | None = None


class Canceling(BaseModel):
    """The query of POST /verifications/{id}/cancel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notify: bool = True


def way_in(body: Mapping[str, Any]) -> WayIn:
    """The person's way in. Raises FaultsError with every fault at once."""
    asked = validated(Entering, body, of_the_way)
    return WayIn(integration=asked.integration, stripe_version=asked.stripe_version)


def linking(body: Mapping[str, Any]) -> Linking:
    """The person that a static link is for. Raises FaultsError with every fault at once."""
    return validated(Linking, body, lambda _: ())


def notify(query: QueryParams) -> bool:
    """Whether the person is told. Raises FaultsError."""
    return validated(Canceling, dict(query), lambda _: _twice(query)).notify


def list_query(query: QueryParams) -> PageQuery:
    """The query of a list. Raises FaultsError with every fault at once."""
    asked = validated(Listing, dict(query), lambda _: _twice(query))
    return PageQuery(**asked.model_dump())


def _twice(query: QueryParams) -> Iterator[Fault]:
    # Of two values of one name, none is guessed to be the right one.
    for name, count in Counter(name for name, _ in query.multi_items()).items():
        if count > 1:
            yield Fault(f"/{name}", "is given twice")
