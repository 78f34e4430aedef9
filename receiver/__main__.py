"""The web process: uvicorn with our application, on PORT."""

import argparse
import sys

import uvicorn
from starlette.applications import Starlette

from config import postgres
from config.database import keep_connections
from config.defaults import webhook_secrets
from config.logs import configure_logging
from config.settings import SettingsError, settings
from receiver.app import app

KEEP_ALIVE = 95  # seconds; Heroku's router keeps its connections for 90 and must not find one closed under its hands
GRACE = 20  # seconds for requests in flight at shutdown; Heroku kills after 30
_CONNECTIONS = 2  # the writer's own, and one for health, metrics and what is counted


def main() -> int:
    """Serves until SIGTERM or Ctrl-C. WEB_CONCURRENCY processes, which uvicorn reads itself."""
    parser = argparse.ArgumentParser(prog="python -m receiver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    host = parser.parse_args().host
    try:
        webhook_secrets(settings())
        if settings().on_postgres:
            postgres.address()  # says what DATABASE_URL asks in vain
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging()
    # Not uvicorn's command line: it cannot be told to leave logging alone.
    uvicorn.run(
        "receiver.__main__:application",  # by name: WEB_CONCURRENCY's processes import it for themselves
        factory=True,
        host=host,
        port=settings().port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=False,  # nothing here asks who the sender is: the signature tells
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    return 0


def application() -> Starlette:
    """What each of uvicorn's processes serves; they start from nothing, so each sets its logs up."""
    configure_logging()
    keep_connections(_CONNECTIONS, beside=1)
    return app


if __name__ == "__main__":
    sys.exit(main())
