"""Hosts with addresses of their own, and a router between them that loses the packets that it is told to lose.

All of it is in namespaces that end with their first process: nothing of the machine's network is touched, and no
trace is left, however the run ends.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from threading import Lock

from tests.chaos.services import ROOT
from tests.hosts import wire
from tests.hosts.wire import Trouble

_ROUTER, _ROUTERS_ADDRESS = "router", "10.99.0.254"
_BAD_WIRE = 100  # the routing table for the bad piece of wire
_APART = ("--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")
_NEEDED = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "pgbouncer": "pgbouncer"}
# Ours alone inside: the files of a killed run vanish with it. A shell takes in orphans.
FOLDER = "/run/hosts"
_INSIDE = f"""
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev/shm && mkdir /run/netns {FOLDER} && ip link set lo up || exit 1
timeout --signal=KILL "$0" "$@"
exit $?
"""


def why_not() -> str:
    """The reason why there can be no hosts here, or ""."""
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            return f"{program} is not on this machine (Debian: apt-get install {package})"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no /dev/net/tun"
    tried = subprocess.run(
        ["unshare", *_APART, "sh", "-c", "mount -t tmpfs tmpfs /run && ip netns add x"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip().replace("\n", "; ")


def go_inside(command: Sequence[str], seconds: float) -> None:
    """Makes this process the command in namespaces of its own, which all end with it, or after so many seconds."""
    apart = ["unshare", *_APART, "sh", "-c", _INSIDE, f"{seconds:.0f}", *command]
    os.execvp(apart[0], apart)  # noqa: S606  # this process becomes the command, which so ends with it


class Network:
    """Each of `hosts` is a namespace; those of `here` are further addresses of this process."""

    def __init__(self, hosts: Sequence[str], here: Sequence[str]) -> None:
        self.addresses = {name: f"10.99.0.{number}" for number, name in enumerate((*hosts, *here), 1)}
        self._numbers, self._lock = count(1000), Lock()
        _ip("netns", "add", _ROUTER)
        _ip("-netns", _ROUTER, "address", "add", _ROUTERS_ADDRESS, "dev", "lo")
        _ip("-netns", _ROUTER, "link", "set", "lo", "up")
        for name in hosts:
            _ip("netns", "add", name)
            self._join(f"to_{name}", [name], "-netns", name)
        self._join("to_here", here)
        _call([*_on(_ROUTER), "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        _ip("-netns", _ROUTER, "tuntap", "add", "dev", wire.DEVICE, "mode", "tun")
        _ip("-netns", _ROUTER, "link", "set", wire.DEVICE, "up")
        _ip("-netns", _ROUTER, "route", "add", "default", "dev", wire.DEVICE, "table", str(_BAD_WIRE))
        self._rule("10", "iif", wire.DEVICE, "lookup", "main")
        self._wire = subprocess.Popen(
            [*_on(_ROUTER), sys.executable, "-m", "tests.hosts.wire"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline() == "ready\n"

    def on(self, host: str) -> list[str]:
        """The words before a command that runs on this host."""
        return [*_on(host), "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host]

    def carried(self) -> dict[str, int]:
        """The bytes that each host has sent and was sent so far."""
        shown = subprocess.run(
            ["ip", "-netns", _ROUTER, "-stats", "-json", "link"], check=True, capture_output=True, text=True
        )
        return {
            link["ifname"].removeprefix("to_"): link["stats64"]["rx"]["bytes"] + link["stats64"]["tx"]["bytes"]
            for link in json.loads(shown.stdout)
        }

    @contextmanager
    def cut(self, *pairs: tuple[str, str]) -> Iterator[None]:
        """Drops all packets from the one host to the other; nobody is told."""
        with ExitStack() as stack:
            for sender, receiver in pairs:
                stack.enter_context(
                    self._routed(["from", self.addresses[sender], "to", self.addresses[receiver]], "blackhole")
                )
            yield

    @contextmanager
    def unplugged(self, host: str) -> Iterator[None]:
        """Drops all packets from this host and to it."""
        address = self.addresses[host]
        with self._routed(["from", address], "blackhole"), self._routed(["to", address], "blackhole"):
            yield

    @contextmanager
    def disturbed(self, trouble: Trouble, *pairs: tuple[str, str]) -> Iterator[None]:
        """Sends all packets from the one host to the other over the bad piece of wire."""
        with ExitStack() as stack:
            for pair in pairs:
                sender, receiver = (self.addresses[name] for name in pair)
                self._tell(sender, receiver, trouble.delay, trouble.jitter, trouble.loss)
                stack.callback(self._tell, sender, receiver)
                stack.enter_context(self._routed(["from", sender, "to", receiver], "lookup", str(_BAD_WIRE)))
            yield

    def _join(self, link: str, names: Sequence[str], *there: str) -> None:
        _ip(
            "-netns",
            _ROUTER,
            "link",
            "add",
            link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            *(there[1:] or [str(os.getpid())]),
        )
        for name in names:
            _ip(*there, "address", "add", self.addresses[name], "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip(*there, "link", "set", device, "up")
        _ip("-netns", _ROUTER, "link", "set", link, "up")
        for name in names:
            _ip("-netns", _ROUTER, "route", "add", self.addresses[name], "dev", link)
        _ip(*there, "route", "add", _ROUTERS_ADDRESS, "dev", "eth0")
        _ip(*there, "route", "add", "default", "via", _ROUTERS_ADDRESS, "src", self.addresses[names[0]])

    @contextmanager
    def _routed(self, packets: Sequence[str], *way: str) -> Iterator[None]:
        number = str(next(self._numbers))
        self._rule(number, *packets, *way)
        try:
            yield
        finally:
            _ip("-netns", _ROUTER, "rule", "delete", "pref", number)

    def _rule(self, number: str, *words: str) -> None:
        _ip("-netns", _ROUTER, "rule", "add", "pref", number, *words)

    def _tell(self, *words: object) -> None:
        assert self._wire.stdin is not None
        with self._lock:
            self._wire.stdin.write(" ".join(map(str, words)) + "\n")
            self._wire.stdin.flush()


def _on(host: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{host}"]


def _ip(*words: str) -> None:
    _call(["ip", *words])


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
