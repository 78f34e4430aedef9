"""Faults between hosts, of hosts, and of the choice of a primary or master; each is mended at its end."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import product
from random import Random

import psycopg

from config.settings import COMMIT_NAMES
from tests.chaos import course
from tests.chaos.course import answers
from tests.chaos.faults import Fault, Scene, _a_while, _kill_the_sender
from tests.chaos.services import wait_until
from tests.chaos.stores import Postgres
from tests.hosts.network import Network
from tests.hosts.servers import Pooler, Watched
from tests.hosts.wire import Trouble

LINKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "web and PgBouncer": (("web1",), ("pooler",)),
    "web and PostgreSQL": (("web2",), ("db1", "db2")),
    "worker and PgBouncer": (("worker1",), ("pooler",)),
    "worker and PostgreSQL": (("worker2",), ("db1", "db2")),
    "PgBouncer and PostgreSQL": (("pooler",), ("db1", "db2")),
    "primary and standby": (("db1",), ("db2",)),
    "web and Redis": (("web1", "web2"), ("redis1", "redis2")),
    "worker and Redis": (("worker1", "worker2"), ("redis1", "redis2")),
    "clock and Redis": (("clock",), ("redis1", "redis2")),
    "Redis and its replica": (("redis1",), ("redis2",)),
    "Sentinel and Redis": (("sentinel",), ("redis1", "redis2")),
    "service and Sentinel": (("web1", "worker1", "clock"), ("sentinel",)),
    "web and Stripe": (("web1", "web2"), ("stripe",)),
    "worker and Stripe": (("worker1", "worker2"), ("stripe",)),
    "worker and SMTP server": (("worker1", "worker2"), ("mail",)),
    "worker and application": (("worker1", "worker2"), ("application",)),
}
_LOST_WITHIN = 20.0  # seconds before a failover that a standby may not have heard
_RETURNS_WITHIN = 90.0  # seconds: by then other faults are over, and no wait of ours is as long
# A web process writes down only that it lives, and a worker writes a clock's word down.
_LAST_WORK = (
    "SELECT host, max(CASE kind WHEN 'worker' THEN worked_at ELSE last_at END) FROM identity_heartbeat GROUP BY 1"
)
_READY_WITHIN = 40.0  # seconds: of a process that starts on a busy machine
# Every few faults one lasts longer than the some ten seconds after which the kernel and libpq give a connection up.
_OUTLASTS, _SECONDS = 0.25, (12.0, 20.0)
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Return:
    """The seconds from a new primary's start until the last of our hosts worked again; and the hosts that never did."""

    seconds: float
    missing: list[str]


@dataclass(slots=True)
class Hosts:
    """The machines of a scene."""

    network: Network
    postgres: Postgres
    pooler: Pooler
    redis: Watched
    db: dict[str, str]  # each address's host
    version: int = 0
    returns: list[Return] = field(default_factory=list)


def of_the_network(hosts: Hosts) -> dict[str, Fault]:
    """Each fault of a piece of wire, on each piece."""
    return {f"{how}: {link}": partial(_WAYS[how], hosts.network, link) for link, how in product(LINKS, _WAYS)}


def of_the_servers(hosts: Hosts) -> dict[str, Fault]:
    """Each fault of the servers under the service, and of the choice of a primary or master."""
    return {
        "primary's host dies, the standby is promoted": partial(_fail_over, hosts, False),
        "primary's host cut off alive, the standby is promoted": partial(_fail_over, hosts, True),
        "primary stands still, the standby is promoted": partial(_replace_frozen, hosts),
        "standby's host dies": partial(_lose_standby, hosts),
        "Redis master's host dies, the replica takes over": partial(_fail_redis_over, hosts),
        "Redis master's host cut off alive, the replica takes over": partial(_cut_redis_off, hosts),
        "Sentinel's host dies": partial(_lose_sentinel, hosts),
        "PgBouncer's host dies": partial(_lose_pooler, hosts),
    }


def of_our_hosts(hosts: Hosts) -> dict[str, Fault]:
    """Each fault of the service's own hosts."""
    found: dict[str, Fault] = {
        "a new version, one host at a time": partial(_deploy_one_by_one, hosts),
        "workers killed as a mail is accepted": partial(_kill_the_sender, _kill_workers),
    }
    for kind, names in _OURS.items():
        found[f"{kind} host dies"] = partial(_switch_off, hosts, names)
        found[f"{kind} host cut off"] = partial(_cut_off, hosts, names)
        found[f"{kind} host stands still"] = partial(_freeze, names)
    return found


def _pairs(link: str, dice: Random) -> list[Pair]:
    """One of the hosts that ask, beside each that may answer."""
    ask, answer = LINKS[link]
    return list(product([dice.choice(ask)], answer))


def _turned(pairs: list[Pair]) -> list[Pair]:
    return [(receiver, sender) for sender, receiver in pairs]


def _for_a_while(happens: AbstractContextManager[None], scene: Scene, dice: Random) -> None:
    with happens:
        time.sleep(dice.uniform(*_SECONDS) if dice.random() < _OUTLASTS else _a_while(scene, dice))


def _cut(network: Network, link: str, scene: Scene, dice: Random) -> None:
    pairs = _pairs(link, dice)
    _for_a_while(network.cut(*pairs, *_turned(pairs)), scene, dice)


def _lose_requests(network: Network, link: str, scene: Scene, dice: Random) -> None:
    _for_a_while(network.cut(*_pairs(link, dice)), scene, dice)


def _lose_answers(network: Network, link: str, scene: Scene, dice: Random) -> None:
    """Loses the answers: requests are carried out, and nobody hears of it."""
    _for_a_while(network.cut(*_turned(_pairs(link, dice))), scene, dice)


def _slow_down(network: Network, link: str, scene: Scene, dice: Random) -> None:
    pairs, late = _pairs(link, dice), dice.uniform(0.02, 0.4)
    _for_a_while(network.disturbed(Trouble(late, late / 2, 0.0), *pairs, *_turned(pairs)), scene, dice)


def _drop_packets(network: Network, link: str, scene: Scene, dice: Random) -> None:
    pairs, loss = _pairs(link, dice), dice.uniform(0.05, 0.4)
    _for_a_while(network.disturbed(Trouble(0.0, 0.01, loss), *pairs, *_turned(pairs)), scene, dice)


_WAYS: dict[str, Callable[[Network, str, Scene, Random], None]] = {
    "cut both ways": _cut,
    "requests vanish": _lose_requests,
    "answers vanish": _lose_answers,
    "slow": _slow_down,
    "packets dropped": _drop_packets,
}
_OURS = {"web": ("web1", "web2"), "worker": ("worker1", "worker2"), "clock": ("clock",)}


def _fail_over(hosts: Hosts, is_alive: bool, scene: Scene, dice: Random) -> None:
    """Silences the primary, whose host dies or is cut off, and promotes the standby.

    An asynchronous standby has not heard the last seconds either.
    """
    network, postgres = hosts.network, hosts.postgres
    host = hosts.db[postgres.address]
    other = next(name for name in hosts.db.values() if name != host)
    began = time.time()
    if not postgres.is_synchronous:
        _for_a_while(network.cut((host, other)), scene, dice)
    with network.unplugged(host):
        if not is_alive:
            postgres.stop()
        time.sleep(_a_while(scene, dice))
        postgres.promote()
        hosts.pooler.lead_to(postgres.address)
        time.sleep(_a_while(scene, dice))
        if is_alive:
            postgres.stop_other()
    hosts.postgres.note_loss(scene.losses, began, _LOST_WITHIN)
    _follow_and_return(hosts, scene)


def _replace_frozen(hosts: Hosts, scene: Scene, dice: Random) -> None:
    """Freezes the primary, but not its machine: no connection ends before somebody switches it off."""
    began = time.time()
    hosts.postgres.freeze()
    time.sleep(_a_while(scene, dice))
    hosts.postgres.promote()
    hosts.pooler.lead_to(hosts.postgres.address)
    time.sleep(_a_while(scene, dice))
    hosts.postgres.end_frozen()
    hosts.postgres.note_loss(scene.losses, began, _LOST_WITHIN)
    _follow_and_return(hosts, scene)


def _follow_and_return(hosts: Hosts, scene: Scene) -> None:
    """Makes the old primary follow the new one, which commits may wait for; then waits until every host works."""
    hosts.postgres.rebuild()
    since, began = datetime.now(UTC), time.monotonic()
    late: list[str] = []

    def all_work() -> bool:
        time.sleep(1.0)
        course.bring_people(scene.simulator, int(time.monotonic() * 10), 3)
        with suppress(psycopg.Error), psycopg.connect(hosts.postgres.url, connect_timeout=5) as connection:
            seen: dict[str, datetime] = dict(connection.execute(_LAST_WORK).fetchall())
            late[:] = [name for names in _OURS.values() for name in names if not seen.get(name, since) > since]
            return not late
        return False

    wait_until(all_work, _RETURNS_WITHIN)
    hosts.returns.append(Return(time.monotonic() - began, list(late)))


def _lose_standby(hosts: Hosts, scene: Scene, dice: Random) -> None:
    """Ends the standby's host: commits that wait for it go on waiting."""
    host = next(name for address, name in hosts.db.items() if address != hosts.postgres.address)
    with hosts.network.unplugged(host):
        hosts.postgres.stop_other()
        time.sleep(_a_while(scene, dice))
    hosts.postgres.rebuild()


def _fail_redis_over(hosts: Hosts, _: Scene, __: Random) -> bool:
    master = hosts.redis.master()
    with hosts.network.unplugged(master):
        hosts.redis.servers[master].stop()
        came = hosts.redis.fails_over(master)
    hosts.redis.servers[master].start()
    return came


def _cut_redis_off(hosts: Hosts, scene: Scene, dice: Random) -> bool:
    """Cuts Redis's master off: for a while there are two masters."""
    master = hosts.redis.master()
    with hosts.network.unplugged(master):
        came = hosts.redis.fails_over(master)
        time.sleep(_a_while(scene, dice))
    return came


def _lose_sentinel(hosts: Hosts, scene: Scene, dice: Random) -> None:
    hosts.redis.sentinel.stop()
    with hosts.network.unplugged("sentinel"):
        time.sleep(_a_while(scene, dice))
    hosts.redis.sentinel.start()


def _lose_pooler(hosts: Hosts, scene: Scene, dice: Random) -> None:
    with hosts.network.unplugged("pooler"):
        hosts.pooler.kill()
        time.sleep(_a_while(scene, dice))
    hosts.pooler.start()


def _deploy_one_by_one(hosts: Hosts, scene: Scene, _: Random) -> None:
    """Each host in turn ends the old version and begins the new one, while the others run either."""
    hosts.version += 1
    for name, dyno in scene.platform.dynos.items():
        dyno.environment = {**dyno.environment, COMMIT_NAMES[0]: f"{hosts.version:07x}"}
        said = dyno.log.stat().st_size
        scene.platform.deploy(name)
        place = next((web for web in scene.webs if web.startswith(f"{hosts.network.addresses[name]}:")), None)
        if place:
            wait_until(partial(answers, place), _READY_WITHIN)
        else:
            wait_until(lambda dyno=dyno, said=said: dyno.log.stat().st_size > said, _READY_WITHIN)  # type: ignore[misc]


def _kill_workers(scene: Scene, _: Random) -> None:
    for name in _OURS["worker"]:
        scene.platform.kill(name)


def _switch_off(hosts: Hosts, names: tuple[str, ...], scene: Scene, dice: Random) -> None:
    """Switches a host off without a word: its connections hear nothing of it."""
    name = dice.choice(names)
    with hosts.network.unplugged(name):
        scene.platform.switch_off(name)
        time.sleep(_a_while(scene, dice))
    scene.platform.switch_on(name)


def _cut_off(hosts: Hosts, names: tuple[str, ...], scene: Scene, dice: Random) -> None:
    """Cuts a host off, which goes on, alone."""
    _for_a_while(hosts.network.unplugged(dice.choice(names)), scene, dice)


def _freeze(names: tuple[str, ...], scene: Scene, dice: Random) -> None:
    dyno = scene.platform.dynos[dice.choice(names)]
    process = dyno.process
    if process is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(_a_while(scene, dice))
        os.killpg(process.pid, signal.SIGCONT)
