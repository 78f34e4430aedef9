"""Redis in other setups: TLS, passwords, Sentinels that fail over under load, and servers that we cannot use."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlmodel import col, func, select

from config import broker
from config.database import transaction
from handlers.operator.checks import checks
from handlers.record.events import Status
from handlers.tables.models import VerificationRecord
from receiver import health
from tests.chaos.stores import free_port
from tests.support import databases
from tests.support.facts import payload
from tests.support.processes import Service, service
from tests.support.redises import MASTER, PASSWORD, SENTINEL_PASSWORD, other_redis, tls_before, watched_pair
from tests.support.waiting import wait_until
from worker.run.broker import redis_binary

EVENTS = 150


@contextmanager
def _service(folder: Path, database_url: str, redis_url: str, **variables: str) -> Iterator[Service]:
    with service(folder / "service", database_url, REDIS_URL=redis_url, **variables) as made:
        yield made


def _diagnosis(made: Service) -> list[tuple[str, str]]:
    """The doctor's lines about Redis, by the command in another process."""
    lines = json.loads(made.run("doctor", "--json").stdout)
    return [(line["level"], line["words"]) for line in lines if line["what"] == "redis"]


def _findings(environment: pytest.MonkeyPatch, url: str) -> list[tuple[str, str]]:
    """The doctor's lines here, as of a process that has just begun."""
    environment.setenv("REDIS_URL", url)
    databases.forget_process_state()
    environment.setattr(broker, "_outage", broker._Outage())
    broker.producers.cache_clear()
    return list(checks(broker.condition)["redis"]())


@pytest.mark.processes
def test_a_failover_under_load_is_followed_by_all_and_loses_nothing(tmp_path: Path, database_url: str) -> None:
    with watched_pair(tmp_path) as (master, replica, url), _service(tmp_path, database_url, url) as made:
        made.start("web", "worker", "clock")
        assert "FAIL" not in {level for level, _ in _diagnosis(made)}
        delivered = threading.Thread(target=_deliver_all, args=(made,))
        delivered.start()
        wait_until(lambda: _verified() > EVENTS // 5)
        master.stop()
        with replica.client() as client:
            wait_until(lambda: client.info("replication")["role"] == "master")
            delivered.join()
            wait_until(lambda: _verified() == EVENTS, made.logs)
            wait_until(lambda: len(made.mails()) == EVENTS, made.logs)
            master.start()  # until its Sentinel corrects it, it acts as the master
            assert made.deliver(payload("verified", session_id="vs_late", event_id="evt_late")) == "accepted"
            wait_until(lambda: _verified() == EVENTS + 1, made.logs)
            calls = client.info("commandstats")
        assert {"cmdstat_brpop", "cmdstat_lpush", "cmdstat_llen"} <= calls.keys()
        assert made.log("worker").count("ready.") == 1
        assert "FAIL" not in {level for level, _ in _diagnosis(made)}
    for secret in (PASSWORD, "p%40ss", SENTINEL_PASSWORD, "an%C3"):
        assert secret not in made.logs()


def _deliver_all(made: Service) -> None:
    for number in range(EVENTS):
        about = payload("verified", session_id=f"vs_{number}", event_id=f"evt_{number}", report=f"vr_{number}")
        assert made.deliver(about) == "accepted"


def _verified() -> int:
    verified = select(func.count()).where(col(VerificationRecord.status) == Status.VERIFIED)
    with transaction() as session:
        return session.scalars(verified).one()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate, and one for this machine that it has signed, with its key."""
    folder = tmp_path_factory.mktemp("authority")
    ours = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    # RFC 5280 asks it of an authority; Python insists since 3.13.
    signs = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _run([*ours, "-subj", "/CN=Ours", *signs, "-keyout", "ca.key", "-out", "ca.pem"], folder)
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    _run([*ours, "-subj", "/CN=localhost", *signed, "-keyout", "redis.key", "-out", "redis.pem"], folder)
    return folder


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def encrypted(tmp_path: Path, authority: Path) -> Iterator[int]:
    """The port of a server that speaks TLS alone, and wants a password."""
    with (
        other_redis(tmp_path / "redis", requirepass="c4nary") as server,
        tls_before(server.port, authority / "redis.pem", authority / "redis.key") as port,
    ):
        yield port


VERIFIED = ("OK", "to be reached by TLS, verifying its certificate")
UNVERIFIED = "to be reached by TLS, but its certificate is not verified, as"
LATER = "nothing is lost, but nothing is done until this is mended: see REDIS_URL"


@pytest.mark.parametrize(
    ("password", "words", "dyno", "found"),
    [
        ("c4nary", "ssl_ca_certs={ca}", "", [VERIFIED]),
        ("c4nary", "ssl_ca_certs={ca}&ssl_cert_reqs=required", "web.1", [VERIFIED]),
        ("c4nary", "", "", [VERIFIED, ("FAIL", f"its certificate is not trusted: {LATER}")]),
        (
            "c4nary",
            "ssl_cert_reqs=CERT_REQUIRED",
            "web.1",
            [VERIFIED, ("FAIL", f"its certificate is not trusted: {LATER}")],
        ),
        ("c4nary", "ssl_cert_reqs=none", "", [("WARN", f"{UNVERIFIED} REDIS_URL says")]),
        ("c4nary", "", "web.1", [("WARN", f"{UNVERIFIED} this platform signs its own")]),
        ("wrong", "ssl_ca_certs={ca}", "", [VERIFIED, ("FAIL", f"it refuses the password or the user: {LATER}")]),
    ],
)
def test_a_certificate_is_verified_unless_the_platform_or_the_url_says_otherwise(
    password: str,
    words: str,
    dyno: str,
    found: list[tuple[str, str]],
    encrypted: int,
    authority: Path,
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DYNO", dyno)
    url = f"rediss://:{password}@localhost:{encrypted}?{words.format(ca=authority / 'ca.pem')}"
    said = _findings(environment, url)
    assert said[: len(found)] == found
    assert len(said) == (len(found) if "FAIL" in dict(found) else len(found) + 2)


@pytest.mark.processes
def test_every_process_says_whom_it_trusts_and_why_it_cannot_go_on(
    encrypted: int, tmp_path: Path, database_url: str
) -> None:
    with _service(tmp_path, database_url, f"rediss://:c4nary@localhost:{encrypted}") as made:
        made.start("web")
        made.launch("worker")
        assert made.deliver(payload("verified")) == "accepted"
        wait_until(lambda: "its certificate is not trusted" in made.log("web"), made.logs)
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in made.log("worker"), made.logs)
        for name in ("web", "worker"):
            assert "broker.verified" in made.log(name)
    assert "c4nary" not in made.logs()


def test_a_master_that_nobody_names_and_a_login_that_a_sentinel_refuses_read_differently(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    with watched_pair(tmp_path) as (_, _, url):
        assert "FAIL" not in dict(_findings(environment, url))
        for wrong, why in (
            (url.replace(MASTER, "another"), "no Sentinel that answers, and is trusted, names a master that is up"),
            (url.replace("sentinel_password=", "sentinel_password=x"), "it refuses the password or the user"),
            (url.replace("sentinel://:", "sentinel://:x"), "it refuses the password or the user"),
        ):
            assert _findings(environment, wrong)[1:] == [("FAIL", f"{why}: {LATER}")]


def test_a_server_that_will_not_do_is_named(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    bus = {"cluster_enabled": "yes", "cluster_port": str(free_port())}
    with (
        other_redis(tmp_path / "master") as master,
        other_redis(tmp_path / "replica", replicaof=f"127.0.0.1 {master.port}") as replica,
        other_redis(tmp_path / "node", **bus) as node,
        other_redis(tmp_path / "small", maxmemory="100mb", maxmemory_policy="allkeys-lru") as small,
        small.client() as somebody,
    ):
        somebody.set("identity:events", "a text, not a list")
        for port, level, mark in (
            (replica.port, "FAIL", "it is a replica: set"),
            (node.port, "FAIL", "it is a node of a cluster, which splits our keys: set"),
            (small.port, "WARN", "maxmemory-policy allkeys-lru throws messages away"),
            (small.port, "FAIL", "one of our keys holds something else"),
            (free_port(), "FAIL", "it cannot be reached"),
        ):
            said = _findings(environment, f"redis://127.0.0.1:{port}")
            assert [found for found, words in said if words.startswith(mark)] == [level], said


def test_a_server_that_is_reached_in_the_wrong_way_is_told_by_what_is_wrong(
    tmp_path: Path, environment: pytest.MonkeyPatch, authority: Path, encrypted: int
) -> None:
    files = {"cert-file": "redis.pem", "key-file": "redis.key", "ca-cert-file": "ca.pem"}
    wants = {
        "port": "0",
        "tls-port": str(free_port()),
        **{f"tls-{what}": str(authority / file) for what, file in files.items()},
    }
    trusted = f"ssl_ca_certs={authority / 'ca.pem'}"
    with (
        other_redis(tmp_path / "plain") as plain,
        other_redis(tmp_path / "lost", replicaof=f"127.0.0.1 {free_port()}") as lost,
        lost.client() as administrator,
        _without_a_client(tmp_path / "mutual", wants),
    ):
        administrator.config_set("replica-serve-stale-data", "no")
        hangs_up = "it hangs up: it starts, stops, or wants TLS (rediss:), or a certificate of ours (ssl_certfile)"
        for url, *whys in (
            (f"redis://127.0.0.1:{plain.port}/99", "it has no database of that number"),
            (f"rediss://127.0.0.1:{plain.port}", "it does not speak TLS as we do"),
            (f"redis://127.0.0.1:{encrypted}", hangs_up),
            (f"redis://127.0.0.1:{lost.port}", "it is a replica, whose master is away"),
            # Its alert may be overtaken by its end of the connection.
            (
                f"rediss://localhost:{wants['tls-port']}?{trusted}",
                "it wants a certificate of ours (ssl_certfile)",
                hangs_up,
            ),
            ("redis://nobody.invalid", "its host's name cannot be found"),
        ):
            said = _findings(environment, url)
            assert any(("FAIL", f"{why}: {LATER}") in said for why in whys), (url, said)


def test_a_user_who_may_not_ask_what_the_server_is_has_all_that_is_needed(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    with other_redis(tmp_path) as guarded, guarded.client() as administrator:
        rights = ("on", ">secret", "~identity:*", "&*", "+@all", "-@dangerous")
        administrator.execute_command("ACL", "SETUSER", "narrow", *rights)
        said = _findings(environment, f"redis://narrow:secret@127.0.0.1:{guarded.port}")
    assert [level for level, _ in said] == ["OK", "WARN"], said
    assert "may not ask" in said[1][1]


@contextmanager
def _without_a_client(folder: Path, options: dict[str, str]) -> Iterator[None]:
    """A server that no client of the tests' reaches: it wants a certificate of theirs."""
    folder.mkdir()
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([str(redis_binary()), *words], stdout=log, stderr=log)
    try:
        wait_until(lambda: "Ready to accept connections" in (folder / "log").read_text())
        yield
    finally:
        running.kill()
        running.wait()


def test_what_keeps_a_worker_from_taking_messages_is_found_though_they_can_be_sent(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    with (
        other_redis(tmp_path / "taken") as taken,
        other_redis(tmp_path / "guarded") as guarded,
        other_redis(tmp_path / "alone", min_replicas_to_write="1") as alone,
        other_redis(tmp_path / "crowded", maxclients="1") as crowded,
        taken.client() as somebody,
        crowded.client() as first,
        guarded.client() as administrator,
    ):
        assert first.ping()
        somebody.set("identity:clock", "a text, not a list")
        for number, command in enumerate(("brpop", "multi")):
            rights = ("on", ">secret", "~*", "&*", "+@all", f"-{command}")
            administrator.execute_command("ACL", "SETUSER", f"user{number}", *rights)
        for address, mark in (
            (f"127.0.0.1:{taken.port}", "one of our keys holds something else"),
            *((f"user{n}:secret@127.0.0.1:{guarded.port}", "its user may not do what is needed") for n in range(2)),
            (f"127.0.0.1:{alone.port}", "it has fewer replicas than it must have"),
            (f"127.0.0.1:{crowded.port}", "it has no connection free"),
        ):
            said = _findings(environment, f"redis://{address}")
            assert [found for found, words in said if words.startswith(mark)] == ["FAIL"], said


@pytest.mark.usefixtures("database_url")
def test_web_says_of_the_broker_how_it_is_now_though_it_had_nothing_to_publish(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    def is_found() -> bool:
        return any(one.what == "redis" for one in health.what_needs_a_hand()[0])

    _findings(environment, f"redis://127.0.0.1:{free_port()}")
    environment.setattr(broker, "_outage", broker._Outage())
    assert is_found()
    with other_redis(tmp_path) as redis:
        _findings(environment, f"redis://127.0.0.1:{redis.port}")
        broker._outage.reason = "it was away"  # the finding of the last delivery
        assert not is_found()
