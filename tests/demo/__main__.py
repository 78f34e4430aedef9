"""Starts a local Stripe and the service on the embedded default, lets people be verified, and shows what happened."""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from rich.console import Console
from rich.table import Table

from tests.demo.people import DELIVERED, DELIVERIES, PEOPLE
from tests.payloads.expected import Outcome
from tests.simulator.client import Simulator
from tests.support import shapes
from tests.support.service import PATIENCE, ROOT, Mail, Service, free_port
from worker.commands.replay import replay

SECRET = "whsec_demo00000000000000000000"
TOKEN = "demo-demo-demo-demo-demo-demo-demo"
REVIEWER = "review@example.com"
DAY, MOMENT = 86_400.0, 20.0  # seconds between two steps of a person
WIDTH = 120  # columns, if the output is no terminal

console = Console(width=None if sys.stdout.isatty() else WIDTH)


def main(kept: Path = ROOT / "var/demo") -> int:
    """Runs the demo: 0 if each session, action and delivery came out as expected. Its mails replace those in `kept`."""
    console.print("Half a minute at most: the service starts, some persons are verified, and it is stopped again.")
    watch = Stopwatch()
    port = free_port()
    settings = {
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_KEY": Simulator.api_key,
        "STRIPE_API_BASE": f"http://127.0.0.1:{port}",
        "REVIEW_EMAIL": REVIEWER,
        "API_TOKENS": f"demo:{TOKEN}",
    }
    with (
        tempfile.TemporaryDirectory(prefix="identity-demo-") as folder,
        Service(Path(folder), **settings) as service,
        Simulator.start(port, seed=1) as stripe,
    ):
        service.wait_ready()
        watch.lap("start web, worker, clock, Redis and a local Stripe")
        demo = Demo(stripe, service)
        demo.live()
        watch.lap("live, deliver, apply and act")
        outcomes, answers, mails = demo.outcomes(), demo.answers(), service.mails()
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(service.folder / "var" / "mail", kept)
    watch.lap("stop")
    _show(outcomes, demo.mails_of(mails))
    console.print("Deliveries: " + ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items())) + ".")
    console.print(f"Mails: {len(mails)}, in {os.path.relpath(kept)}.", soft_wrap=True)
    console.print(watch.report())
    if outcomes == {name: person.outcome for name, person in PEOPLE.items()} and answers == DELIVERIES:
        console.print("[green]All as expected.[/]")
        return 0
    console.print("[red]Not as expected: see tests/demo/people.py.[/]")
    return 1


class Stopwatch:
    """The seconds of each part."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        """Ends a part, and begins the next."""
        now = time.monotonic()
        self._laps.append(f"{name} {now - self._started:.1f} s")
        self._started = now

    def report(self) -> str:
        """The times of all parts in a line."""
        return "Time: " + ", ".join(self._laps) + "."


class Demo:
    """The people, their Stripe and the service. It waits for quiet before a step that could race with the last one."""

    def __init__(self, stripe: Simulator, service: Service) -> None:
        self.stripe = stripe
        self.service = service
        self.ids: dict[str, str] = {}
        self.by_strangers: Counter[str] = Counter()
        longest = max(len(person.days) for person in PEOPLE.values())
        self.now = -longest * DAY  # Stripe's clock, against ours

    def live(self) -> None:
        """Lives everybody's first day, then everybody's second, and so on."""
        self.stripe.endpoint(self.service.url, secret=SECRET, concurrency=1)
        for day in range(max(len(person.days) for person in PEOPLE.values())):
            for name, person in PEOPLE.items():
                if day < len(person.days):
                    self._live(name, day)
            self._wait_for_quiet()
            self.now += DAY
        self._forge_and_stray()

    def outcomes(self) -> dict[str, Outcome]:
        """Each person's record, and the outcome of their actions."""
        return {name: self._outcome(session_id) for name, session_id in self.ids.items()}

    def answers(self) -> Counter[str]:
        """The service's answers to Stripe's deliveries and to the others, counted."""
        attempts = [attempt for delivery in self.stripe.deliveries() for attempt in delivery["attempts"]]
        said = (
            json.loads(one["body"])["outcome"] if one["code"] == 200 else f"refused ({one['code']})" for one in attempts
        )
        return Counter(said) + self.by_strangers

    def mails_of(self, mails: list[Mail]) -> dict[str, list[Mail]]:
        """The mails to each person, and those to the reviewer about them."""
        return {
            name: [mail for mail in mails if mail.to == _address(name) or session_id in mail.text]
            for name, session_id in self.ids.items()
        }

    def _live(self, name: str, day: int) -> None:
        person = PEOPLE[name]
        with self._delivered(person.delivered):
            if day == 0:
                self.ids[name] = self._create(name)
            for step in person.days[day].split():
                self._pass_time()
                action, _, code = step.partition(":")
                if action == "page":
                    self._go_through_page(name, code)
                    continue
                self.stripe.act(self.ids[name], action, **({"code": code} if code else {}), finish=action == "redact")
        if person.delivered == "shuffled":
            self.stripe.release("shuffled")
        if person.delivered == "last first":
            self._wait_for_quiet()
            self.stripe.release("reversed", limit=1)
            self._wait_for_quiet()  # all is done, so the next delivery is late for certain
            self.stripe.release("reversed")

    def _go_through_page(self, name: str, picked: str) -> None:
        """Does as a browser without JavaScript: the page of the link, its form, Stripe's page, and ours again."""
        mails = [mail.text for mail in self.service.mails(_address(name)) if "/verify/" in mail.text]
        link = re.findall(r"http\S+/verify/\S+", mails[-1])[0] if mails else self._ask(f"/{self.ids[name]}/link")["url"]
        page = urllib3.request("GET", link, timeout=PATIENCE)
        at_stripe = urllib3.request("POST", link, timeout=PATIENCE)
        outcome = {"outcome": "pass"} if picked == "pass" else {"outcome": "fail", "code": picked}
        theirs = str(at_stripe.geturl())
        with urllib3.PoolManager(timeout=PATIENCE) as browser:
            back = browser.request("POST", theirs, fields=outcome, encode_multipart=False)
        assert {page.status, at_stripe.status, back.status} == {200}

    def _ask(self, path: str, **body: Any) -> dict[str, Any]:
        """The service's answer to a request of the application."""
        url = f"{self.service.base}/verifications{path}"
        token = {"Authorization": f"Bearer {TOKEN}"}
        answer = urllib3.request("POST", url, json=body, headers=token, timeout=PATIENCE)
        assert answer.status < 400
        asked: dict[str, Any] = answer.json()
        return asked

    def _create(self, name: str) -> str:
        self._pass_time()
        if PEOPLE[name].days[0].startswith("page:"):
            details = {"email": _address(name)}
            opened = self._ask("", client_reference_id=f"ref_{name.lower()}", type="document", provided_details=details)
            return str(opened["session_id"])
        return self.stripe.create(
            email=_address(name) if PEOPLE[name].has_address else None,
            client_reference_id=f"ref_{name.lower()}",
            metadata={"user_id": f"user_{name.lower()}"},
        )

    @contextmanager
    def _delivered(self, how: str) -> Iterator[None]:
        policy = DELIVERED[how]
        if policy:
            self.stripe.change_endpoint(self.service.url, **policy)
        if how == "as twins":
            self.stripe.settings(twins=True)
        yield
        if policy:
            self.stripe.change_endpoint(self.service.url, **dict.fromkeys(policy))
        if how == "as twins":
            self.stripe.settings(twins=False)

    def _pass_time(self) -> None:
        self.now += MOMENT
        self.stripe.clock(offset=self.now)

    def _wait_for_quiet(self) -> None:
        """Waits until nothing is on its way or left to do, nor has come up meanwhile: an action may cause an event."""

        def is_quiet() -> bool:
            before = self.stripe.settled()
            return bool(before["settled"]) and self.service.is_quiet() and self.stripe.settled() == before

        self.service.wait_until(is_quiet)

    def _forge_and_stray(self) -> None:
        success = shapes.event("evt_forged", "verified", int(time.time()), shapes.session(self.ids["Kira"], "verified"))
        payment = success | {"id": "evt_stray", "type": "payment_intent.succeeded"}
        self.by_strangers += replay([success], self.service.url, "whsec_somebody_else")
        self.by_strangers += replay([payment], self.service.url, SECRET)
        self._wait_for_quiet()

    def _outcome(self, session_id: str) -> Outcome:
        record = self.service.record(session_id) or {"status": "none", "submissions": 0, "last_error_code": None}
        return Outcome(
            record["status"],
            record["submissions"],
            record["last_error_code"],
            tuple(self.service.actions(session_id)),
            record.get("redacted_at") is not None,
        )


def _address(name: str) -> str:
    return f"{name.lower()}@example.com"


def _show(outcomes: dict[str, Outcome], mails: dict[str, list[Mail]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for heading in ("session", "what happened at Stripe", "record", "submis-\nsions"):
        table.add_column(heading)
    table.add_column("error code", min_width=25)
    table.add_column("actions", min_width=23)
    table.add_column("mail\nfiles", min_width=7)
    for name, outcome in outcomes.items():
        table.add_row(
            name,
            PEOPLE[name].story,
            f"{outcome.status},\nredacted" if outcome.redacted else outcome.status,
            str(outcome.submissions),
            outcome.code,
            "\n".join(outcome.actions) or "none owed",
            "\n".join(f"{mail.file[:6]}…" for mail in mails[name]),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
