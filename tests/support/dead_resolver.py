"""Calls each outside service by a name that nobody knows, while the name server takes each question and tells nothing.

python -m tests.support.dead_resolver, in a network of its own, whose resolver would wait for minutes; see `tried`.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from config import broker
from config.database import statement
from handlers.outbox import application
from handlers.outbox.smtp import check_smtp
from handlers.queue.failures import describe
from handlers.stripe_api import account
from receiver.pages import assets
from receiver.webhooks import storage
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE

SERVERS = ("silent", "silent over TCP")
_SERVER = ("127.0.0.1", 53)
_PATIENT = f"nameserver {_SERVER[0]}\noptions timeout:30 attempts:5\n"
_APART = ("unshare", "--map-root-user", "--net", "--mount")
_WITH_RESOLVER = ("sh", "-c", 'mount --bind "$0" "$(realpath /etc/resolv.conf)" && exec "$@"')
_NOWHERE = {
    "DATABASE_URL": "postgresql://ours@database.example/ours",
    "REDIS_URL": "redis://broker.example",
    "SMTP_URL": "smtp://mail.example:25",
    "STRIPE_API_KEY": "sk_test_nowhere00000000",
    "STRIPE_API_BASE": "https://stripe.example",
    "APP_CALLBACK_URL": "https://application.example/changes",
    "APP_CALLBACK_SECRET": "whsec_" + "b3Vycw" * 8,
}
_SET_FLAGS, _UP = 0x8914, 0x41  # of a network interface, by ioctl
_ASK_BY_TCP = b"\x83\x80"  # an answer's flags: it is cut short


def can_stand_apart() -> bool:
    """Whether this machine lets us have a network and mounts of our own."""
    try:
        return subprocess.run([*_APART, "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def tried(folder: Path, server: str) -> dict[str, Any]:
    """The result of each call by its service's name. Raises TimeoutExpired if one of them goes on waiting."""
    resolver = folder / "resolv.conf"
    resolver.write_text(_PATIENT)
    command = [*_APART, *_WITH_RESOLVER, str(resolver), sys.executable, "-m", __name__, server]
    environment = {**os.environ, **_NOWHERE, "VAR_DIR": str(folder)}
    environment.pop("RES_OPTIONS", None)
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, timeout=PATIENCE, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Makes all calls at once, each in a thread of its own, and prints their results."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as silent,
        ThreadPoolExecutor(len(_ASKS)) as threads,
    ):
        fcntl.ioctl(asked, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))
        asked.bind(_SERVER)
        silent.bind(_SERVER)
        silent.listen()  # the kernel takes the connections, and nobody reads from them
        if sys.argv[1] == "silent over TCP":
            threading.Thread(target=_ask_by_tcp, args=(asked,), daemon=True).start()
        answers = list(threads.map(_answer, _ASKS.values()))
    sys.stdout.write(json.dumps(dict(zip(_ASKS, answers, strict=True))))


def _ask_by_tcp(asked: socket.socket) -> None:
    with suppress(OSError):
        while True:
            question, sender = asked.recvfrom(4096)
            asked.sendto(question[:2] + _ASK_BY_TCP + question[4:], sender)


def _answer(ask: Callable[[], object]) -> str | None:
    try:
        said = ask()
    except Exception as error:
        return describe(error)
    return None if said is None else str(said)


_ASKS: dict[str, Callable[[], object]] = {
    "Stripe": account.stripe_now,
    "the mail server": check_smtp,
    "the application": lambda: application.line().call("POST", _NOWHERE["APP_CALLBACK_URL"], {}, b"", most=1),
    "the logo": lambda: assets.fetched("https://logo.example/logo.png"),
    "Redis": broker.trouble_now,
    "PostgreSQL": lambda: statement().__enter__(),
    "PostgreSQL, from web's event loop": lambda: uvloop.run(storage.storage().open()),
}

if __name__ == "__main__":
    main()
