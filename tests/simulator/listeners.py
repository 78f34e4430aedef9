"""`stripe listen`: the connections, and the events that each was sent."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.simulator import ids, signing
from tests.simulator.deliveries import delivery_headers, encode, shortened
from tests.simulator.settings import API_VERSION
from tests.simulator.store import Attempt, Delivery, Event, Json, Store

PATIENCE = 5.0  # seconds; the CLI says nothing when it cannot connect or only prints


@dataclass(kw_only=True, slots=True)
class Listener:
    """One `stripe listen`. Its frames wait in `outbox` for the websocket."""

    id: str
    secret: str
    livemode: bool
    features: list[str]
    outbox: asyncio.Queue[Json] = field(default_factory=asyncio.Queue)
    connections: int = 0

    def takes(self, event: Event) -> bool:
        feature = "v2_events" if event.thin else "webhooks"
        return self.connections > 0 and self.livemode == event.scope.livemode and feature in self.features


@dataclass(slots=True)
class Listeners:
    """The connections, and a secret for each key, the same each time, as at Stripe."""

    store: Store
    listeners: dict[str, Listener] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def open(self, key: str, livemode: bool, features: list[str]) -> Listener:
        secret = self.secrets.setdefault(key, ids.webhook_secret())
        listener = Listener(id=f"cliws_{ids.token(24)}", secret=secret, livemode=livemode, features=features)
        self.listeners[listener.id] = listener
        return listener

    def want(self, event: Event) -> bool:
        return any(listener.takes(event) for listener in self.listeners.values())

    def dispatch(self, event: Event) -> None:
        for listener in self.listeners.values():
            if listener.takes(event):
                self.send(event, listener)

    def send(self, event: Event, listener: Listener) -> None:
        delivery = Delivery(id=ids.new_id("wh"), event_id=event.id, target=listener.id, url="stripe listen")
        self.store.deliveries[delivery.id] = delivery
        event.pending.add(listener.id)
        for frame in _frames(event, listener, delivery):
            listener.outbox.put_nowait(frame)
        asyncio.get_running_loop().call_later(PATIENCE, _give_up, delivery)

    def answered(self, frame: Json) -> None:
        """Notes a webhook_response: the status that our event was answered with. The CLI never retries."""
        delivery = self.store.deliveries.get(frame.get("webhook_id") or "")
        if delivery is None:
            return
        code = int(frame.get("status") or 0)
        body = shortened(str(frame.get("body") or "").encode())
        delivery.attempts.append(Attempt(at=time.time(), signed_at=int(time.time()), code=code, body=body))
        delivery.state = "delivered" if 200 <= code < 300 else "failed"
        if delivery.state == "delivered":
            self.store.events[delivery.event_id].pending.discard(delivery.target)


def _give_up(delivery: Delivery) -> None:
    if delivery.state == "pending":
        delivery.state = "failed"


def _frames(event: Event, listener: Listener, delivery: Delivery) -> list[Json]:
    """The frames of an event: a snapshot goes in the account's version and in the latest; the CLI drops one of them."""
    body = encode(event.rendered())
    signature = signing.header(body, [listener.secret], int(time.time()), livemode=event.scope.livemode)
    headers = {name: value for name, value in delivery_headers(signature).items() if name != "Accept"}
    if event.thin:
        destination = "ed_test_simulator"
        return [{"type": "v2_event", "payload": body.decode(), "http_headers": headers, "destination_id": destination}]
    frame = {
        "type": "webhook_event",
        "event_payload": body.decode(),
        "http_headers": headers,
        "webhook_conversation_id": ids.new_id("wc"),
        "webhook_id": delivery.id,
    }
    return [frame | {"endpoint": {"api_version": version}} for version in (None, API_VERSION)]


def answer_of_session(listener: Listener, base: str) -> dict[str, Any]:
    """The answer to POST /v1/stripecli/sessions."""
    return {
        "websocket_id": listener.id,
        "websocket_url": f"{base.replace('http', 'ws', 1)}/_stripecli/subscribe/{listener.id}",
        "websocket_authorized_feature": "webhooks",
        "secret": listener.secret,
        "reconnect_delay": 60,
        "default_version": API_VERSION,
        "latest_version": API_VERSION,
        "device_token": f"cliuser_{ids.token(16)}",
        "display_connect_filter_warning": False,
    }
