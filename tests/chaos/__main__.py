"""Real processes, a seeded schedule of faults, and a comparison of everything with the truth at the end."""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from config.settings import settings
from tests.chaos import asking, course, faults, releasing, services
from tests.chaos.asking import kill_web, let_leases_end
from tests.chaos.faults import Scene
from tests.chaos.openings import judge_openings
from tests.chaos.outside import Application, MailServer
from tests.chaos.people import comes_back, people
from tests.chaos.releasing import Release
from tests.chaos.restoring import back_up, put_back
from tests.chaos.services import Platform
from tests.chaos.shop import OUR_SESSIONS, Shop
from tests.chaos.stores import Postgres, Redis, free_port
from tests.chaos.verdict import Rest, Verdict, judge, read_tables, without_others
from tests.simulator.client import Simulator

_COME_BACK_WITHIN = 10.0  # seconds of each other
WRONG_CLOCKS = (-3600.0, -90.0, 0.3, 90.0, 61 * 86400.0)  # seconds ahead, of hosts


def main() -> int:
    """Returns 0 if nothing was lost, wrong, missing or without a cause."""
    options = _options()
    folder = options.logs or Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _scene(options, folder) as (scene, before, logs):
        shop = Shop(scene.webs, scene.simulator)
        if options.standby:
            course.reconcile(scene)
        drove = _drive_and_rage(scene, shop, before, options)
        calm_since = time.monotonic()
        let_leases_end(scene, kill_web(scene))
        shop.close()
        fetched = put_back(scene) if options.restore else {}
        if fetched:
            calm_since = time.monotonic()
            shop.open(people(shop, options.people, options.seed, [comes_back]), _COME_BACK_WITHIN)
            shop.close()
        swallowed = course.swallowed(scene) if options.standby else set()
        rest = Rest(scene.database)
        rested = course.wait_for_rest(scene, rest, calm_since)
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
            judge_openings(
                verdict,
                without_others(truth),
                tables,
                shop,
                views,
                scene.mail,
                scene.application,
                when=scene.when,
                lossy=options.restore,
            )
    if options.is_plain:
        verdict.must_be_none("processes of the code before", releasing.still_there(scene))
    course.add_swallowed(verdict, swallowed, options.standby)
    if fetched:
        _add_restored(verdict, fetched)
    where = "SQLite and the embedded Redis" if options.embedded else "PostgreSQL and Redis"
    took = time.monotonic() - started
    title = f"Chaos on {where}: {options.sessions} sessions, seed {options.seed}, {took:.0f} s"
    return course.conclude(
        title, verdict, scene, drove=drove, rest=rest, rested=rested, folder=folder, keep=bool(options.logs)
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    course.add_options(parser, sessions=320, people=48, minutes=0.75)
    database = parser.add_mutually_exclusive_group()
    database.add_argument(
        "--standby",
        choices=("sync", "async"),
        default="",
        help="PostgreSQL with a standby that takes over; commits wait for it, or do not",
    )
    database.add_argument("--restore", action="store_true", help="put a backup of the middle back at the end")
    database.add_argument("--embedded", action="store_true", help="`make run` on SQLite and the embedded Redis instead")
    options = parser.parse_args()
    options.is_plain = not (options.standby or options.restore or options.embedded)
    if options.standby == "async":  # a database that loses commits may lose a whole verification, too
        options.people = 0
    return options


@contextmanager
def _scene(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Scene, Release, dict[Path, float]]]:
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator.start(seed=options.seed))
        mail, application = MailServer(options.seed), Application()
        stack.callback(mail.stop)
        stack.callback(application.stop)
        postgres = redis = None
        if not options.embedded:
            clock_steps = options.is_plain and shutil.which("faketime") is not None
            postgres, redis = Postgres(standby=options.standby, clock_steps=clock_steps), Redis(folder)
            stack.callback(postgres.end)
            stack.callback(redis.end)
        port = free_port()
        environment = course.environment(simulator, mail, application)
        environment |= {"VAR_DIR": str(folder / "var"), "PORT": str(port)}
        if options.is_plain or options.embedded:  # no list tells later whose a redacted session was
            environment["OUR_SESSIONS"] = OUR_SESSIONS
        if postgres and redis:
            environment |= {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url, "WEB_CONCURRENCY": "2"}
        before = releasing.release_before(folder) if options.is_plain else releasing.TODAY
        course.use(environment, before)
        if options.embedded:
            dynos = services.make_run(environment, folder)
        else:
            wrong_clocks = {} if options.standby else _wrong_clocks(options.seed)
            dynos = services.procfile({**environment, **before.variables}, folder, wrong_clocks, before.code)
        platform = Platform(dynos)
        stack.callback(platform.end)
        platform.start()
        database = environment.get("DATABASE_URL", f"sqlite:///{settings().embedded_file}")
        scene = Scene(
            platform,
            mail,
            application,
            simulator,
            database,
            course.longest_fault(options.minutes),
            [f"127.0.0.1:{port}"],
            environment,
            postgres,
            redis,
        )
        course.expect_deliveries(scene)
        yield scene, before, {dyno.log: dyno.ahead for dyno in dynos}


def _drive_and_rage(scene: Scene, shop: Shop, before: Release, options: argparse.Namespace) -> float:
    kinds = faults.EMBEDDED if options.embedded else faults.STANDBY if options.standby else faults.FAULTS
    lanes = [kinds, faults.OUTSIDE]
    if options.people:
        lanes.append(asking.EMBEDDED if options.embedded else asking.ASKING)
    until, others = time.monotonic() + options.minutes * 60, []
    if options.restore:
        others.append(threading.Thread(target=back_up, args=(scene, until - options.minutes * 30)))
    if options.is_plain:
        others.append(threading.Thread(target=releasing.deploy_today, args=(scene, before, options.seed, until)))
    if scene.postgres and (clock := scene.postgres.clock):
        others.append(threading.Thread(target=clock.step_now_and_then, args=(scene.happened, options.seed, until)))
    return course.drive_and_rage(scene, shop, options, lanes, *others)


def _wrong_clocks(seed: int) -> dict[str, float]:
    """The seconds by which the clock of each process's host is ahead of the database's."""
    if shutil.which("faketime") is None:
        return {}
    return {name: random.Random(f"{name}{seed}").choice(WRONG_CLOCKS) for name in ("web", "worker", "clock")}


def _add_restored(verdict: Verdict, fetched: dict[str, Any]) -> None:
    counts = ("verifications_found", "generations_moved", "events_delivered_before", "events_undelivered")
    verdict.figures["the backup lacked"] = ", ".join(f"{name.replace('_', ' ')}: {fetched[name]}" for name in counts)
    verdict.must_be_none("left by `worker restored`", [*fetched["failed"], *fetched["stopped"]])


if __name__ == "__main__":
    sys.exit(main())
