"""Signed, distinct deliveries, and wrk that posts them."""

import hmac
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.support import shapes

SECRET = "whsec_bench_0123456789"
PATH = "/webhooks/stripe"
STORY = ("created", "processing", "verified")  # the three events of each session: one action owed
_SCRIPT = Path(__file__).with_name("events.lua")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """wrk's result: times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def deliveries(tag: str, count: int, path: str = PATH, story: tuple[str, ...] = STORY) -> Iterator[tuple[str, bytes]]:
    """Event ids, and the whole requests that deliver them; of the size and the form of Stripe's."""
    now = int(time.time())
    templates = [_template(kind, now - len(story) + place) for place, kind in enumerate(story)]
    for number in range(count):
        session, place = divmod(number, len(story))
        event_id = f"evt_1{tag}{number:08d}"
        body = templates[place].replace("EVENT", event_id).replace("SESSION", f"{tag}{session:08d}").encode()
        yield event_id, _request(path, body, now)


def write(file: Path, tag: str, count: int, path: str = PATH, story: tuple[str, ...] = STORY) -> Path:
    """Writes a file for wrk. Signatures hold for five minutes."""
    with file.open("wb") as output:
        for _, request in deliveries(tag, count, path, story):
            output.write(b"%d\n%b" % (len(request), request))
    return file


def post(port: int, requests: Path, connections: int, seconds: float, host: str = "127.0.0.1") -> Answers:
    """Posts the file's requests over so many connections for so long, or until none are left."""
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk is needed to make the load: apt-get install wrk")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "15s", "-s", str(_SCRIPT)]
    output = subprocess.run(
        [*command, f"http://{host}:{port}", str(requests)], capture_output=True, text=True, check=True
    ).stdout
    answers = Answers(**json.loads(output.splitlines()[-1]))
    if answers.refused or answers.broken:
        sys.exit(f"port {port}: {answers.refused} answers were no 2xx, {answers.broken} connections broke")
    return answers


def _template(kind: str, created: int) -> str:
    status = "requires_input" if kind == "created" else kind
    report = "vr_1SESSION" if kind == "verified" else None
    session = shapes.session("vs_1SESSION", status, report=report, reference="user_SESSION", user="user_SESSION")
    return json.dumps(shapes.event("EVENT", kind, created, session), indent=2)


def _request(path: str, body: bytes, now: int) -> bytes:
    signature = hmac.new(SECRET.encode(), b"%d." % now + body, sha256).hexdigest()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
        f"Accept: */*; q=0.5, application/xml\r\nCache-Control: no-cache\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nStripe-Signature: t={now},v1={signature}\r\n\r\n"
    )
    return head.encode() + body
