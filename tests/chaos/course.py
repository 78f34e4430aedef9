"""The course of a run, on one machine or on many hosts: people and faults side by side, the rest, and the report."""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config.settings import Settings, settings
from tests.chaos import faults, services
from tests.chaos.faults import Fault, Scene
from tests.chaos.outside import Application, MailServer
from tests.chaos.people import people
from tests.chaos.releasing import TODAY, Release
from tests.chaos.shop import MARK, OTHERS, PUBLISHABLE_KEY, TOKEN, Shop
from tests.chaos.verdict import REVIEWER, Rest, Verdict, read_tables
from tests.simulator.client import Simulator

SECRET = "whsec_chaos_chaos_chaos_chaos"
# Deliveries are tried again soon and for long; real Stripe does so for three days.
RETRIES = [0.2, 0.5, 1.0, *([2.0] * 600)]
COMES_TO_REST_WITHIN = 300.0  # seconds; a lease is sixty, and several may follow each other
WAVE = 32  # sessions made at once: two of each scenario
THREE_SUBMISSIONS = ["submit", "fail:document_expired"] * 3

console = Console(width=150 if not sys.stdout.isatty() else None)


def add_options(parser: argparse.ArgumentParser, *, sessions: int, people: int, minutes: float) -> None:
    """Adds the options of every run."""
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their times (default: 1)")
    parser.add_argument("--sessions", type=int, default=sessions, help=f"verifications to drive (default: {sessions})")
    parser.add_argument(
        "--people", type=int, default=people, help=f"who are verified over the API besides (default: {people})"
    )
    parser.add_argument("--minutes", type=float, default=minutes, help=f"how long things fail (default: {minutes:g})")
    parser.add_argument("--logs", type=Path, help="keep the services' logs here (default: /tmp, and only on failure)")


def environment(simulator: Simulator, mail: MailServer, application: Application) -> dict[str, str]:
    """The environment of each process, without the addresses of its own database and Redis."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_KEY": simulator.api_key,
        "STRIPE_API_BASE": simulator.base,
        "STRIPE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "API_TOKENS": f"shop:{TOKEN}",
        "SMTP_URL": f"smtp://{mail.host}:{mail.port}",
        "RETRY_URL": "https://app.example.com/verify/{session_id}",
        "REVIEW_EMAIL": REVIEWER,
        "APP_CALLBACK_URL": application.url,
        "APP_CALLBACK_SECRET": "whsec_" + "Y2hhb3M" * 8,
        "TRUSTED_PROXIES": "1",
        "BACKOFF_SECONDS": "20",  # a fault lasts seconds here
        "LOG_FORMAT": "json",
        "PYTHONFAULTHANDLER": "1",
    }


def use(environment: Mapping[str, str], release: Release = TODAY) -> None:
    """Gives this process the same settings; the release makes the tables."""
    os.environ.update(environment)
    assert release.migrate(environment), "there are no tables"


def expect_deliveries(scene: Scene) -> None:
    """Registers each web process, once it answers, as an endpoint of its own: each gets every event."""
    for place in scene.webs:
        assert services.wait_until(lambda place=place: answers(place), 60), f"web did not start at {place}"  # type: ignore[misc]
        scene.simulator.endpoint(
            f"http://{place}/webhooks/stripe",
            secret=SECRET,
            payload="both",
            copies=2,
            shuffle=3.0,
            schedule=RETRIES,
            timeout=15.0,
            concurrency=32,
        )


def longest_fault(minutes: float) -> float:
    """The seconds of the longest fault in a run of so many minutes."""
    return 4.0 if minutes < 2 else 8.0 if minutes < 5 else 15.0


def drive_and_rage(
    scene: Scene,
    shop: Shop,
    options: argparse.Namespace,
    lanes: Sequence[Mapping[str, Fault]],
    *others: threading.Thread,
) -> float:
    """Lets people come while in each lane one fault follows the other. Returns how many seconds it took."""
    began = time.monotonic()
    until = began + options.minutes * 60
    threads = [
        *(
            threading.Thread(target=_rage, args=(scene, shop, kinds, options.seed + number, until))
            for number, kinds in enumerate(lanes)
        ),
        *others,
    ]
    shop.open(people(shop, options.people, options.seed), options.minutes * 60)
    for thread in threads:
        thread.start()
    made, waves = 0, max(1, options.sessions // WAVE)
    for wave in range(waves):
        count = options.sessions * (wave + 1) // waves - made
        bring_people(scene.simulator, wave, count)
        made += count
        time.sleep(max(0.0, began + options.minutes * 60 * (wave + 1) / waves - time.monotonic()))
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def _rage(scene: Scene, shop: Shop, kinds: Mapping[str, Fault], seed: int, until: float) -> None:
    try:
        faults.rage(scene, kinds, seed, until)
    except Exception as error:
        shop.surprises.append(f"the faults ended early: {type(error).__name__}: {error}")
        raise


def swallowed(scene: Scene) -> set[str]:
    """The events that were answered 200 and are gone; then reconcile runs, and fetches them."""
    services.wait_until(lambda: bool(scene.simulator.settled()["settled"]), COMES_TO_REST_WITHIN)
    accepted = {
        one["event"]
        for one in scene.simulator.truth()["deliveries"]
        if any(attempt["code"] == 200 for attempt in one["attempts"])
    }
    lost = accepted - read_tables(scene.database).events.keys()
    reconcile(scene)
    return lost


def reconcile(scene: Scene) -> None:
    """Runs reconcile, as the schedule does each quarter of an hour; the first run notes the database's log."""
    command = [sys.executable, "-m", "worker", "reconcile"]
    subprocess.run(command, env=dict(scene.environment), cwd=services.ROOT, check=True, capture_output=True)


def add_swallowed(verdict: Verdict, lost: set[str], standby: str) -> None:
    """Counts the lost events; only a standby that lags may lose any."""
    if standby == "async":
        verdict.figures["events that a lagging standby lost, and reconcile fetched"] = len(lost)
    else:
        verdict.must_be_none("lost with a primary", sorted(lost))


def wait_for_rest(scene: Scene, rest: Rest, began: float) -> float | None:
    """The seconds from the last fault until nothing waits any more; None if that did not come."""

    def is_at_rest() -> bool:
        time.sleep(0.5)
        return rest.has_come() and bool(scene.simulator.settled()["settled"])

    return time.monotonic() - began if services.wait_until(is_at_rest, COMES_TO_REST_WITHIN) else None


def conclude(
    title: str,
    verdict: Verdict,
    scene: Scene,
    *,
    drove: float,
    rest: Rest,
    rested: float | None,
    folder: Path,
    keep: bool,
) -> int:
    """Prints everything. Returns 0 if nothing was lost, wrong, missing or without a cause; else the logs stay."""
    verdict.figures["mails of unknown outcome whose hours were let pass"] = rest.passed
    _add_circumstances(verdict, scene, drove, rested)
    console.print(_table(title, verdict, scene))
    for problem in verdict.problems[:50]:
        console.print(escape(problem), style="red")
    if verdict.problems:
        console.print(f"[red]{len(verdict.problems)} problems; the services' logs are in {folder}[/]")
        return 1
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    console.print("[green]Nothing lost, nothing wrong, nothing missing.[/]")
    return 0


def answers(place: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{place}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def bring_people(simulator: Simulator, wave: int, count: int) -> None:
    """Brings people to Stripe, who act at once."""

    def person(words: str, mark: Mapping[str, str] = MARK) -> dict[str, Any]:
        return {
            "provided_details": {"email": f"{words}-{wave}-{{n}}@example.com"},
            "client_reference_id": f"{words}-{wave}-{{n}}",
            "metadata": {"user_id": f"user-{words}-{wave}-{{n}}", **mark},
        }

    others = 4 if settings().our_sessions else 0
    # In every other wave all first steps come first: so a session's events lie apart, or in one second.
    simulator.run(count - 2 - others, "mixed", interleave=wave % 2 == 0, session=person("mixed"))
    simulator.run(2, steps=THREE_SUBMISSIONS, session=person("limit"))
    for mark in (OTHERS, {**OTHERS, "idv_id": "idv_" + "0" * 32, "idv_generation": "1"}) if others else ():
        simulator.run(others // 2, "mixed", session=person("others", mark))


def _add_circumstances(verdict: Verdict, scene: Scene, drove: float, rested: float | None) -> None:
    wrong = [f"{dyno.name} {dyno.ahead:+g} s" for dyno in scene.platform.dynos.values() if dyno.ahead]
    verdict.figures["hosts' clocks beside the database's"] = ", ".join(wrong) or "not faked"
    verdict.figures["seconds of faults"] = f"{drove:.0f}"
    verdict.figures["seconds from the last fault to rest (wanted: 120)"] = (
        "never" if rested is None else f"{rested:.0f}"
    )
    if rested is None:
        verdict.problems.append("it did not come to rest")
    if slowest := scene.platform.slowest_stop():
        verdict.figures["slowest stop"] = f"{slowest.took:.1f} s, {slowest.name}"
        if slowest.took > services.STOPS_WITHIN:
            where = scene.platform.dynos[slowest.name].stacks()
            verdict.problems.append(f"{slowest.name} needed {slowest.took:.1f} s to stop: {where}")
    unmeant = [death for death in scene.platform.deaths if not death.meant]
    verdict.figures["processes that ended by themselves"] = (
        ", ".join(f"{death.name} with {death.status}" for death in unmeant) or "0"
    )


def _table(title: str, verdict: Verdict, scene: Scene) -> Table:
    table = Table(title=title)
    table.add_column("what")
    table.add_column("figure")
    for name, figure in verdict.figures.items():
        table.add_row(name, str(figure))
    table.add_section()
    table.add_row("faults survived", str(scene.happened.total()))
    for kind, count in sorted(scene.happened.items()):
        table.add_row(f"  {kind}", str(count))
    return table
