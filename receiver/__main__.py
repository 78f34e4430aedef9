"""The web process: uvicorn with our application, on PORT."""

import sys

if __name__ in ("__main__", "__mp_main__"):  # as in worker/clock.py; the second is one of WEB_CONCURRENCY's processes
    sys.modules["rich"] = None  # type: ignore[assignment]

import argparse
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from config import postgres
from config.database import keep_connections
from config.defaults import lacks_webhook_secret, webhook_secrets
from config.logs import configure_logging
from config.settings import SettingsError, settings
from receiver.app import app, check_pages
from receiver.connections import Connection

# The writer's own, and one for health, metrics and the counters; one more for the threads of the API and the pages.
_CONNECTIONS = 2
# Not uvicorn's command line: it cannot be told to leave logging alone.
SERVER_OPTIONS: dict[str, Any] = {
    "http": Connection,
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,  # receiver/sender.py knows how many there are
    "lifespan": "on",
    "timeout_graceful_shutdown": 20,  # seconds for requests in flight; Heroku kills after 30
    # Seconds from the start of one of WEB_CONCURRENCY's processes to its first word. By default five, after which it is
    # killed: on a busy machine none ever came up, each killed amid its imports.
    "timeout_worker_healthcheck": 60,
}
_NOT_STARTED = 3


def main() -> int:
    """Serves until SIGTERM or Ctrl-C. WEB_CONCURRENCY processes, which uvicorn reads itself."""
    parser = argparse.ArgumentParser(prog="python -m receiver", description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only; :: is IPv6 and IPv4)"
    )
    host = parser.parse_args().host.strip("[]")
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104  # no socket can have both here
    try:
        if not lacks_webhook_secret(settings()):
            webhook_secrets(settings())
        if settings().on_postgres:
            postgres.database_address()  # raises for faults in DATABASE_URL
        check_pages()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging()
    # By its name: each of WEB_CONCURRENCY's processes imports the application itself.
    config = uvicorn.Config(
        "receiver.__main__:application", factory=True, host=host, port=settings().port, **SERVER_OPTIONS
    )
    try:
        listener = config.bind_socket()  # a socket of the event loop's would take no IPv4 on `::`
    except SystemExit:  # its line in the log names neither
        sys.stderr.write(f"PORT {settings().port} cannot be listened on at {host}\n")
        raise
    listener.listen(config.backlog)
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        if config.workers > 1:
            _Supervisor(config, sockets=[listener]).run()
            return 0
        server.run(sockets=[listener])
    return 0 if server.started else _NOT_STARTED


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which by itself waits a minute for the first word of a process that has died."""

    def keep_subprocess_alive(self) -> None:
        """Closes our copies of the processes' ends of their pipes: then a process's death ends its pipe at once."""
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def application() -> Starlette:
    """The application of each of uvicorn's processes; each starts from nothing, and sets its own logs up."""
    configure_logging()
    has_rooms = bool(settings().api_tokens or settings().console_users) or not settings().why_no_links
    postgres.name_connections("web")
    keep_connections(_CONNECTIONS + has_rooms, beside=1, apart=has_rooms)
    return app


if __name__ == "__main__":
    sys.exit(main())
