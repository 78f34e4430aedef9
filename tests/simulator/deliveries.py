"""Events on their way to webhook endpoints: signed, retried, and on request late, twice, shuffled or forged."""

import asyncio
import time
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

import orjson

from tests.simulator import ids, signing
from tests.simulator.settings import Settings
from tests.simulator.store import Attempt, Delivery, Endpoint, Event, Json, Store
from tests.simulator.wire import Wire

# Seconds before each further attempt. A sandbox gets three over some hours, live mode goes on for three days.
TEST_RETRIES = (60.0, 3_600.0, 10_800.0)
LIVE_RETRIES = (60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 43_200.0, 43_200.0, 43_200.0, 43_200.0)

BODY_SHOWN = 1000  # bytes

TIMEOUT = 20.0  # not documented; older documentation spoke of ten to thirty seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The way in which one endpoint gets its deliveries. Spans are seconds."""

    payload: str = "snapshot"  # snapshot, thin or both
    copies: int = 1  # deliveries of the same event id
    delay: float = 0.0
    shuffle: float = 0.0  # each delivery waits a random part of this, so neighbours change places
    hold: bool = False  # nothing leaves before a release
    signed_at: float = 0.0  # moves the signature's timestamp: negative is the past
    forged: bool = False  # signed with a secret nobody has
    schedule: tuple[float, ...] | None = None  # pauses before the further attempts, not divided by the speed
    timeout: float = TIMEOUT
    concurrency: int = 64  # 1 keeps the order

    def __post_init__(self) -> None:
        if self.payload not in ("snapshot", "thin", "both"):
            raise ValueError(f"payload is snapshot, thin or both, not {self.payload!r}")


POLICY_FIELDS = {item.name for item in fields(Policy)}


@dataclass(slots=True)
class Deliveries:
    """Every delivery runs as a task of its own."""

    store: Store
    settings: Settings
    wire: Wire = field(default_factory=Wire)
    random: Random = field(default_factory=Random)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    def targets(self, event: Event) -> list[Endpoint]:
        return [endpoint for endpoint in self.store.endpoints.values() if self.takes(endpoint, event)]

    def takes(self, endpoint: Endpoint, event: Event) -> bool:
        payload = self.policy(endpoint).payload
        return (
            endpoint.enabled
            and payload in ("both", "thin" if event.thin else "snapshot")
            and endpoint.scope.livemode == event.scope.livemode
            and endpoint.connect in (None, event.scope.connected)
            and selects(endpoint.enabled_events, event.type)
        )

    def policy(self, endpoint: Endpoint) -> Policy:
        wanted = self.settings.policy | endpoint.policy
        if wanted.get("schedule") is not None:
            wanted["schedule"] = tuple(wanted["schedule"])
        return Policy(**wanted)

    def dispatch(self, event: Event) -> None:
        """Starts the deliveries of an event to its endpoints."""
        endpoints = self.targets(event)
        event.pending |= {endpoint.id for endpoint in endpoints}
        for endpoint in endpoints:
            for _ in range(self.policy(endpoint).copies):
                self.send(event, endpoint)

    def send(self, event: Event, endpoint: Endpoint, *, now: bool = False) -> Delivery:
        """One more delivery; `now` passes over hold and delay, as a manual resend does."""
        policy = self.policy(endpoint)
        delivery = Delivery(id=ids.new_id("wh"), event_id=event.id, target=endpoint.id, url=endpoint.url)
        self.store.deliveries[delivery.id] = delivery
        if policy.hold and not now:
            delivery.state = "held"
        else:
            self._start(delivery, 0.0 if now else policy.delay + self.random.uniform(0, policy.shuffle))
        return delivery

    def release(self, order: str = "sent", limit: int | None = None, target: str | None = None) -> int:
        """Lets held deliveries go, in the order they were made, reversed or shuffled; returns how many."""
        held = [d for d in self.store.deliveries.values() if d.state == "held" and target in (None, d.target)]
        if order == "reversed":
            held.reverse()
        elif order == "shuffled":
            self.random.shuffle(held)
        for delivery in held[:limit]:
            delivery.state = "pending"
            self._start(delivery, 0.0)
        return len(held[:limit])

    def _start(self, delivery: Delivery, delay: float) -> None:
        task = asyncio.get_running_loop().create_task(self._run(delivery, delay))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, delivery: Delivery, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        for pause in (*self._pauses(delivery), None):
            if await self._attempt(delivery):
                delivery.state = "delivered"
                self.store.events[delivery.event_id].pending.discard(delivery.target)
                return
            if pause is not None:
                await asyncio.sleep(pause)
        delivery.state = "failed"

    def _pauses(self, delivery: Delivery) -> tuple[float, ...]:
        endpoint = self.store.endpoints.get(delivery.target)
        if endpoint is None:  # deleted in the meantime
            return ()
        schedule = self.policy(endpoint).schedule
        if schedule is not None:
            return schedule
        pauses = LIVE_RETRIES if endpoint.scope.livemode else TEST_RETRIES
        return tuple(pause / self.settings.speed for pause in pauses)

    async def _attempt(self, delivery: Delivery) -> bool:
        endpoint = self.store.endpoints.get(delivery.target)
        if endpoint is None:  # deleted in the meantime
            return False
        policy = self.policy(endpoint)
        turn = self.turns.setdefault(f"{endpoint.id}/{policy.concurrency}", asyncio.Semaphore(policy.concurrency))
        async with turn:
            attempt = await self._post(endpoint, policy, self.store.events[delivery.event_id])
        delivery.attempts.append(attempt)
        return attempt.code is not None and 200 <= attempt.code < 300

    async def _post(self, endpoint: Endpoint, policy: Policy, event: Event) -> Attempt:
        body = encode(rendered_for(endpoint, event))
        timestamp = int(time.time() + policy.signed_at)  # the clock's offset moves dates, not the truth of signatures
        attempt = Attempt(at=time.time(), signed_at=timestamp)
        secrets = [ids.webhook_secret()] if policy.forged else current_secrets(endpoint)
        headers = delivery_headers(signing.header(body, secrets, timestamp, livemode=event.scope.livemode))
        try:
            answer = await self.wire.post(endpoint.url, headers, body, policy.timeout)
            attempt.code, attempt.body = answer.status, shortened(answer.body)
        except (OSError, TimeoutError, ValueError) as error:
            attempt.error = str(error) or type(error).__name__
        attempt.seconds = time.time() - attempt.at
        return attempt

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.wire.close()


def shortened(body: bytes) -> str:
    """The part of an answer that Stripe's dashboard would show."""
    return body[:BODY_SHOWN].decode(errors="replace")


def rendered_for(endpoint: Endpoint, event: Event) -> Json:
    """The event in the endpoint's own version, if it is pinned to one."""
    body = event.rendered()
    return body | {"api_version": endpoint.api_version} if endpoint.api_version and not event.thin else body


def selects(enabled_events: list[str], event_type: str) -> bool:
    """`*` leaves out redacted, which must be selected by name. A thin endpoint may be given either spelling."""
    plain = event_type.removeprefix("v1.")
    names = {name.removeprefix("v1.") for name in enabled_events}
    return plain in names or ("*" in names and not plain.endswith(".redacted"))


def current_secrets(endpoint: Endpoint) -> list[str]:
    """The secrets that sign: while one rolls, two."""
    return [endpoint.secret, *(secret for secret, expires in endpoint.old_secrets if expires > time.time())]


def encode(body: Any) -> bytes:
    """A body in Stripe's form, indented by two."""
    return orjson.dumps(body, option=orjson.OPT_INDENT_2)


def delivery_headers(signature: str) -> dict[str, str]:
    return {
        "Accept": "*/*; q=0.5, application/xml",
        "Cache-Control": "no-cache",
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature,
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
