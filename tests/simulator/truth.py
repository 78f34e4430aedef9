"""The truth of a run, for a test to compare with the service's records."""

from dataclasses import asdict

from tests.simulator import rendering
from tests.simulator.store import Delivery, Event, Json, Session
from tests.simulator.world import World


def everything(world: World) -> Json:
    """All objects; sessions and events are in the order in which they were made."""
    store = world.store
    return {
        "sessions": [session_line(session) for session in store.sessions.values()],
        "events": [event_line(event) for event in store.events.values()],
        "deliveries": [delivery_line(delivery) for delivery in store.deliveries.values()],
        "endpoints": [
            rendering.endpoint(endpoint) | {"secret": endpoint.secret, "policy": endpoint.policy}
            for endpoint in store.endpoints.values()
        ],
        "ephemeral_keys": list(store.ephemeral_keys.values()),
        "reports": [{"id": report.id, "session": report.session_id} for report in store.reports.values()],
    }


def session_line(session: Session) -> Json:
    """A session as the API shows it, with its account and the person's details."""
    return rendering.snapshot(session) | {
        "account": session.scope.account,
        "provided_details": session.provided_details or None,
    }


def event_line(event: Event) -> Json:
    return {
        "id": event.id,
        "type": event.type,
        "session": event.session_id,
        "created": event.created,
        "account": event.scope.account,
        "livemode": event.scope.livemode,
        "thin": event.thin,
        "pending": sorted(event.pending),
        "body": event.rendered(),
    }


def delivery_line(delivery: Delivery) -> Json:
    line = asdict(delivery)
    line["event"] = line.pop("event_id")
    return line


def settled(world: World) -> Json:
    """The counts, and whether all is settled: nothing is under way, and no redaction moves on by itself."""
    counts = {"pending": 0, "held": 0, "delivered": 0, "failed": 0}
    for delivery in world.store.deliveries.values():
        counts[delivery.state] += 1
    redactions = len(world.redactions)
    return {"settled": not counts["pending"] and not redactions, "redactions": redactions, **counts}
