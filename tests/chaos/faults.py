"""The faults by their names; each is mended at its end.

FAULTS are for a whole deployment, STANDBY for one whose PostgreSQL has a standby, EMBEDDED for `make run`.
"""

import os
import random
import re
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat

from tests.chaos.outside import Application, MailServer
from tests.chaos.services import Platform, command_of, descendants, wait_until
from tests.chaos.stores import Loss, Postgres, Redis
from tests.simulator.client import Simulator
from tests.simulator.nonsense import KINDS
from tests.support.foreign import READABLE, UNREADABLE
from tests.support.processes import A_CLOCK, A_WORKER

_LOST_WITHIN = 10.0  # seconds before a failover that a standby may not have heard


@dataclass(slots=True)
class Scene:
    """Everything that a fault may touch."""

    platform: Platform
    mail: MailServer
    application: Application
    simulator: Simulator
    database: str  # its URL
    longest: float  # seconds a fault lasts
    webs: Sequence[str]  # the host and port of each web process
    environment: Mapping[str, str]  # an operator's, for commands
    postgres: Postgres | None = None
    redis: Redis | None = None
    happened: Counter[str] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)
    backed_up_at: float = 0.0

    @property
    def clock_ahead(self) -> float:
        """Seconds that the database's clock is ahead of the true time."""
        return self.postgres.clock.ahead if self.postgres and self.postgres.clock else 0.0

    def when(self, shown: float) -> float:
        """The true moment at which the database's clock showed this: the last, if there were several."""
        return self.postgres.clock.when(shown) if self.postgres and self.postgres.clock else shown


_NEXT_MAIL_WITHIN = 12.0  # seconds
_CROWD = 400
_POST = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\n"
_HALF_A_BODY = b"Stripe-Signature: t=NOW,v1=0\r\nContent-Length: 400000\r\n\r\n" + b"x" * 300_000

Fault = Callable[[Scene, random.Random], bool | None]  # False: it did not happen


def rage(scene: Scene, kinds: Mapping[str, Fault], seed: int, until: float) -> None:
    """Makes one fault after the other until then, each kind before any comes twice; the same seed does the same."""
    dice = random.Random(seed)
    for kind in chain.from_iterable(_shuffled(dice, rounds) for rounds in repeat(list(kinds))):
        if time.monotonic() > until:
            return
        if kinds[kind](scene, dice) is not False:
            scene.happened[kind] += 1
        time.sleep(dice.uniform(0.2, scene.longest / 3))


def _shuffled(dice: random.Random, kinds: list[str]) -> list[str]:
    return dice.sample(kinds, len(kinds))


def _a_while(scene: Scene, dice: random.Random) -> float:
    return dice.uniform(scene.longest / 4, scene.longest)


def _kill(name: str, scene: Scene, _: random.Random) -> None:
    scene.platform.kill(name)


def _kill_one_web_process(scene: Scene, dice: random.Random) -> None:
    processes = scene.platform.dynos["web"].children()
    if processes:
        _end(dice.choice(processes))


def _deploy(scene: Scene, _: random.Random) -> None:
    scene.platform.deploy()


def _restart_redis(scene: Scene, _: random.Random) -> None:
    _redis(scene).kill()
    _redis(scene).start()


def _empty_redis(scene: Scene, _: random.Random) -> None:
    _redis(scene).empty()


def _freeze_redis(scene: Scene, dice: random.Random) -> None:
    _redis(scene).freeze()
    time.sleep(_a_while(scene, dice))
    _redis(scene).thaw()


def _fill_redis(scene: Scene, dice: random.Random) -> None:
    _redis(scene).limit_memory(1)
    time.sleep(_a_while(scene, dice))
    _redis(scene).limit_memory(0)


def _remove_redis(scene: Scene, dice: random.Random) -> None:
    _redis(scene).kill()
    time.sleep(_a_while(scene, dice))
    _redis(scene).start()


def _write_to_redis(scene: Scene, _: random.Random) -> None:
    for queue in ("clock", "events", "outbox"):
        _redis(scene).client().lpush(f"identity:{queue}", *UNREADABLE.values(), *READABLE.values())


def _restart_postgres(scene: Scene, _: random.Random) -> None:
    _postgres(scene).stop()
    _postgres(scene).start()


def _fail_over(scene: Scene, dice: random.Random) -> None:
    began = time.time()
    _postgres(scene).fail_over(lags=dice.uniform(2.0, 5.0))
    _postgres(scene).note_loss(scene.losses, began, _LOST_WITHIN)


def _cut_postgres(scene: Scene, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 5)):
        _postgres(scene).cut_connections()
        time.sleep(dice.uniform(0, 0.5))


def _freeze_postgres(scene: Scene, dice: random.Random) -> None:
    _postgres(scene).freeze()
    time.sleep(_outage(scene, dice))
    _postgres(scene).thaw()


def _remove_postgres(scene: Scene, dice: random.Random) -> None:
    _postgres(scene).stop()
    time.sleep(_outage(scene, dice))
    _postgres(scene).start()


def _outage(scene: Scene, dice: random.Random) -> float:
    whole_minute = scene.longest >= 10 and dice.random() < 0.2
    return 60.0 if whole_minute else _a_while(scene, dice)


def _mail(mood: str, scene: Scene, dice: random.Random) -> None:
    scene.mail.set_mood(mood)
    time.sleep(_a_while(scene, dice))
    scene.mail.set_mood("well")


def _kill_the_sender(kill: Fault, scene: Scene, dice: random.Random) -> bool:
    """Kills in the one window that can send a mail twice: it is accepted, and nobody has written that down."""
    scene.mail.at_next_acceptance = lambda: kill(scene, dice)
    came = wait_until(lambda: scene.mail.at_next_acceptance is None, _NEXT_MAIL_WITHIN)
    scene.mail.at_next_acceptance = None
    return came


def _stripe(trouble: dict[str, object], scene: Scene, dice: random.Random) -> None:
    scene.simulator.post("/faults", {"count": None, "path": "/v1/", **trouble})
    time.sleep(_a_while(scene, dice))
    scene.simulator.clear_faults()


def _nonsense(scene: Scene, dice: random.Random) -> None:
    for kind in dice.sample(sorted(KINDS), 3):
        _stripe({"nonsense": kind}, scene, dice)


def _application(status: int, delay: float, scene: Scene, dice: random.Random) -> None:
    scene.application.status, scene.application.delay = status, delay
    time.sleep(_a_while(scene, dice))
    scene.application.status, scene.application.delay = 200, 0.0


def _crowd(said: bytes, scene: Scene, dice: random.Random) -> None:
    """Opens hundreds of connections to web that begin like this, and go no further."""
    host, port = dice.choice(scene.webs).split(":")
    with ExitStack() as open_:
        for _ in range(_CROWD):
            with suppress(OSError):
                connection = open_.enter_context(socket.create_connection((host, int(port)), 1.0))
                connection.sendall(said.replace(b"NOW", b"%d" % time.time()))
        time.sleep(_a_while(scene, dice))


def _kill_part(words: str, scene: Scene, _: random.Random) -> None:
    scene.platform.dynos["all"].expect_end()
    for pid in _parts(scene, words):
        _end(pid)


def _freeze_part(words: str, scene: Scene, dice: random.Random) -> None:
    with _stopped(_parts(scene, words)):
        time.sleep(_a_while(scene, dice))


def _fill_disk(scene: Scene, dice: random.Random) -> None:
    """Makes every write of a file by web and worker fail, as on a full disk."""
    with _limited([*_parts(scene, "receiver"), *_parts(scene, A_WORKER)]):
        time.sleep(_a_while(scene, dice))


def _parts(scene: Scene, words: str) -> list[int]:
    process = scene.platform.dynos["all"].process
    pids = descendants(process.pid) if process else []
    return [pid for pid in pids if re.search(words, command_of(pid))]


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _limited(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        _limit_files(pid, 1)
    yield
    for pid in pids:
        _limit_files(pid, resource.RLIM_INFINITY)


def _limit_files(pid: int, size: int) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _redis(scene: Scene) -> Redis:
    assert scene.redis is not None
    return scene.redis


def _postgres(scene: Scene) -> Postgres:
    assert scene.postgres is not None
    return scene.postgres


OUTSIDE: dict[str, Fault] = {
    "mail slow": partial(_mail, "slow"),
    "mail 451": partial(_mail, "busy"),
    "mail 450 to some": partial(_mail, "picky"),
    "mail 550 to some": partial(_mail, "strict"),
    "mail hanging": partial(_mail, "hanging"),
    "mail answering late": partial(_mail, "late"),
    "mail taken without a word": partial(_mail, "mute"),
    "mail away": partial(_mail, "away"),
    "Stripe 500": partial(_stripe, {"status": 500}),
    "Stripe 500 about some": partial(_stripe, {"status": 500, "holding": "vs_1a"}),
    "Stripe 429": partial(_stripe, {"status": 429}),
    "Stripe 403": partial(_stripe, {"status": 403}),
    "Stripe dripping": partial(_stripe, {"drip": 0.5}),
    "Stripe behind a proxy": _nonsense,
    "Stripe slow": partial(_stripe, {"delay": 2.0}),
    "Stripe hanging": partial(_stripe, {"hang": True}),
    "application 500": partial(_application, 500, 0.0),
    "application behind a proxy": partial(_application, 404, 0.0),
    "application slow": partial(_application, 200, 3.0),
    "a silent crowd": partial(_crowd, b""),
    "a crowd with half a head": partial(_crowd, _POST + b"X: " + b"y" * 10_000),
    "a crowd with half a body": partial(_crowd, _POST + _HALF_A_BODY),
}
FAULTS: dict[str, Fault] = {
    "web killed": partial(_kill, "web"),
    "one web process killed": _kill_one_web_process,
    "worker killed": partial(_kill, "worker"),
    "worker killed as a mail is accepted": partial(_kill_the_sender, partial(_kill, "worker")),
    "clock killed": partial(_kill, "clock"),
    "deploy": _deploy,
    "Redis restarted empty": _restart_redis,
    "Redis emptied": _empty_redis,
    "Redis frozen": _freeze_redis,
    "Redis out of memory": _fill_redis,
    "Redis unreachable": _remove_redis,
    "messages of others in Redis": _write_to_redis,
    "PostgreSQL restarted": _restart_postgres,
    "PostgreSQL connections cut": _cut_postgres,
    "PostgreSQL frozen": _freeze_postgres,
    "PostgreSQL unreachable": _remove_postgres,
}
STANDBY: dict[str, Fault] = {
    "PostgreSQL failed over": _fail_over,
    **{name: FAULTS[name] for name in ("worker killed", "one web process killed", "PostgreSQL connections cut")},
}
EMBEDDED: dict[str, Fault] = {
    "everything killed": partial(_kill, "all"),
    "web killed": partial(_kill_part, "receiver"),
    "worker killed": partial(_kill_part, A_WORKER),
    "worker killed as a mail is accepted": partial(_kill_the_sender, partial(_kill_part, A_WORKER)),
    "clock killed": partial(_kill_part, A_CLOCK),
    "Redis killed": partial(_kill_part, "redis.sock"),
    "Redis frozen": partial(_freeze_part, "redis.sock"),
    "restart": _deploy,
    "disk full": _fill_disk,
}
