"""The pooler between the service and PostgreSQL, and Redis as a pair that a Sentinel watches; each on a host."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import redis

from tests.chaos.services import wait_until
from tests.chaos.stores import Postgres
from tests.hosts.network import Network
from tests.support import postgres
from tests.support.redises import OtherRedis

MASTER = "identity"
REDIS_PORT, SENTINEL_PORT, POOLER_PORT = 6379, 26379, 6432
_TAKES_OVER_WITHIN = 30.0  # seconds
# The settings with which silence is noticed: by default each is off, or hours.
_POOLER = """
[databases]
* = host={host} port=5432 user=postgres
[pgbouncer]
listen_addr = {address}
listen_port = {port}
unix_socket_dir =
logfile = {folder}/pgbouncer.log
auth_type = any
pool_mode = transaction
default_pool_size = 12
server_connect_timeout = 3
server_login_retry = 1
query_wait_timeout = 20
server_fast_close = 1
tcp_keepalive = 1
tcp_keepidle = 5
tcp_keepintvl = 2
tcp_keepcnt = 3
tcp_user_timeout = 10000
"""


class Pooler:
    """A PgBouncer in its transaction mode, which leads to the primary."""

    def __init__(self, network: Network, host: str, cluster: Postgres) -> None:
        self.address = network.addresses[host]
        self.url = f"postgresql://postgres@{self.address}:{POOLER_PORT}/postgres"
        self._folder = Path(cluster.folder, host)
        self._folder.mkdir()
        postgres._give_away(str(self._folder))
        self._command = [*network.on(host), *postgres._as_postgres(), "pgbouncer", "--quiet", str(self._folder / "ini")]
        self._process: subprocess.Popen[bytes] | None = None
        self.lead_to(cluster.address)
        self.start()

    def lead_to(self, address: str) -> None:
        """Leads to another primary from now on; a transaction that is open stays at the old one, to its end."""
        words = {"host": address, "address": self.address, "port": POOLER_PORT, "folder": self._folder}
        (self._folder / "ini").write_text(_POOLER.format(**words))
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGHUP)

    def start(self) -> None:
        """Starts it without waiting: its clients try again."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        """Kills it, as when its host is switched off."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Watched:
    """A master, its replica, and the Sentinel that lets the replica take over."""

    def __init__(self, network: Network, pair: tuple[str, str], watcher: str, folder: Path) -> None:
        def server(host: str, port: int, **options: str) -> OtherRedis:
            options = {"protected-mode": "no", "appendonly": "no", **options}
            server = OtherRedis(folder / host, options, port, network.addresses[host], network.on(host))
            server.start()
            return server

        master, replica = pair
        replicas_master = f"{network.addresses[master]} {REDIS_PORT}"
        self.servers = {
            master: server(master, REDIS_PORT),
            replica: server(replica, REDIS_PORT, replicaof=replicas_master),
        }
        watch = (
            f"monitor {MASTER} {replicas_master} 1",
            f"down-after-milliseconds {MASTER} 1500",
            f"failover-timeout {MASTER} 5000",
        )
        self.sentinel = server(watcher, SENTINEL_PORT, sentinel="\nsentinel ".join(watch))
        self.url = f"sentinel://{self.sentinel.host}:{SENTINEL_PORT}/{MASTER}"
        self._by_address = {one.host: host for host, one in self.servers.items()}
        wait_until(lambda: self._replicas() == 1, _TAKES_OVER_WITHIN)

    def master(self) -> str:
        """The host of the master, by the Sentinel's word."""
        with self.sentinel.client() as client:
            return self._by_address[client.sentinel_get_master_addr_by_name(MASTER)[0]]

    def fails_over(self, was: str) -> bool:
        """Waits until another host's server is the master."""
        return wait_until(lambda: self._has_another(was), _TAKES_OVER_WITHIN)

    def _has_another(self, was: str) -> bool:
        with suppress(redis.RedisError):
            return self.master() != was
        return False

    def _replicas(self) -> int:
        with self.sentinel.client() as client:
            return int(client.sentinel_master(MASTER)["num-slaves"])
