"""The application's half: requests to the API for persons, repeated as often as it takes, and all the answers."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import inf
from random import Random
from typing import Any

from handlers.sessions.turn import OPENING_LEASE
from tests.chaos.clocks import STEP
from tests.simulator.client import Simulator

TOKEN = "shop" * 8
PUBLISHABLE_KEY = "pk_test_simulator0000"
MARK, OTHERS = {"team": "chaos"}, {"team": "others"}  # metadata of our sessions, and of another environment's
OUR_SESSIONS = "team=chaos,vf_simulator"  # our mark, and the flow of the static links
# Seconds for further requests once all faults are over: an opener that died leaves a lease behind, which lasts longer
# by as much as the database's clock has stepped back since.
_PATIENCE = OPENING_LEASE.total_seconds() + STEP
# The headers that a platform's router adds.
_ROUTERS = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """One request and its answer; no status if no answer came."""

    reference: str
    path: str
    asked: Json
    status: int | None
    answer: Json

    @property
    def is_good(self) -> bool:
        """Whether the request was done."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_opening(self) -> bool:
        """Whether it asked for a session."""
        return self.path == "/verifications"


class GoneError(Exception):
    """A person's story ends here."""


class Shop:
    """The application. Each of its people has a thread of their own, as tabs and phones have."""

    def __init__(self, webs: Sequence[str], simulator: Simulator) -> None:
        self.simulator = simulator
        self.heard: list[Heard] = []
        self.surprises: list[str] = []  # answers that no fault explains
        self._webs = cycle(webs)  # in turn, as for a name with several addresses
        self._closes_at = inf
        self._inside: list[threading.Thread] = []
        self._door: threading.Thread | None = None

    def open(self, people: list[Callable[[], None]], seconds: float) -> None:
        """Lets people in one after the other within so many seconds; returns at once."""

        def let_in() -> None:
            began = time.monotonic()
            for number, person in enumerate(people):
                time.sleep(max(0.0, began + seconds * number / len(people) - time.monotonic()))
                self._inside.append(threading.Thread(target=person, daemon=True))
                self._inside[-1].start()

        self._door = threading.Thread(target=let_in, daemon=True)
        self._door.start()

    def close(self) -> None:
        """Waits for all people; the faults are over."""
        self._closes_at = time.monotonic() + _PATIENCE
        for thread in (self._door, *self._inside):
            if thread is not None:
                thread.join()

    def views(self, verification_ids: Iterable[str]) -> dict[str, Json]:
        """The API's view of each verification that it shows."""
        heard = {id_: self.ask("", "GET", f"/verifications/{id_}") for id_ in verification_ids}
        self.surprises += [
            f"no view of {id_}: {one.status} {one.answer.get('code', '')}"
            for id_, one in heard.items()
            if not one.is_good
        ]
        return {id_: one.answer for id_, one in heard.items() if one.is_good}

    def ask(self, reference: str, method: str, path: str, body: Json | None = None, within: float = 20.0) -> Heard:
        """Makes one request, and returns its end, whatever that is."""
        status, answer = None, {}
        connection = http.client.HTTPConnection(next(self._webs), timeout=within)
        try:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **_ROUTERS}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.load(response)
            status = response.status
        except (OSError, http.client.HTTPException, ValueError):
            status = None
        finally:
            connection.close()
        heard = Heard(reference=reference, path=path, asked=body or {}, status=status, answer=answer)
        self.heard.append(heard)
        return heard

    def insist(self, reference: str, method: str, path: str, body: Json | None, dice: Random) -> Heard:
        """Asks until it has an answer of its own, as clients do: again after a time-out, and after any 5xx."""
        within, pause = dice.choice((2.0, 5.0, 20.0)), 0.1
        while True:
            heard = self.ask(reference, method, path, body, within if self._closes_at == inf else 20.0)
            if heard.status is not None and heard.status < 500:
                return heard
            if time.monotonic() > self._closes_at:
                said = heard.answer.get("code") or heard.status
                self.surprises.append(f"{reference}: {method} {path} never got an answer, at last {said}")
                raise GoneError
            time.sleep(dice.uniform(0.1, pause := min(pause * 2, 3.0)))
