"""The simulator as a process: bind, say where, run until stopped."""

import argparse
import socket
import sys

import uvicorn

from tests.simulator import app, endpoints
from tests.simulator.client import Simulator
from tests.simulator.store import Scope
from tests.simulator.world import World

GRACE = 1  # seconds for open requests at shutdown; a hanging one would never end

EVERY_TYPE = ["*", "identity.verification_session.redacted"]


def run(options: argparse.Namespace) -> None:
    """Prints the lines a .env needs, the address first; it accepts connections from then on."""
    bound = socket.create_server((options.host, options.port), backlog=2048)
    world = World()
    world.settings.base = f"http://{options.host}:{bound.getsockname()[1]}"
    world.settings.speed = options.speed
    if options.seed is not None:
        world.deliveries.random.seed(options.seed)
    lines = [f"STRIPE_API_BASE={world.settings.base}", f"STRIPE_API_KEY={Simulator.api_key}"]
    if options.forward_to:
        endpoint = endpoints.register(
            world,
            Scope(),
            options.forward_to,
            EVERY_TYPE,
            connect=None,
            secret=options.secret,
            policy={"payload": options.payload},
        )
        lines.append(f"STRIPE_WEBHOOK_SECRET={endpoint.secret}")
    sys.stdout.write("\n".join([*lines, "ready", ""]))
    sys.stdout.flush()
    config = uvicorn.Config(
        app.build(world),
        log_level="critical",
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    uvicorn.Server(config).run(sockets=[bound])
