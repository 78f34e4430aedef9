"""The simulator's state: sessions, reports, events, endpoints and deliveries, in memory."""

from dataclasses import dataclass, field, fields
from typing import Any

PLATFORM = "acct_1SimulatorPlatform"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """The owner of objects: one account, one mode. Nothing is visible across scopes."""

    account: str = PLATFORM
    livemode: bool = False

    @property
    def connected(self) -> bool:
        return self.account != PLATFORM


@dataclass(kw_only=True, slots=True)
class Session:
    """One identity.verification_session."""

    id: str
    scope: Scope
    created: int
    type: str
    status: str = "requires_input"
    metadata: dict[str, str] = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    client_reference_id: str | None = None
    related_customer: str | None = None
    related_customer_account: str | None = None
    related_person: Json | None = None
    verification_flow: str | None = None
    return_url: str | None = None
    provided_details: dict[str, str] = field(default_factory=dict)
    last_error: dict[str, str] | None = None
    report_id: str | None = None
    redaction: str | None = None
    verified_outputs: Json | None = None
    changed_at: int = 0  # when its last event was made


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """A verification flow of the Dashboard: no object of the API. `link` says whether its static link is on."""

    scope: Scope
    name: str = "Simulator"
    options: Json = field(default_factory=dict)
    link: bool = True


@dataclass(kw_only=True, slots=True)
class Report:
    """One identity.verification_report; `body` holds the sensitive fields too."""

    id: str
    scope: Scope
    created: int
    session_id: str
    client_reference_id: str | None
    type: str
    body: Json


@dataclass(kw_only=True, slots=True)
class Event:
    """One Event object. `pending` names the endpoints and listeners that have not answered 2xx."""

    id: str
    scope: Scope
    created: int
    type: str
    session_id: str
    thin: bool
    body: Json
    pending: set[str] = field(default_factory=set)

    def rendered(self) -> Json:
        """The event as the API shows it and a delivery carries it at this moment."""
        return self.body if self.thin else self.body | {"pending_webhooks": len(self.pending)}


@dataclass(kw_only=True, slots=True)
class Endpoint:
    """A webhook endpoint. `connect` is None when it takes events of the platform and of connected accounts."""

    id: str
    scope: Scope
    created: int
    url: str
    enabled_events: list[str]
    secret: str
    api_version: str | None = None
    connect: bool | None = False
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    old_secrets: list[tuple[str, float]] = field(default_factory=list)  # (secret, unix time it expires)
    policy: Json = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One HTTP request of a delivery: the answer's code and body, or the error."""

    at: float
    signed_at: int
    code: int | None = None
    body: str = ""
    error: str | None = None
    seconds: float = 0.0


@dataclass(kw_only=True, slots=True)
class Delivery:
    """One event on its way to one target. States: held, pending, delivered, failed."""

    id: str
    event_id: str
    target: str
    url: str
    state: str = "pending"
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True)
class Store:
    """All objects, in the order in which they were made."""

    sessions: dict[str, Session] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    flows: dict[str, Flow] = field(default_factory=dict)
    ephemeral_keys: dict[str, Json] = field(default_factory=dict)
    secrets: dict[str, tuple[str, float]] = field(default_factory=dict)  # client_secret: (session id, expires)
    entrances: dict[str, tuple[str, float]] = field(default_factory=dict)  # page token: (session id, expires)

    def clear(self) -> None:
        for item in fields(self):
            getattr(self, item.name).clear()
