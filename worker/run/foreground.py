"""`make run`: everything in the foreground, on what is set and on the embedded default for what is not."""

import re
import shlex
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from config.defaults import webhook_secret_path, webhook_secrets
from config.settings import Settings, SettingsError, settings
from handlers.catalogue.check import check
from handlers.record.events import EVENT_TYPES
from handlers.tables.schema import migrate
from worker.run.broker import RedisServer, redis_binary, start_redis
from worker.run.processes import supervise

PROCFILE = Path(__file__).parents[2] / "Procfile"
PROCESSES = ("web", "worker", "clock")


def run(host: str = "") -> int:
    """Web listens on this machine only, unless it is given an address.

    The exit code: 0 after Ctrl-C or SIGTERM, 2 for an unusable setting, else that of the process that died.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(settings(), host)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _run(chosen: Settings, host: str) -> int:
    webhook_secrets(chosen)
    check()
    _refuse_taken_port(chosen.port)
    migrate()
    server = None if chosen.redis_url else start_redis(chosen.var_dir)
    try:
        print(_report(chosen, _broker(chosen, server)), flush=True)
        return supervise(_commands(host), _variables(chosen, server))
    finally:
        if server is not None:
            server.stop()


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SettingsError(f"PORT {port} is taken by another program: stop that, or set PORT to a free one")


def _commands(host: str) -> dict[str, str]:
    lines = dict(re.findall(r"^(\w+): *(.+)$", PROCFILE.read_text(), re.MULTILINE))
    # Where the platform that starts the Procfile wants it opened, somebody's PORT=… make run does not.
    lines["web"] = re.sub(r"\$\{PORT.*\}", f"--host {shlex.quote(host)}" if host else "", lines["web"])
    return {name: lines[name] for name in PROCESSES}


def _variables(chosen: Settings, server: RedisServer | None) -> dict[str, str]:
    variables = {"PYTHONUNBUFFERED": "1"}
    if server is not None:
        variables["REDIS_URL"] = server.url
    if chosen.log_format == "auto" and sys.stdout.isatty():
        variables["LOG_FORMAT"] = "console"  # theirs is a pipe
    return variables


def _report(chosen: Settings, broker: str) -> str:
    url = f"http://127.0.0.1:{chosen.port}/webhooks/stripe"
    types = ",".join(EVENT_TYPES)
    return "\n".join(
        (
            f"endpoint  {url}",
            f"database  {_database(chosen)}",
            f"broker    {broker}",
            f"secret    {_secret(chosen)}",
            f"forward   stripe listen --events {types} --forward-to {url}",
        )
    )


def _database(chosen: Settings) -> str:
    if chosen.embedded_database:
        return f"{chosen.embedded_file}, as DATABASE_URL is not set"
    return _without_credentials(chosen.database_url.get_secret_value())


def _broker(chosen: Settings, server: RedisServer | None) -> str:
    if server is None:
        return _without_credentials(chosen.redis_url.get_secret_value())
    return f"{redis_binary()} on {urlsplit(server.url).path}, as REDIS_URL is not set"


def _secret(chosen: Settings) -> str:
    if chosen.stripe_webhook_secret:
        return f"{len(chosen.stripe_webhook_secret)} from STRIPE_WEBHOOK_SECRET"
    return f"{webhook_secrets(chosen)[0]} (generated, kept in {webhook_secret_path(chosen.var_dir)})"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
