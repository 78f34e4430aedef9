"""Event objects: each change of a session makes one, snapshot and thin, for the endpoints that select it."""

from dataclasses import dataclass

from tests.simulator import clock, ids, rendering
from tests.simulator.store import Event, Json, Session
from tests.simulator.world import World


@dataclass(frozen=True, slots=True)
class Cause:
    """The API request behind a change; the acts of persons and of Stripe have none."""

    request_id: str | None = None
    idempotency_key: str | None = None


NOBODY = Cause()


def emit(world: World, session: Session, what: str, cause: Cause = NOBODY) -> list[Event]:
    """Makes and sends the events of one change. `redacted` is made only if somebody has selected it."""
    events: list[Event] = []
    now = world.clock.now()
    session.changed_at = max(now, session.changed_at + 1) if world.settings.spaced else now
    for _ in range(2 if world.settings.twins else 1):
        snapshot = _snapshot(world, session, what, cause)
        thin = _thin(world, session, snapshot, cause)
        events += [event for event in (snapshot, thin) if _is_wanted(world, event)]
    for event in events:
        world.store.events[event.id] = event
    for event in events:
        world.deliveries.dispatch(event)
        world.listeners.dispatch(event)
    return events


def _is_wanted(world: World, event: Event) -> bool:
    if not event.thin and not event.type.endswith(".redacted"):
        return True
    return bool(world.deliveries.targets(event)) or world.listeners.want(event)


def _snapshot(world: World, session: Session, what: str, cause: Cause) -> Event:
    event_id, shown = ids.new_id("evt"), _object(world, session)
    body = rendering.snapshot_event(event_id, what, session.changed_at, session.scope, shown)
    body["request"] = {"id": cause.request_id, "idempotency_key": cause.idempotency_key}
    return _event(session, body, session.changed_at, thin=False)


def _object(world: World, session: Session) -> Json:
    if world.settings.secrets_in_events and session.status == "requires_input":
        rendered = rendering.snapshot(
            session, client_secret=f"{session.id}_secret_{ids.token(16)}", url=world.settings.base
        )
    else:
        rendered = rendering.snapshot(session)
    return rendered | world.settings.extra_fields


def _thin(world: World, session: Session, snapshot: Event, cause: Cause) -> Event:
    event_id = ids.thin_event_id(snapshot.scope.livemode)
    what = snapshot.type.rpartition(".")[2]
    body = rendering.thin_event(event_id, what, clock.iso(world.clock.time()), snapshot.scope, snapshot.session_id)
    body |= {"reason": _reason(cause), "snapshot_event": snapshot.id}
    return _event(session, body, snapshot.created, thin=True)


def _reason(cause: Cause) -> Json | None:
    if cause.request_id is None:
        return None
    return {"type": "request", "request": {"id": cause.request_id, "idempotency_key": cause.idempotency_key or ""}}


def _event(session: Session, body: Json, created: int, *, thin: bool) -> Event:
    return Event(
        id=body["id"],
        scope=session.scope,
        created=created,
        type=body["type"],
        session_id=session.id,
        thin=thin,
        body=body,
    )
