"""Real processes, a seeded schedule of faults, and a comparison of everything with the truth at the end."""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config.settings import Settings, settings
from handlers.tables.schema import migrate
from tests.chaos import asking, faults, services
from tests.chaos.asking import kill_web, let_leases_end
from tests.chaos.faults import Scene
from tests.chaos.openings import judge_openings
from tests.chaos.outside import Application, MailServer
from tests.chaos.people import comes_back, people
from tests.chaos.restoring import back_up, put_back
from tests.chaos.services import Platform
from tests.chaos.shop import PUBLISHABLE_KEY, TOKEN, Shop
from tests.chaos.stores import Postgres, Redis, free_port
from tests.chaos.verdict import REVIEWER, Rest, Verdict, judge, read_tables
from tests.simulator.client import Simulator

SECRET = "whsec_chaos_chaos_chaos_chaos"
# Deliveries are tried again soon and for long; real Stripe does so for three days.
RETRIES = [0.2, 0.5, 1.0, *([2.0] * 600)]
COMES_TO_REST_WITHIN = 300.0  # seconds; a lease is sixty, and several may follow each other
_COME_BACK_WITHIN = 10.0  # seconds of each other
WAVE = 32  # sessions made at once: two of each scenario
WRONG_CLOCKS = (-3600.0, -90.0, 0.3, 90.0, 61 * 86400.0)  # seconds ahead, of hosts
THREE_SUBMISSIONS = ["submit", "fail:document_expired"] * 3

console = Console(width=150 if not sys.stdout.isatty() else None)


def main() -> int:
    """0 if nothing was lost, wrong, missing or without a cause."""
    options = _options()
    folder = options.logs or Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _scene(options, folder) as (scene, logs):
        shop = Shop(scene.port, scene.simulator)
        if options.standby:
            _reconcile(scene)
        drove = _drive_and_rage(scene, shop, options)
        calm_since = time.monotonic()
        let_leases_end(scene, kill_web(scene))
        shop.close()
        fetched = put_back(scene) if options.restore else {}
        if fetched:
            calm_since = time.monotonic()
            shop.open(people(shop, options.people, options.seed, [comes_back]), _COME_BACK_WITHIN)
            shop.close()
        swallowed = _reconciled(scene) if options.standby else set()
        rest = Rest(scene.database)
        rested = _wait_for_rest(scene, rest, calm_since)
        truth, tables = scene.simulator.truth(), read_tables(scene.database)
        views = shop.views(tables.verifications)
        scene.platform.stop()
        deaths = scene.platform.deaths
        verdict = judge(
            truth,
            tables,
            scene.mail,
            scene.application,
            deaths,
            logs,
            scene.losses,
            lossy=options.standby == "async" or options.restore,
        )
        if shop.heard:
            judge_openings(verdict, truth, tables, shop, views, scene.mail, scene.application, lossy=options.restore)
    if options.standby == "async":
        verdict.figures["events that a lagging standby lost, and reconcile fetched"] = len(swallowed)
    else:
        verdict.must_be_none("lost with a primary", sorted(swallowed))
    if fetched:
        _add_restored(verdict, fetched)
    verdict.figures["mails of unknown outcome whose hours were let pass"] = rest.passed
    _add_circumstances(verdict, scene, drove, rested)
    console.print(_table(verdict, scene, options, time.monotonic() - started))
    for problem in verdict.problems[:50]:
        console.print(escape(problem), style="red")
    if verdict.problems:
        console.print(f"[red]{len(verdict.problems)} problems; the services' logs are in {folder}[/]")
        return 1
    if not options.logs:
        shutil.rmtree(folder, ignore_errors=True)
    console.print("[green]Nothing lost, nothing wrong, nothing missing.[/]")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their times (default: 1)")
    parser.add_argument("--sessions", type=int, default=320, help="verifications to drive (default: 320)")
    parser.add_argument("--people", type=int, default=48, help="who are verified over the API besides (default: 48)")
    parser.add_argument("--minutes", type=float, default=0.75, help="how long things fail (default: 0.75)")
    parser.add_argument("--logs", type=Path, help="keep the services' logs here (default: /tmp, and only on failure)")
    database = parser.add_mutually_exclusive_group()
    database.add_argument(
        "--standby",
        choices=("sync", "async"),
        default="",
        help="PostgreSQL with a standby that takes over; commits wait for it, or do not",
    )
    database.add_argument("--restore", action="store_true", help="put a backup of the middle back at the end")
    database.add_argument("--embedded", action="store_true", help="`make run` on SQLite and the embedded Redis instead")
    return parser.parse_args()


@contextmanager
def _scene(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Scene, dict[Path, float]]]:
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator.start(seed=options.seed))
        mail, application = MailServer(options.seed), Application()
        stack.callback(mail.stop)
        stack.callback(application.stop)
        postgres = redis = None
        if not options.embedded:
            postgres, redis = Postgres(standby=options.standby), Redis(folder)
            stack.callback(postgres.end)
            stack.callback(redis.end)
        environment = _environment(folder, simulator, mail, application)
        if postgres and redis:
            environment |= {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url, "WEB_CONCURRENCY": "2"}
        _migrate(environment)
        if options.embedded:
            dynos = services.make_run(environment, folder)
        else:
            dynos = services.procfile(environment, folder, {} if options.standby else _wrong_clocks(options.seed))
        platform = Platform(dynos)
        stack.callback(_end_all, platform)
        platform.start()
        _expect_deliveries(simulator, int(environment["PORT"]))
        longest = 4.0 if options.minutes < 2 else 8.0 if options.minutes < 5 else 15.0
        database = environment.get("DATABASE_URL", f"sqlite:///{settings().embedded_file}")
        scene = Scene(platform, mail, application, simulator, database, longest, postgres, redis)
        yield scene, {dyno.log: dyno.ahead for dyno in dynos}


def _wrong_clocks(seed: int) -> dict[str, float]:
    """By how much the clock of each process's host is ahead of the database's."""
    if shutil.which("faketime") is None:
        return {}
    return {name: random.Random(f"{name}{seed}").choice(WRONG_CLOCKS) for name in ("web", "worker", "clock")}


def _environment(folder: Path, simulator: Simulator, mail: MailServer, application: Application) -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "VAR_DIR": str(folder / "var"),
        "PORT": str(free_port()),
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_KEY": simulator.api_key,
        "STRIPE_API_BASE": simulator.base,
        "STRIPE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "API_TOKENS": f"shop:{TOKEN}",
        "SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        "RETRY_URL": "https://app.example.com/verify/{session_id}",
        "REVIEW_EMAIL": REVIEWER,
        "APP_CALLBACK_URL": application.url,
        "APP_CALLBACK_SECRET": "whsec_" + "Y2hhb3M" * 8,
        "BACKOFF_SECONDS": "20",  # a fault lasts seconds here
        "LOG_FORMAT": "json",
        "PYTHONFAULTHANDLER": "1",
    }


def _migrate(environment: dict[str, str]) -> None:
    os.environ.update(environment)  # this process reads the same settings
    migrate()


def _expect_deliveries(simulator: Simulator, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    answers = services.wait_until(lambda: _answers(port), 60)
    assert answers, "the web process did not start"
    simulator.endpoint(
        f"{url}/webhooks/stripe",
        secret=SECRET,
        payload="both",
        copies=2,
        shuffle=3.0,
        schedule=RETRIES,
        timeout=15.0,
        concurrency=32,
    )


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _drive_and_rage(scene: Scene, shop: Shop, options: argparse.Namespace) -> float:
    """Returns how many seconds it took."""
    began = time.monotonic()
    until = began + options.minutes * 60
    kinds = faults.EMBEDDED if options.embedded else faults.STANDBY if options.standby else faults.FAULTS
    # A database that may lose what it has committed may lose a whole verification, too.
    count = 0 if options.standby == "async" else options.people
    askings = asking.EMBEDDED if options.embedded else asking.ASKING
    lanes = [
        threading.Thread(target=faults.rage, args=(scene, some, options.seed + lane, until))
        for lane, some in enumerate((kinds, faults.OUTSIDE, *([askings] if count else [])))
    ]
    if options.restore:
        lanes.append(threading.Thread(target=back_up, args=(scene, began + options.minutes * 30)))
    shop.open(people(shop, count, options.seed), options.minutes * 60)
    for lane in lanes:
        lane.start()
    made, waves = 0, max(1, options.sessions // WAVE)
    for wave in range(waves):
        count = options.sessions * (wave + 1) // waves - made
        _people(scene.simulator, wave, count)
        made += count
        time.sleep(max(0.0, began + options.minutes * 60 * (wave + 1) / waves - time.monotonic()))
    for lane in lanes:
        lane.join()
    return time.monotonic() - began


def _reconciled(scene: Scene) -> set[str]:
    """What was answered 200 and is gone, before the schedule's next run fetches it; that run is made now."""
    services.wait_until(lambda: bool(scene.simulator.settled()["settled"]), COMES_TO_REST_WITHIN)
    accepted = {
        one["event"]
        for one in scene.simulator.truth()["deliveries"]
        if any(attempt["code"] == 200 for attempt in one["attempts"])
    }
    lost = accepted - read_tables(scene.database).events.keys()
    _reconcile(scene)
    return lost


def _reconcile(scene: Scene) -> None:
    """As the schedule does every quarter of an hour; the first run notes which log the database writes."""
    command = [sys.executable, "-m", "worker", "reconcile"]
    environment = dict(scene.platform.dynos["worker"].environment)
    subprocess.run(command, env=environment, cwd=services.ROOT, check=True, capture_output=True)


def _people(simulator: Simulator, wave: int, count: int) -> None:
    def person(words: str) -> dict[str, Any]:
        return {
            "provided_details": {"email": f"{words}-{wave}-{{n}}@example.com"},
            "client_reference_id": f"{words}-{wave}-{{n}}",
            "metadata": {"user_id": f"user-{words}-{wave}-{{n}}"},
        }

    # In waves of one scenario's length each, so that a session's events lie apart or in one second.
    simulator.run(count - 2, "mixed", interleave=wave % 2 == 0, session=person("mixed"))
    simulator.run(2, steps=THREE_SUBMISSIONS, session=person("limit"))


def _wait_for_rest(scene: Scene, rest: Rest, began: float) -> float | None:
    """Seconds from the last fault until nothing waits any more; None if that did not come."""

    def is_at_rest() -> bool:
        time.sleep(0.5)
        return rest.has_come() and bool(scene.simulator.settled()["settled"])

    return time.monotonic() - began if services.wait_until(is_at_rest, COMES_TO_REST_WITHIN) else None


def _end_all(platform: Platform) -> None:
    for dyno in platform.dynos.values():
        if dyno.process and dyno.process.poll() is None:
            platform.stop()
            return


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


def _add_restored(verdict: Verdict, fetched: dict[str, Any]) -> None:
    counts = ("verifications_found", "generations_moved", "events_delivered_before", "events_undelivered")
    verdict.figures["the backup lacked"] = ", ".join(f"{name.replace('_', ' ')}: {fetched[name]}" for name in counts)
    verdict.must_be_none("left by `worker restored`", [*fetched["failed"], *fetched["stopped"]])


def _table(verdict: Verdict, scene: Scene, options: argparse.Namespace, took: float) -> Table:
    where = "SQLite and the embedded Redis" if options.embedded else "PostgreSQL and Redis"
    table = Table(title=f"Chaos on {where}: {options.sessions} sessions, seed {options.seed}, {took:.0f} s")
    table.add_column("what")
    table.add_column("figure")
    for name, figure in verdict.figures.items():
        table.add_row(name, str(figure))
    table.add_section()
    table.add_row("faults survived", str(scene.happened.total()))
    for kind, count in sorted(scene.happened.items()):
        table.add_row(f"  {kind}", str(count))
    return table


if __name__ == "__main__":
    sys.exit(main())
