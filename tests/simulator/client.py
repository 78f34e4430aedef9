"""The simulator from a test: start it, drive people through it, break it, read the truth."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tests.simulator.store import PLATFORM

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds for one control call; a run of thousands takes a few

Json = dict[str, Any]


class SimulatorError(Exception):
    """A control call was refused; the message is its reason."""


class Simulator:
    """One running simulator: `start()` owns its process, `Simulator(base)` speaks to one that runs already."""

    account = PLATFORM
    api_key = "sk_test_simulator0000000000000000"
    publishable_key = api_key.replace("sk_", "pk_")
    restricted_key = "rk_test_simulator0000000000000000"
    live_api_key = api_key.replace("test", "live")

    def __init__(self, base: str, process: "subprocess.Popen[str] | None" = None) -> None:
        self.base = base.rstrip("/")
        self.process = process
        self.endpoint_ids: dict[str, str] = {}  # by url, the newest

    @classmethod
    def start(
        cls,
        port: int = 0,
        *,
        speed: float = 1.0,
        seed: int | None = None,
        host: str = "127.0.0.1",
        on: Sequence[str] = (),
    ) -> Self:
        """Port 0 takes a free one; `on` begins the command, for another machine. Returns once it answers."""
        command = [*on, sys.executable, "-m", "tests.simulator", "serve", "--host", host, "--port", str(port)]
        command += ["--speed", str(speed), "--unspaced"]
        command += [] if seed is None else ["--seed", str(seed)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        base = ""
        for line in process.stdout:
            if line.startswith("STRIPE_API_BASE="):
                base = line.strip().partition("=")[2]
            if line.strip() == "ready":
                break
        else:
            raise SimulatorError(f"the simulator ended with {process.wait()} before it was ready")
        simulator = cls(base, process)
        simulator.get("/ready")
        return simulator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None

    # People

    def create(
        self,
        *,
        email: str | None = None,
        phone: str | None = None,
        metadata: Mapping[str, str] | None = None,
        client_reference_id: str | None = None,
        livemode: bool = False,
        account: str | None = None,
        **params: Any,
    ) -> str:
        """Creates a session and returns its id; `params` are more of the API's parameters."""
        given = {
            "email": email,
            "phone": phone,
            "metadata": dict(metadata) if metadata else None,
            "client_reference_id": client_reference_id,
            "livemode": livemode,
            "account": account,
        }
        body = {name: value for name, value in (given | params).items() if value is not None}
        return str(self.post("/sessions", body)["id"])

    def create_from_link(self, client_reference_id: str, email: str | None = None, **scope: Any) -> str:
        """Creates a session as a static link does: with a reference that anybody may have typed, and no metadata."""
        return str(self.post("/links", {"client_reference_id": client_reference_id, "email": email} | scope)["id"])

    def flow(self, flow_id: str, **fields: Any) -> str:
        """Makes or edits a verification flow, with `name`, `options`, `link`; its static link."""
        self.post(f"/flows/{flow_id}", fields)
        return f"{self.base}/link/{flow_id}"

    def enter(self, client_secret: str, publishable_key: str = "pk_test_simulator0000") -> str:
        """The URL of the page in the dialog that Stripe's script opens with a client secret."""
        return str(self.post("/enter", {"client_secret": client_secret, "publishable_key": publishable_key})["url"])

    def act(self, session_id: str, action: str, **body: Any) -> Json:
        """Does any action of the control API; returns the session."""
        return self.post(f"/sessions/{session_id}/{action}", body)

    def submit(self, session_id: str) -> Json:
        return self.act(session_id, "submit")

    def passed(self, session_id: str) -> Json:
        """Lets the person pass; submits first if they have not."""
        return self.act(session_id, "pass")

    def fail(self, session_id: str, code: str, *, report: bool | None = None, reason: str | None = None) -> Json:
        """Lets the person fail; submits first if the code needs it. `report` overrides whether a report is left."""
        return self.act(session_id, "fail", code=code, report=report, reason=reason)

    def abandon(self, session_id: str) -> Json:
        return self.act(session_id, "abandon")

    def decline(self, session_id: str) -> Json:
        return self.act(session_id, "decline")

    def override(self, session_id: str, to: str | None = None) -> Json:
        """Lets a reviewer change the verdict to `verified` or `requires_input`, by default to the other one."""
        return self.act(session_id, "override", **({"to": to} if to else {}))

    def cancel(self, session_id: str) -> Json:
        return self.act(session_id, "cancel")

    def redact(self, session_id: str, *, finish: bool = True) -> Json:
        """Redacts a session. `finish`: at once, with its event; otherwise as the settings' redaction_step says."""
        return self.act(session_id, "redact", finish=finish)

    def redact_step(self, session_id: str) -> Json:
        return self.act(session_id, "redact_step")

    def update(self, session_id: str, **params: Any) -> Json:
        """Updates a session, for instance with provided_details={"email": …}."""
        return self.act(session_id, "update", **params)

    def run(self, count: int, scenario: str = "passes", steps: list[str] | None = None, **options: Any) -> list[str]:
        """Makes and drives many sessions at once; see runs.Run for the options. Returns their ids."""
        ids: list[str] = self.post("/run", {"count": count, "scenario": scenario, "steps": steps} | options)["sessions"]
        return ids

    # Deliveries

    def endpoint(self, url: str, **policy: Any) -> str:
        """Registers a webhook endpoint for all six types and returns its secret; see deliveries.Policy."""
        made = self.post("/endpoints", {"url": url} | policy)
        self.endpoint_ids[url] = made["id"]
        return str(made["secret"])

    def change_endpoint(self, url_or_id: str, **changes: Any) -> Json:
        return self.post(f"/endpoints/{self.endpoint_ids.get(url_or_id, url_or_id)}", changes)

    def roll_secret(self, url_or_id: str, overlap: float = 86_400) -> str:
        """Rolls an endpoint's secret; returns the new one. The old one signs too for `overlap` seconds."""
        made = self.post(f"/endpoints/{self.endpoint_ids.get(url_or_id, url_or_id)}/roll", {"overlap": overlap})
        return str(made["secret"])

    def remove_endpoint(self, url_or_id: str) -> None:
        self.call("DELETE", f"/endpoints/{self.endpoint_ids.get(url_or_id, url_or_id)}")

    def release(self, order: str = "sent", limit: int | None = None) -> int:
        """Sends the held deliveries: `sent`, `reversed` or `shuffled`. Returns how many."""
        return int(self.post("/release", {"order": order, "limit": limit})["released"])

    def resend(self, event_id: str | None = None, copies: int = 1) -> int:
        """Sends the same event, or every event, once more to every endpoint that takes it."""
        return int(self.post("/resend", {"event": event_id, "copies": copies})["sent"])

    def settled(self, wait: float = 0.0) -> Json:
        return self.get(f"/settled?wait={wait}")

    def wait_settled(self, timeout: float = 30.0) -> Json:
        """Returns the counts once nothing is under way; raises SimulatorError if that takes too long."""
        state = self.settled(timeout)
        if not state["settled"]:
            raise SimulatorError(f"not settled after {timeout:g} s: {state}")
        return state

    # Faults, and the time

    def fault(self, status: int | None = None, *, count: int | None = 1, **details: Any) -> Json:
        """The next `count` API calls (None: all) answer `status`, or are slow or hang; see faults.Fault."""
        return self.post("/faults", {"status": status, "count": count} | details)

    def faults(self) -> list[Json]:
        """All faults, each with its `hits`, and the `callers` that wait or have waited."""
        found: list[Json] = self.get("/faults")["faults"]
        return found

    def clear_faults(self) -> None:
        self.call("DELETE", "/faults")

    def take_back(self, name: str) -> None:
        """Ends the faults of this name; the calls that hang by one go on."""
        self.call("DELETE", f"/faults?name={quote(name)}")

    def forget_idempotency_keys(self) -> None:
        """Forgets the keys of all calls that are answered, as after a day."""
        self.call("DELETE", "/idempotency_keys")

    def clock(self, **changes: Any) -> Json:
        """Changes the clock: `offset=seconds`, `frozen=True | unix time | None`."""
        return self.post("/clock", changes)

    def settings(self, **changes: Any) -> Json:
        """Changes the settings: see settings.Settings."""
        return self.post("/settings", changes)

    def keys(self, **changes: Any) -> Json:
        """Changes a key or an account: `key=…, permissions=[…] | None, revoked=bool` or `account=…, reachable=bool`."""
        return self.post("/keys", changes)

    def reset(self) -> None:
        self.post("/reset", {})
        self.endpoint_ids.clear()

    # The truth

    def truth(self) -> Json:
        """The sessions, events, deliveries, endpoints and reports."""
        return self.get("/truth")

    def session(self, session_id: str) -> Json:
        return self.get(f"/sessions/{session_id}")

    def last(self) -> str:
        """The newest session's id. Raises SimulatorError when there is none."""
        sessions = self.truth()["sessions"]
        if not sessions:
            raise SimulatorError("there is no session yet")
        return str(sessions[-1]["id"])

    def url(self, session_id: str) -> str:
        """A fresh link to the page where a person picks the outcome."""
        return str(self.post(f"/sessions/{session_id}/enter", {})["url"])

    def events(self, session_id: str | None = None) -> list[Json]:
        """Every Event object in the order it was made; `body` is what a delivery carries."""
        return [event for event in self.truth()["events"] if session_id in (None, event["session"])]

    def deliveries(self, event_id: str | None = None) -> list[Json]:
        return [delivery for delivery in self.truth()["deliveries"] if event_id in (None, delivery["event"])]

    # The wire

    def get(self, path: str) -> Json:
        return self.call("GET", path)

    def post(self, path: str, body: Json) -> Json:
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/_control{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                decoded: Json = json.load(answer)
                return decoded
        except urllib.error.HTTPError as error:
            with error:
                raise SimulatorError(json.load(error)["error"]["message"]) from None
