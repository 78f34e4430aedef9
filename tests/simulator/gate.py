"""The gate of every API call: its key, idempotency, injected faults, and the headers of its answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.simulator import calls, errors
from tests.simulator.calls import Call
from tests.simulator.deliveries import encode
from tests.simulator.errors import ApiError
from tests.simulator.faults import Fault
from tests.simulator.nonsense import Instead, Nonsense
from tests.simulator.settings import API_VERSION
from tests.simulator.store import Json
from tests.simulator.world import World

Handler = Callable[[Call], Json]

GLANCE = 0.05  # seconds between two looks for a caller that has given up its hanging call


class Drip(Exception):  # noqa: N818  # it is an answer
    """An answer that goes out byte by byte."""

    def __init__(self, body: bytes, seconds: float) -> None:
        super().__init__()
        self.body, self.seconds = body, seconds


def guarded(world: World, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette endpoint of a route."""

    async def endpoint(request: Request) -> Response:
        request_id = calls.new_request_id()
        version = request.headers.get("stripe-version", API_VERSION)
        headers = {"Request-Id": request_id, "Stripe-Version": version, "Date": world.clock.http_date()}
        try:
            call = await calls.read(world, request, request_id)
            status, body = await _once(call, handler, headers)
        except ApiError as error:
            status, body = error.status, _error_body(error, request_id)
            headers |= error.headers
        except Nonsense as nonsense:
            return _said_instead(nonsense.instead, world.clock.http_date())
        except Drip as drip:
            return StreamingResponse(_dripping(drip), headers=headers, media_type="application/json")
        headers["Date"] = world.clock.http_date()
        return Response(body, status, headers, media_type="application/json")

    return endpoint


async def _once(call: Call, handler: Handler, headers: dict[str, str]) -> tuple[int, bytes]:
    """Executes the call, or returns the saved answer of its idempotency key."""
    key = call.idempotency_key
    if call.method != "POST" or not key:
        return await _execute(call, handler)
    headers["Idempotency-Key"] = key
    ledger = call.world.ledger
    replay = ledger.begin(call.scope, key, call.path, call.params, call.request_id, call.world.clock.time())
    if replay:
        headers |= {"Idempotent-Replayed": "true", "Original-Request": replay.request_id}
        return replay.status or 500, replay.body
    headers["Original-Request"] = call.request_id
    try:
        status, body = await _execute(call, handler)
    except ApiError as error:
        if error.saved:
            ledger.finish(call.scope, key, error.status, _error_body(error, call.request_id))
        else:
            ledger.forget(call.scope, key)
        raise
    return status, body


async def _execute(call: Call, handler: Handler) -> tuple[int, bytes]:
    fault = call.world.faults.take(call.method, call.path)
    if fault and not fault.after:
        await _suffer(call, fault)
    body = encode(_handled(call, handler))
    if call.idempotency_key:  # a call that is done is saved, even if its answer is lost
        call.world.ledger.finish(call.scope, call.idempotency_key, 200, body)
    if holding := call.world.faults.take(call.method, call.path, body):
        await _suffer(call, holding)
    if fault and fault.nonsense:
        raise Nonsense(fault.nonsense, body)
    if fault and fault.drip:
        raise Drip(body, fault.drip)
    if fault and fault.after:
        await _suffer(call, fault)
    return 200, body


def _handled(call: Call, handler: Handler) -> Json:
    try:
        return handler(call)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a shape of parameters that no SDK sends
        raise ApiError(400, f"Invalid request: {type(error).__name__}: {error}") from error


async def _suffer(call: Call, fault: Fault) -> None:
    fault.callers.append({"port": call.port, "idempotency_key": call.idempotency_key})
    await asyncio.sleep(fault.delay)
    while fault.hang and not await call.is_disconnected():
        await asyncio.sleep(GLANCE)
    if fault.status:
        error = errors.on_demand(fault.status, fault.retry_after)
        error.saved = fault.saved
        raise error


def _said_instead(instead: Instead, date: str) -> Response:
    headers = instead.headers | ({"Date": date} if instead.dated else {})
    return Response(instead.body, instead.status, headers, media_type=instead.content_type)


async def _dripping(drip: Drip) -> AsyncIterator[bytes]:
    for place in range(len(drip.body)):
        yield drip.body[place : place + 1]
        await asyncio.sleep(drip.seconds)


def _error_body(error: ApiError, request_id: str) -> bytes:
    log_url = f"https://dashboard.stripe.com/test/logs/{request_id}"
    return encode({"error": error.error | {"request_log_url": log_url}})
