"""PostgreSQL and Redis of our own, to be stopped, frozen, filled and cut off."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.services import descendants
from tests.support import postgres
from worker.run.broker import redis_binary

_FAST = "-c listen_addresses='' -c fsync=off -c max_connections=60"  # the processes die here, never the machine


class Postgres:
    """A throw-away cluster on a unix socket, whose server runs in an environment of its own."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # short: a unix socket's path is limited
        postgres._give_away(self.folder)
        control = [str(postgres._binary("pg_ctl")), "--pgdata", f"{self.folder}/data", "--silent"]
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        self._control = [*postgres._as_postgres(), "env", *variables, *control]
        initdb = "--auth=trust --username=postgres --no-sync --encoding=UTF8 --locale=C.UTF-8"
        postgres._call([*self._control, "initdb", "--options", initdb])
        self.url = f"postgresql://postgres@/postgres?host={self.folder}"
        self.start()

    def start(self) -> None:
        """Returns once it takes connections."""
        options = f"{_FAST} -c unix_socket_directories={self.folder}"
        postgres._call([*self._control, "-w", "-t", "120", "-l", f"{self.folder}/log", "-o", options, "start"])

    def stop(self) -> None:
        """As if the machine had died: connections end without a word, and the next start recovers."""
        postgres._call([*self._control, "-m", "immediate", "-w", "-t", "120", "stop"])

    def freeze(self, number: int = signal.SIGSTOP) -> None:
        """Nothing answers, and no connection ends."""
        postmaster = int(Path(f"{self.folder}/data/postmaster.pid").read_text().split()[0])
        for pid in (postmaster, *descendants(postmaster)):
            os.kill(pid, number)

    def thaw(self) -> None:
        """As if nothing had been."""
        self.freeze(signal.SIGCONT)

    def cut_connections(self) -> None:
        """Ends every other connection, in whatever it is doing."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def end(self) -> None:
        """Leaves nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis:
    """A server on a TCP port, without persistence: whenever it restarts, it is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns once it answers."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self.folder)}
        options |= {"logfile": str(self.folder / "redis.log"), "maxmemory-policy": "noeviction"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [str(redis_binary()), *words], stdin=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.client().ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("Redis did not start")

    def kill(self) -> None:
        """It and everything in it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """As if nothing had been."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def limit_memory(self, size: int) -> None:
        """Beyond it every write is refused; 0 lifts the limit."""
        self.client().config_set("maxmemory", size)

    def empty(self) -> None:
        """Everything in it is gone."""
        self.client().flushall()

    def client(self) -> redis.Redis:
        """A connection of our own."""
        return redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def end(self) -> None:
        """Leaves nothing."""
        self.thaw()
        self.kill()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
