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

COMMAND = ".venv/bin/python -m tests.simulator"
EVERY_TYPE = ["*", "identity.verification_session.redacted"]


def run(options: argparse.Namespace) -> None:
    """Prints the lines that a .env needs, the address first; it accepts connections from then on. If it delivers
    anywhere, it prints the next steps, too.
    """
    try:
        bound = socket.create_server((options.host, options.port), backlog=2048)
    except OSError as error:
        reason = f"Port {options.port} cannot be listened on ({error.strerror})"
        sys.exit(f"{reason}: stop what does, or choose another --port (of make stripe: STRIPE_PORT=…)")
    world = World()
    world.settings.base = f"http://{options.host}:{bound.getsockname()[1]}"
    world.settings.speed = options.speed
    world.settings.spaced = not options.unspaced
    if options.seed is not None:
        world.deliveries.random.seed(options.seed)
    base = world.settings.base
    lines = [f"STRIPE_API_BASE={base}", f"STRIPE_API_KEY={Simulator.api_key}"]
    lines += [f"STRIPE_PUBLISHABLE_KEY={Simulator.publishable_key}", f"STRIPE_JS_URL={base}/js/stripe.js"]
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
    lines.append("ready")
    if options.forward_to:
        lines.append(f"In a second terminal: {' '.join(lines[:5])} make run")
        lines.append(f"In a third: {COMMAND} create --email jenny@example.com")
        lines.append(f"Her page:   {lines[1]} .venv/bin/python -m worker link $({COMMAND} last)")
    sys.stdout.write("\n".join([*lines, ""]))
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
