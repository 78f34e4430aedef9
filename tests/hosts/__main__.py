"""Chaos on twelve hosts, whose wires, servers and clocks fail; everything is compared with the truth at the end."""

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.chaos import course
from tests.chaos import faults as chaos
from tests.chaos.asking import kill_web, let_leases_end
from tests.chaos.faults import Scene
from tests.chaos.openings import judge_openings
from tests.chaos.outside import Application, MailServer
from tests.chaos.services import ROOT, Platform
from tests.chaos.shop import Shop
from tests.chaos.stores import Place, Postgres
from tests.chaos.verdict import Rest, judge, read_tables
from tests.hosts import faults, network
from tests.hosts.dynos import PORT, dyno
from tests.hosts.faults import Hosts
from tests.hosts.network import Network
from tests.hosts.servers import Pooler, Watched
from tests.simulator.client import Simulator

HOSTS = (
    "web1",
    "web2",
    "worker1",
    "worker2",
    "clock",
    "pooler",
    "db1",
    "db2",
    "redis1",
    "redis2",
    "sentinel",
    "stripe",
)
HERE = ("people", "mail", "application")
WRONG_CLOCKS = (-900.0, -90.0, 90.0, 300.0)  # seconds ahead: of one web host and one worker host
_ENDS_WITHIN = 1200.0  # seconds beside the faults, even if something hangs
# The bounds that an operator sets for a role behind a pooler in its transaction mode.
_TIMEOUTS = {"statement_timeout": "15s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s"}


def main() -> int:
    """Returns 0 if nothing was lost, wrong, missing or without a cause, and if no hosts can be made."""
    options = _options()
    if options.inside:
        return _run(options)
    if why := network.why_not():
        sys.stdout.write(f"could not: no hosts can be made here: {why}\n")
        return 0
    again = [sys.executable, "-m", "tests.hosts", "--inside", *sys.argv[1:]]
    network.go_inside(again, options.minutes * 60 + _ENDS_WITHIN)
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    course.add_options(parser, sessions=64, people=12, minutes=0.5)
    parser.add_argument("--async", dest="is_async", action="store_true", help="no commit waits for the standby")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.is_async:  # a database that loses commits may lose a whole verification, too
        options.people = 0
    return options


def _run(options: argparse.Namespace) -> int:
    folder = (options.logs or ROOT / "var" / "hosts").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with _scene(options, folder) as (scene, hosts):
        shop = Shop(scene.webs, scene.simulator)
        if options.is_async:
            course.reconcile(scene)
        lanes = [faults.of_the_network(hosts), faults.of_the_servers(hosts), faults.of_our_hosts(hosts), chaos.OUTSIDE]
        drove = course.drive_and_rage(scene, shop, options, lanes)
        calm_since = time.monotonic()
        let_leases_end(scene, kill_web(scene))
        shop.close()
        swallowed = course.swallowed(scene)
        rest = Rest(scene.database)
        rested = course.wait_for_rest(scene, rest, calm_since)
        truth, tables = scene.simulator.truth(), read_tables(scene.database)
        views = shop.views(tables.verifications)
        scene.platform.stop()
        logs = {dyno.log: dyno.ahead for dyno in scene.platform.dynos.values()}
        mail, application, deaths = scene.mail, scene.application, scene.platform.deaths
        verdict = judge(truth, tables, mail, application, deaths, logs, scene.losses, lossy=options.is_async)
        if shop.heard:
            judge_openings(verdict, truth, tables, shop, views, mail, application, when=scene.when, lossy=False)
    course.add_swallowed(verdict, swallowed, "async" if options.is_async else "sync")
    verdict.figures["slowest return of our hosts to work under a new primary"] = (
        f"{max((one.seconds for one in hosts.returns), default=0.0):.0f} s, of {len(hosts.returns)}"
    )
    verdict.must_be_none("hosts that did not return", (name for one in hosts.returns for name in one.missing))
    commits = "do not wait for the standby" if options.is_async else "wait for the standby"
    took = time.monotonic() - started
    title = f"{len(HOSTS)} hosts, commits {commits}: {options.sessions} sessions, seed {options.seed}, {took:.0f} s"
    return course.conclude(
        title, verdict, scene, drove=drove, rest=rest, rested=rested, folder=folder, keep=bool(options.logs)
    )


@contextmanager
def _scene(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Scene, Hosts]]:
    with ExitStack() as stack:
        net = Network(HOSTS, HERE)
        simulator = stack.enter_context(
            Simulator.start(12111, seed=options.seed, host=net.addresses["stripe"], on=net.on("stripe"))
        )
        mail = MailServer(options.seed, net.addresses["mail"])
        application = Application(net.addresses["application"])
        stack.callback(mail.stop)
        stack.callback(application.stop)
        db1, db2 = (Place(net.on(name), net.addresses[name]) for name in ("db1", "db2"))
        postgres = Postgres(standby="async" if options.is_async else "sync", places=(db1, db2), under=network.FOLDER)
        stack.callback(postgres.end)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            for name, value in _TIMEOUTS.items():
                connection.execute(f"ALTER ROLE postgres SET {name} = '{value}'")
        pooler = Pooler(net, "pooler", postgres)
        redis = Watched(net, ("redis1", "redis2"), "sentinel", folder)
        direct = f"postgresql://postgres@{db1.address},{db2.address}/postgres?target_session_attrs=read-write"
        environment = course.environment(simulator, mail, application)
        environment |= {"VAR_DIR": str(folder / "var"), "DATABASE_URL": direct, "REDIS_URL": redis.url}
        environment |= {"BACKOFF_SECONDS": "5"}  # so many faults come that most rows have several failures behind them
        course.use(environment)
        ahead = _wrong_clocks(options.seed)
        dynos = [
            dyno(net, name, {**environment, "DATABASE_URL": url}, folder, ahead.get(name, 0.0))
            for name, url in (
                ("web1", pooler.url),
                ("web2", direct),
                ("worker1", pooler.url),
                ("worker2", direct),
                ("clock", direct),
            )
        ]
        platform = Platform(dynos)
        stack.callback(platform.end)
        platform.start()
        scene = Scene(
            platform,
            mail,
            application,
            simulator,
            postgres.url,
            course.longest_fault(options.minutes),
            [f"{net.addresses[name]}:{PORT}" for name in ("web1", "web2")],
            environment,
        )
        course.expect_deliveries(scene)
        by_address = {net.addresses[name]: name for name in ("db1", "db2")}
        yield scene, Hosts(net, postgres, pooler, redis, by_address)


def _wrong_clocks(seed: int) -> dict[str, float]:
    if shutil.which("faketime") is None:
        return {}
    dice = random.Random(seed)
    return {f"{kind}{dice.choice((1, 2))}": dice.choice(WRONG_CLOCKS) for kind in ("web", "worker")}


if __name__ == "__main__":
    sys.exit(main())
