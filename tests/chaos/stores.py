"""PostgreSQL and Redis of our own, to be stopped, frozen, filled and cut off."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.clocks import DatabaseClock
from tests.chaos.services import command_of, descendants
from tests.support import postgres
from worker.run.broker import redis_binary

_FAST = "-c fsync=off -c max_connections=60"  # the processes die here, never the machine
# A standby notices a silent primary soon, and a primary a silent standby.
_STANDBY = "-c wal_receiver_timeout=5s -c wal_sender_timeout=5s -c wal_retrieve_retry_interval=1s"


@dataclass(frozen=True, slots=True)
class Loss:
    """Commits after `since` may be lost: the database was replaced from `began` until `over`; unix times."""

    since: float
    began: float
    over: float


@dataclass(frozen=True, slots=True)
class Place:
    """The machine of a server: the beginning of a command there, and its address; its unix socket is here anyway."""

    on: Sequence[str] = ()
    address: str = ""


class Postgres:
    """A throw-away cluster on a unix socket, whose server runs in an environment of its own.

    With a standby, "sync" or "async", there are two servers, of which either may be the primary.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        standby: str = "",
        places: tuple[Place, Place] = (Place(), Place()),
        *,
        under: str = "/tmp",
        clock_steps: bool = False,
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="pg-", dir=under)  # short: a unix socket's path is limited
        self.clock = DatabaseClock(Path(self.folder) / "clock") if clock_steps else None
        variables = self.clock.environment if self.clock else environment or {}
        self._variables = [f"{name}={value}" for name, value in variables.items()]
        self._standby = standby
        self._primary, self._other = f"{self.folder}/a", f"{self.folder}/b"
        for home in (self._primary, self._other):
            Path(home).mkdir()
            postgres._give_away(home)
        postgres._give_away(self.folder)
        self._places = dict(zip((self._primary, self._other), places, strict=True))
        initdb = "--auth=trust --username=postgres --no-sync --encoding=UTF8 --locale=C.UTF-8"
        self._control("initdb", "--options", initdb)
        with Path(f"{self._primary}/data/pg_hba.conf").open("a") as trusted:
            trusted.write("".join(f"host {what} all all trust\n" for what in ("all", "replication")))
        self.url = f"postgresql://postgres@/postgres?host={self._primary}"
        self.start()
        if standby:
            self.url = f"{self.url},{self._other}&target_session_attrs=read-write"
            self._follow()

    def postmaster(self) -> int:
        """The pid of the primary's first process."""
        return self._postmaster(self._primary)

    def start(self) -> None:
        """Starts the server; returns once it takes connections."""
        self._start(self._primary)

    def stop(self) -> None:
        """Stops it as if its machine had died: connections end without a word, and the next start recovers."""
        self._control("-m", "immediate", "-w", "-t", "120", "stop")

    def freeze(self, number: int = signal.SIGSTOP) -> None:
        """Freezes the server: nothing answers, and no connection ends."""
        postmaster = self.postmaster()
        for pid in (postmaster, *descendants(postmaster)):
            with suppress(ProcessLookupError):  # a backend whose connection has just ended
                os.kill(pid, number)

    def thaw(self) -> None:
        """Lets the frozen server go on."""
        self.freeze(signal.SIGCONT)

    def end_frozen(self) -> None:
        """Kills the former primary where it was frozen; it does nothing that was sent to it meanwhile."""
        postmaster = self._postmaster(self._other)
        for pid in (*descendants(postmaster), postmaster):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut_connections(self) -> None:
        """Ends every other connection, whatever it is doing."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def fail_over(self, lags: float) -> None:
        """Lets the primary's machine die: its standby takes over, and a new one follows it.

        An asynchronous standby has not heard the last seconds.
        """
        deaf = [pid for pid in descendants(self._postmaster(self._other)) if "walreceiver" in command_of(pid)]
        if self.is_synchronous:
            deaf = []
        for pid in deaf:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(lags)
        self.stop()
        for pid in deaf:  # it never reads the bytes that have reached its socket
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
        self.promote()
        self.rebuild()

    @property
    def is_synchronous(self) -> bool:
        """Whether each commit waits for the standby."""
        return self._standby == "sync"

    def note_loss(self, losses: list[Loss], began: float, seconds: float) -> None:
        """Notes the commits that a standby which took over since `began` may lack: none if each commit waits for it."""
        if not self.is_synchronous:
            losses.append(Loss(began - seconds, began, time.time()))

    @property
    def address(self) -> str:
        """The address of the primary's machine."""
        return self._places[self._primary].address

    def promote(self) -> None:
        """Makes the standby the primary, whatever the old primary does."""
        self._primary, self._other = self._other, self._primary
        self._control("-w", "-t", "120", "promote")

    def rebuild(self) -> None:
        """Makes the other server, which has stopped, the standby of the primary."""
        shutil.rmtree(f"{self._other}/data")
        self._follow()

    def stop_other(self) -> None:
        """Stops the other server, the former primary or the standby, as if its machine had died."""
        self._control("-m", "immediate", "-w", "-t", "120", "stop", home=self._other)

    def back_up(self) -> None:
        """Makes a base backup of this moment; raises CalledProcessError if the server is away or goes away."""
        shutil.rmtree(f"{self.folder}/backup", ignore_errors=True)
        self._copy(self._primary, f"{self.folder}/backup")

    def put_back(self) -> None:
        """Puts the backup back: all later commits are gone."""
        self.stop()
        shutil.rmtree(f"{self._primary}/data")
        Path(f"{self.folder}/backup").rename(f"{self._primary}/data")
        self.start()

    def end(self) -> None:
        """Stops all servers and removes their files."""
        if self._standby:
            self.stop_other()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _follow(self) -> None:
        source = self._copy(self._primary, f"{self._other}/data", "--write-recovery-conf")
        self._start(self._other)
        if self.is_synchronous:
            with psycopg.connect(f"{source} dbname=postgres", autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
                connection.execute("SELECT pg_reload_conf()")

    def _copy(self, home: str, to: str, *options: str) -> str:
        """Copies a server's files; returns the connection that it copied from."""
        source = f"host={home} user=postgres application_name=standby"
        copy = [str(postgres._binary("pg_basebackup")), "--checkpoint=fast", "--no-sync", *options]
        postgres._call([*postgres._as_postgres(), *copy, "--dbname", source, "--pgdata", to])
        return source

    def _start(self, home: str) -> None:
        here, there = self._places[home], self._places[self._other if home == self._primary else self._primary]
        options = f"{_FAST} -c unix_socket_directories={home} -c listen_addresses='{here.address}'"
        if there.address:
            source = f"host={there.address} user=postgres application_name=standby connect_timeout=2"
            options = f"{options} {_STANDBY} -c primary_conninfo='{source}'"
        words = ["-w", "-t", "120", "-l", f"{home}/log", "-o", options, "start"]
        with self.clock.standing_still if self.clock else nullcontext():
            self._control(*words, home=home)

    def _postmaster(self, home: str) -> int:
        return int(Path(f"{home}/data/postmaster.pid").read_text().split()[0])

    def _control(self, *words: str, home: str = "") -> None:
        control = [str(postgres._binary("pg_ctl")), "--pgdata", f"{home or self._primary}/data", "--silent"]
        begin = [*self._places[home or self._primary].on, *postgres._as_postgres(), "env", *self._variables]
        postgres._call([*begin, *control, *words])


class Redis:
    """A server on a TCP port, without persistence: after each start it is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the server; returns once it answers."""
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
        """Kills the server, with everything in it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Freezes the server: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def limit_memory(self, size: int) -> None:
        """Makes it refuse every write beyond so many bytes; 0 lifts the limit."""
        self.client().config_set("maxmemory", size)

    def empty(self) -> None:
        """Deletes everything in it."""
        self.client().flushall()

    def client(self) -> redis.Redis:
        """A connection of our own."""
        return redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def end(self) -> None:
        """Ends the server."""
        self.thaw()
        self.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
