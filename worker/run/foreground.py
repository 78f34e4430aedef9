"""`make run`: all processes in the foreground, with the embedded default for each setting that is not set."""

import re
import shlex
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from config.defaults import lacks_webhook_secret, webhook_secret_path, webhook_secrets
from config.settings import Settings, SettingsError, settings
from handlers.catalogue.check import check
from handlers.record.events import EVENT_TYPES
from handlers.tables.schema import migrate
from worker.run.broker import OwnRedis, redis_binary, start_redis
from worker.run.cli import signing_secret
from worker.run.processes import supervise

PROCFILE = Path(__file__).parents[2] / "Procfile"
PROCESSES = ("web", "worker", "clock")
PORT, STRIPE = (Settings.model_fields[name].default for name in ("port", "stripe_api_base"))


def run(host: str = "", *, listens: bool = False) -> int:
    """Runs the service. Web listens on `host`, or for this machine only; with `listens` the Stripe CLI forwards to it.

    Returns the exit code: 0 after Ctrl-C or SIGTERM, 2 for an unusable setting, else that of the process that died.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(settings(), host, listens)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _run(chosen: Settings, host: str, listens: bool) -> int:
    secret = signing_secret(_listen(chosen)) if listens else ""
    if not lacks_webhook_secret(chosen):
        webhook_secrets(chosen)
    check()
    _refuse_taken_port(chosen.port)
    migrate()
    server = None if chosen.redis_url else start_redis(chosen.var_dir)
    try:
        print(_report(chosen, _broker(chosen, server), listens), flush=True)
        commands = _commands(host) | ({"listen": _forward(chosen)} if listens else {})
        return supervise(commands, _variables(chosen, server, secret))
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
    # A platform sets PORT, by which its Procfile opens web to other machines; `PORT=… make run` does not open it.
    lines["web"] = re.sub(r"\$\{PORT.*\}", f"--host {shlex.quote(host)}" if host else "", lines["web"])
    return {name: lines[name] for name in PROCESSES}


def _listen(chosen: Settings) -> str:
    base = chosen.stripe_api_base
    other = "" if base == STRIPE else f" --api-base {shlex.quote(_without_credentials(base.get_secret_value()))}"
    return f"stripe listen{other}"


def _forward(chosen: Settings) -> str:
    return f"{_listen(chosen)} --events {','.join(EVENT_TYPES)} --forward-to {_endpoint(chosen)}"


def _endpoint(chosen: Settings) -> str:
    return f"http://127.0.0.1:{chosen.port}/webhooks/stripe"


def _variables(chosen: Settings, server: OwnRedis | None, secret: str) -> dict[str, str]:
    variables = {"PYTHONUNBUFFERED": "1"}
    if secret:
        theirs = [one.get_secret_value() for one in chosen.stripe_webhook_secret]
        variables["STRIPE_WEBHOOK_SECRET"] = ",".join((secret, *theirs))
    if server is not None:
        variables["REDIS_URL"] = server.url
    if chosen.log_format == "auto" and sys.stdout.isatty():
        variables["LOG_FORMAT"] = "console"  # the processes write to a pipe
    return variables


def _report(chosen: Settings, broker: str, listens: bool) -> str:
    lines = [
        f"endpoint  {_endpoint(chosen)}",
        f"database  {_database(chosen)}",
        f"broker    {broker}",
        f"secret    {'the one of the Stripe CLI, which forwards events' if listens else _secret(chosen)}",
        f"pages     {_pages(chosen)}",
    ]
    return "\n".join(lines if listens else (*lines, *_how_to_forward(chosen)))


def _how_to_forward(chosen: Settings) -> tuple[str, ...]:
    """The lines that say how to forward by hand: the CLI's own secret must be handed to the service."""
    if chosen.stripe_webhook_secret:
        why = f"in another terminal, if that is its secret: {_listen(chosen)} --print-secret"
        return (f"forward   {why}", _forward(chosen))
    port = "" if chosen.port == PORT else f"PORT={chosen.port} "
    return (
        "forward   make listen does all of it with the Stripe CLI. By hand, with its secret, in two terminals:",
        f'STRIPE_WEBHOOK_SECRET="$({_listen(chosen)} --print-secret)" {port}make run',
        _forward(chosen),
    )


def _pages(chosen: Settings) -> str:
    if why := chosen.why_no_links:
        return f"none: {why}"
    return f"{chosen.base_url}/verify/…, for whom a mail leads there, or what python -m worker link ID prints"


def _database(chosen: Settings) -> str:
    if chosen.embedded_database:
        return f"{chosen.embedded_file}, as DATABASE_URL is not set"
    return _without_credentials(chosen.database_url.get_secret_value())


def _broker(chosen: Settings, server: OwnRedis | None) -> str:
    if server is None:
        return _without_credentials(chosen.redis_url.get_secret_value())
    return f"{redis_binary()} on {urlsplit(server.url).path}, as REDIS_URL is not set"


def _secret(chosen: Settings) -> str:
    if lacks_webhook_secret(chosen):
        return "none, as STRIPE_WEBHOOK_SECRET is not set: every delivery gets 503"
    if chosen.stripe_webhook_secret:
        return f"{len(chosen.stripe_webhook_secret)} from STRIPE_WEBHOOK_SECRET"
    return f"{webhook_secrets(chosen)[0]} (generated, kept in {webhook_secret_path(chosen.var_dir)})"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
