"""A hundred thousand requests over real sockets to a real receiver, nearly all of them wrong in some way."""

import argparse
import json
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from config.settings import Settings
from tests.chaos.stores import free_port
from tests.fuzz import requests
from tests.fuzz.answers import fuzz_answers
from tests.fuzz.console import SETTINGS, fuzz_console
from tests.fuzz.pages import SETTINGS as OF_PAGES
from tests.fuzz.pages import fuzz_pages
from tests.fuzz.requests import SECRET, Request
from tests.support import shapes

CONNECTIONS = 4
PIPELINED = 3  # requests sent before the first answer is read, at most: no more are taken
SLOW = 12  # bodies that arrive byte by byte meanwhile
GROWTH = 64 * 1024  # KiB that a process may have grown by; each leaked body would be one to a thousand of them
PATIENCE = 120.0
ALLOWED = {200, 400, 404, 405, 408, 413, 431}
STRIPE = {"STRIPE_API_KEY": "sk_test_made_up_for_tests", "STRIPE_API_BASE": "http://127.0.0.1:1"}  # nothing is there
ALLOWED_OF_PAGES = ALLOWED | {303, 304, 403, 429}
_OF_PAGES = re.compile(rb"\w+ /(verify|return|assets)/")
_NOT_HTTP = b"content-length: 0\r\nconnection: close"  # of an answer by the connection itself
# The headers of every page.
_ALWAYS = (b"content-security-policy: default-src 'none'", b"referrer-policy: no-referrer", b"x-content-type-options")


class Findings:
    """The answers and the problems of all threads."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.problems: list[str] = []
        self.stored: set[str] = set()  # ids that were answered as accepted
        self.sent = 0
        self._lock = threading.Lock()

    def note(self, request: Request, status: int, body: bytes, head: bytes = _NOT_HTTP) -> None:
        """Notes one answer."""
        is_of_a_page = _OF_PAGES.match(request.raw) is not None
        with self._lock:
            self.answers[str(status)] += 1
            if status not in (ALLOWED_OF_PAGES if is_of_a_page else ALLOWED):
                self.problems.append(f"{status} to {request.raw[:300]!r}")
            if is_of_a_page and not head.endswith(_NOT_HTTP) and not all(line in head.lower() for line in _ALWAYS):
                self.problems.append(f"without headers of a page: {head[:300]!r} to {request.raw[:300]!r}")
            if status == 200 and b'"outcome"' in body:
                answer = orjson.loads(body)
                self.answers[f"200 {answer['outcome']}"] += 1
                if not request.signed:
                    self.problems.append(f"200 without a signature to {request.raw[:300]!r}")
                if answer["outcome"] == "accepted":
                    self.stored.add(answer["event"])

    def note_none(self) -> None:
        """Notes that the connection was closed instead."""
        with self._lock:
            self.answers["closed"] += 1

    def count(self, number: int) -> None:
        """Counts so many more requests."""
        with self._lock:
            self.sent += number


@dataclass(frozen=True, slots=True)
class Receiver:
    """A running `python -m receiver`."""

    port: int
    pid: int
    database: Path
    log: Path

    def memory(self) -> int:
        """The resident memory in KiB."""
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[0])

    def open_files(self) -> int:
        """The number of open files, with the sockets."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


class Connection:
    """A raw socket, opened again each time the receiver has closed it."""

    def __init__(self, port: int, findings: Findings) -> None:
        self._port = port
        self._findings = findings
        self._socket: socket.socket | None = None
        self._read = b""

    def exchange(self, batch: list[Request]) -> None:
        """Sends all requests, then reads all answers; a closed connection leaves the rest unanswered."""
        self._findings.count(len(batch))
        connection = self._open()
        sender = threading.Thread(target=_send, args=(connection, b"".join(one.raw for one in batch)))
        sender.start()
        for place, request in enumerate(batch):
            try:
                self._findings.note(request, *self._answer(connection))
            except OSError:
                for _ in batch[place:]:
                    self._findings.note_none()
                self.close()
                break
        sender.join()

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        if self._socket:
            self._socket.close()
        self._socket, self._read = None, b""

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _answer(self, connection: socket.socket) -> tuple[int, bytes, bytes]:
        while b"\r\n\r\n" not in self._read:
            self._receive(connection)
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        length = int((re.findall(rb"(?i)content-length: *(\d+)", head) or [b"0"])[0])
        while len(self._read) < length:
            self._receive(connection)
        body, self._read = self._read[:length], self._read[length:]
        return int(head[9:12]), body, head

    def _receive(self, connection: socket.socket) -> None:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        self._read += piece


def main() -> int:
    """Runs the fuzz: 0 if no answer was a 5xx, and nothing was stored or kept that should not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many (default: 100000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    with receiver() as running:
        findings, figures = fuzz(running, options.requests, options.seed)
    figures["requests to the console"] = options.requests // 50
    with receiver(**SETTINGS) as running:
        findings.problems += fuzz_console(running.port, options.requests // 50, options.seed) + tracebacks(running)
    figures["requests to the pages"] = of_pages = max(options.requests // 50, 300)
    with receiver(**OF_PAGES) as running:
        problems = fuzz_pages(running.port, running.database, of_pages, options.seed)
        findings.problems += problems + tracebacks(running)
    figures["answers of Stripe's"] = options.requests // 100
    findings.problems += fuzz_answers(options.requests // 100, options.seed)
    for name, figure in figures.items():
        print(f"{name:28} {figure}")
    print(f"{'seconds':28} {time.monotonic() - started:.0f}")
    for problem in findings.problems[:20]:
        print(problem)
    return 1 if findings.problems else 0


def fuzz(running: Receiver, number: int, seed_: int) -> tuple[Findings, dict[str, object]]:
    """Sends so many requests. Returns the findings, and the figures."""
    findings = Findings()
    _pipeline(running, findings, max(number // 20, 200), seed_ - 1)  # caches fill once
    before, files = running.memory(), running.open_files()
    with ThreadPoolExecutor(SLOW) as pool:
        slow = [pool.submit(_drip, running, findings, place) for place in range(SLOW)]
        _invent(running, findings, number // 40, seed_)
        _break_frames(running, findings, max(number // 40, len(requests.FRAMES) * 2), seed_)
        _pipeline(running, findings, number - findings.sent, seed_)
        for one in slow:
            one.result()
    _ask_afterwards(running, findings)
    rows = _judge_rows(running, findings)
    after, files_after = _settled_memory(running), running.open_files()
    if after - before > GROWTH:
        findings.problems.append(f"grew from {before} to {after} KiB")
    if files_after > files + 20:
        findings.problems.append(f"{files} open files became {files_after}")
    findings.problems += tracebacks(running)
    return findings, {
        "requests": findings.sent,
        **{f"  {answer}": count for answer, count in sorted(findings.answers.items())},
        "5xx": sum(count for answer, count in findings.answers.items() if answer.startswith("5")),
        "rows": rows,
        "rows that should not be": sum(problem.startswith("row") for problem in findings.problems),
        "memory before and after": f"{before / 1024:.0f} and {after / 1024:.0f} MiB",
        "open files before and after": f"{files} and {files_after}",
        "problems": len(findings.problems),
    }


@contextmanager
def receiver(**variables: str) -> Iterator[Receiver]:
    """The real process without a broker, on an SQLite file of its own, unless the settings name another database."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp") as name:
        folder, port = Path(name), free_port()
        ours = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {"VAR_DIR": name, "PORT": str(port), "STRIPE_WEBHOOK_SECRET": SECRET, "LOG_FORMAT": "json"}
        environment |= {"LOG_LEVEL": "warning", "LINK_KEYS": "k" * 40, **STRIPE} | variables
        subprocess.run([sys.executable, "-m", "worker", "migrate"], env=environment, check=True, capture_output=True)
        with (folder / "receiver.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "receiver"], env=environment, stdout=log, stderr=log)
        try:
            _wait_for(port)
            yield Receiver(port, process.pid, folder / "identity.db", folder / "receiver.log")
            assert process.poll() is None, "the receiver ended"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _pipeline(running: Receiver, findings: Findings, number: int, seed_: int) -> None:
    """Sends well-framed requests, many at once on a few connections."""

    def send(lane: int) -> None:
        dice = random.Random(seed_ * 100 + lane)
        connection, left = Connection(running.port, findings), number // CONNECTIONS
        while left > 0:
            size = min(left, dice.randint(1, PIPELINED))
            kind = requests.faultless if dice.random() < 0.02 else requests.well_framed
            batch = [kind(dice, f"evt_{seed_}_{lane}_{left - place}") for place in range(size)]
            connection.exchange([requests.of_a_page(dice) if dice.random() < 0.05 else one for one in batch])
            left -= size
        connection.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, range(CONNECTIONS)))


def _break_frames(running: Receiver, findings: Findings, number: int, seed_: int) -> None:
    """Sends requests that spoil their connection, each on one of its own, and ends these in different ways."""
    dice = random.Random(seed_)
    for place in range(number):
        request = requests.ill_framed(dice, f"evt_frame_{seed_}_{place}")
        findings.count(1)
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as connection:
            with suppress(OSError):
                connection.sendall(request.raw)
                if dice.random() < 0.3:
                    findings.note_none()
                    continue  # closed without a word
                connection.shutdown(socket.SHUT_WR)
            answer = _read_all(connection)
        if match := re.match(rb"HTTP/1.1 (\d{3})", answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")):
            findings.note(request, int(match[1]), answer.rpartition(b"\r\n\r\n")[2])
        else:
            findings.note_none()


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["id", "object", "type", "data", "created", "livemode", "status", "last_error", "metadata"])
    return st.dictionaries(names | st.text(max_size=5), inner, max_size=8)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | _objects(inner)
)


def _invent(running: Receiver, findings: Findings, number: int, seed_: int) -> None:
    """Sends Hypothesis's inventions: any JSON and any bytes, correctly signed and not."""
    connection = Connection(running.port, findings)

    @seed(seed_)
    @settings(max_examples=max(number, 10), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        body=_JSON.map(lambda value: json.dumps(value).encode()) | _objects(_JSON).map(_as_event) | st.binary(),
        header=st.none() | st.binary().map(lambda text: re.sub(rb"[\0\r\n]", b"", text)),
    )
    def invent(body: bytes, header: bytes | None) -> None:
        sign = shapes.signature(body, SECRET).encode() if header is None else header
        raw = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: %s\r\nContent-Length: %d\r\n\r\n%s"
        connection.exchange([Request(raw % (sign, len(body), body), signed=header is None)])

    invent()
    connection.close()


def _as_event(values: dict[str, Any]) -> bytes:
    session = {"object": "identity.verification_session", "id": "vs_1", "status": "verified"} | values
    event = {"object": "event", "id": "evt_1", "type": "identity.verification_session.verified", "livemode": False}
    return json.dumps(event | {"created": 1, "data": {"object": session}} | values).encode()


def _drip(running: Receiver, findings: Findings, place: int) -> None:
    """Sends a body byte by byte, for longer than the receiver waits."""
    dice = random.Random(place)
    request = requests.faultless(dice, f"evt_slow_{place}")
    head, _, body = request.raw.partition(b"\r\n\r\n")
    findings.count(1)
    with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as connection, suppress(OSError):
        connection.sendall(head + b"\r\n\r\n")
        for byte in body[:13]:
            connection.sendall(bytes([byte]))
            time.sleep(1.0)
        findings.note(request, int(connection.recv(65536)[9:12]), b"")
        return
    findings.note_none()


def _ask_afterwards(running: Receiver, findings: Findings) -> None:
    connection = Connection(running.port, findings)
    for place in range(5):
        connection.exchange([requests.faultless(random.Random(place), f"evt_afterwards_{place}")])
    connection.close()
    missing = {f"evt_afterwards_{place}" for place in range(5)} - findings.stored
    findings.problems += [f"{event_id} was not accepted afterwards" for event_id in missing]


def _judge_rows(running: Receiver, findings: Findings) -> int:
    with sqlite3.connect(running.database) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM inbox_event").fetchall()
        made = database.execute("SELECT count(*) FROM verification").fetchone()[0]
        findings.problems += [f"row: {made} verifications"] * bool(made)
    database.close()
    ids = {row["id"] for row in rows}
    findings.problems += [f"lost: {event_id}" for event_id in sorted(findings.stored - ids)]
    # A signed event whose connection we broke may have been stored, and its answer lost.
    unanswered = {event_id for event_id in ids - findings.stored if not event_id.startswith("evt_frame_")}
    closed = findings.answers["closed"]
    if len(unanswered) > closed:
        findings.problems.append(f"row: {len(unanswered)} without an answer, and {closed} connections closed")
    for row in rows:
        texts = [value for value in tuple(row) if isinstance(value, str)]
        if not re.fullmatch(r"\w{1,255}", row["id"] + row["session_id"][:1], re.ASCII) or any(
            "\0" in text or len(text) > 5000 for text in texts
        ):
            findings.problems.append(f"row: {tuple(row)!r:.300}")
    return len(rows)


def _settled_memory(running: Receiver) -> int:
    time.sleep(1.0)
    return running.memory()


def tracebacks(running: Receiver) -> list[str]:
    """The lines of the receiver's log about errors that nobody meant."""
    lines = running.log.read_text(errors="replace").splitlines()
    return [line[:500] for line in lines if '"level": "error"' in line or "Traceback" in line or "exception" in line][
        :5
    ]


def _send(connection: socket.socket, raw: bytes) -> None:
    with suppress(OSError):  # closed in the middle; the reader finds out, too
        connection.sendall(raw)


def _read_all(connection: socket.socket) -> bytes:
    pieces = []
    with suppress(OSError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the receiver did not start")


if __name__ == "__main__":
    sys.exit(main())
