"""The websocket of `stripe listen`: frames out, answers in."""

import asyncio
from contextlib import suppress

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.simulator.calls import Call
from tests.simulator.listeners import Listener, answer_of_session
from tests.simulator.store import Json
from tests.simulator.world import World

SUBPROTOCOL = "stripecli-devproxy-v1"
PATH = "/_stripecli/subscribe/{listener}"


def open_session(call: Call) -> Json:
    """POST /v1/stripecli/sessions."""
    features = call.params.get("websocket_features") or ["webhooks"]
    listener = call.world.listeners.open(call.key, call.scope.livemode, list(features))
    return answer_of_session(listener, call.world.settings.base)


async def subscribe(websocket: WebSocket) -> None:
    """Runs as long as the CLI is connected."""
    world: World = websocket.app.state.world
    listener = world.listeners.listeners.get(websocket.path_params["listener"])
    if listener is None or websocket.headers.get("websocket-id", listener.id) != listener.id:
        await websocket.close(code=1008)
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    listener.connections += 1
    sending = asyncio.create_task(_send(websocket, listener))
    try:
        await _receive(websocket, world)
    finally:
        listener.connections -= 1
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending


async def _send(websocket: WebSocket, listener: Listener) -> None:
    while True:
        frame = await listener.outbox.get()
        await websocket.send_text(orjson.dumps(frame).decode())


async def _receive(websocket: WebSocket, world: World) -> None:
    with suppress(WebSocketDisconnect):
        while True:
            frame = orjson.loads(await websocket.receive_text())
            if frame.get("type") == "webhook_response":
                world.listeners.answered(frame)
