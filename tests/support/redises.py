"""Redis servers like those of other hosts: with passwords, by TLS, as a pair under a Sentinel, in cluster mode."""

import contextlib
import select
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.chaos.stores import free_port
from tests.support.waiting import wait_until
from worker.run.broker import redis_binary

PASSWORD = "p@ss/word"
SENTINEL_PASSWORD = "anöther:one"
MASTER = "my-master"


@dataclass
class OtherRedis:
    """One server on a port of its own, which may be killed and started again."""

    folder: Path
    options: dict[str, str]
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    on: Sequence[str] = ()  # the beginning of its command, for another machine
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        if not config.exists():  # a Sentinel and the servers that it changes rewrite theirs
            plain = {"port": str(self.port), "bind": self.host, "dir": str(self.folder), "save": '""'}
            config.write_text("".join(f"{name} {value}\n" for name, value in (plain | self.options).items()))
        command = [*self.on, str(redis_binary()), str(config), *(["--sentinel"] if "sentinel" in self.options else [])]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, lambda: (self.folder / "redis.log").read_text())

    def client(self) -> redis.Redis:
        """A client that is logged in."""
        password = (self.options.get("requirepass") or "").strip('"') or None
        return redis.Redis(self.host, self.port, password=password, decode_responses=True, socket_timeout=5)

    def stop(self) -> None:
        """Kills the server, as when its machine is switched off."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


@contextlib.contextmanager
def other_redis(folder: Path, **options: str) -> Iterator[OtherRedis]:
    """A server with these options; an underscore stands for a dash."""
    server = OtherRedis(folder, {name.replace("_", "-"): value for name, value in options.items()})
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS alone, in front of a server without TLS: not every Redis is built with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Door(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),  # a client that does not trust us, or is gone
                context.wrap_socket(self.request, server_side=True) as outside,
                socket.create_connection(("127.0.0.1", port)) as inside,
            ):
                while True:
                    ready = [outside] if outside.pending() else select.select([outside, inside], [], [])[0]
                    for near in ready:
                        if not (some := near.recv(65536)):
                            return
                        (inside if near is outside else outside).sendall(some)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Door) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@contextlib.contextmanager
def watched_pair(folder: Path) -> Iterator[tuple[OtherRedis, OtherRedis, str]]:
    """A master, its replica, and the REDIS_URL of the Sentinel that watches both; passwords everywhere."""
    login = {"requirepass": f'"{PASSWORD}"', "masterauth": f'"{PASSWORD}"'}
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(other_redis(folder / "master", **login))
        replica = stack.enter_context(other_redis(folder / "replica", replicaof=f"127.0.0.1 {master.port}", **login))
        with replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        watch = {
            "requirepass": f'"{SENTINEL_PASSWORD}"',
            "sentinel": "\nsentinel ".join(
                (
                    f"monitor {MASTER} 127.0.0.1 {master.port} 1",
                    f'auth-pass {MASTER} "{PASSWORD}"',
                    f"down-after-milliseconds {MASTER} 500",
                    f"failover-timeout {MASTER} 2000",
                )
            ),
        }
        sentinel = stack.enter_context(other_redis(folder / "sentinel", **watch))
        with sentinel.client() as client:
            wait_until(lambda: client.sentinel_master(MASTER)["num-slaves"] == 1)
        nobody = f"127.0.0.1:{free_port()}"
        words = "db=2&sentinel_password=an%C3%B6ther:one"
        yield master, replica, f"sentinel://:p%40ss%2Fword@{nobody},127.0.0.1:{sentinel.port}/{MASTER}?{words}"
