"""DATABASE_URL as both drivers read it, and what is refused because only one would follow it."""

import socket
import ssl
from typing import Any

import pytest
from asyncpg import connect_utils

from config.database import asyncpg_addresses, engine, keep_alive
from config.settings import SettingsError
from tests.support import databases

_NOT_SAID = {
    "passfile": None,
    "command_timeout": None,
    "statement_cache_size": 0,
    "max_cached_statement_lifetime": 0,
    "max_cacheable_statement_size": 0,
    "direct_tls": None,
    "service": None,
    "servicefile": None,
    **dict.fromkeys(("user", "password", "database", "target_session_attrs", "krbsrvname", "gsslib")),
}


@pytest.fixture(autouse=True)
def _no_other_words(environment: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGSERVICE"):
        environment.delenv(name, raising=False)


def _use(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("DATABASE_URL", url)
    databases.forget_process_state()


def _as_asyncpg_reads_it(address: dict[str, Any]) -> tuple[list[Any], Any]:
    said = {word: value for word, value in address.items() if word != "timeout"}
    addresses, parameters, _ = connect_utils._parse_connect_arguments(**{**_NOT_SAID, **said})
    return addresses, parameters


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://u:p@h/d", [("h", 5432)]),
        ("postgresql://u:p@h:6432/d", [("h", 6432)]),
        ("postgres://u:p@[::1]:6432/d", [("::1", 6432)]),
        ("postgres://u:p@h1,h2/d", [("h1", 5432), ("h2", 5432)]),
        ("postgres://u:p@h1,h2:6432/d", [("h1", 6432), ("h2", 6432)]),
        ("postgres://u:p@/d?host=h1,h2&port=6432,6433", [("h1", 6432), ("h2", 6433)]),
        ("postgres://u:p@/d?host=h1:6432&host=h2", [("h1", 6432), ("h2", 5432)]),
        ("postgres://u:p@/d?host=/run/pg", ["/run/pg/.s.PGSQL.5432"]),
        ("postgres://u:p@:6432/d?host=/run/pg", ["/run/pg/.s.PGSQL.6432"]),
    ],
)
def test_each_host_is_an_address(environment: pytest.MonkeyPatch, url: str, hosts: list[Any]) -> None:
    _use(environment, url)
    read = [_as_asyncpg_reads_it(address) for address in asyncpg_addresses()]
    assert [found for addresses, _ in read for found in addresses] == hosts
    assert {(parameters.user, parameters.password, parameters.database) for _, parameters in read} == {("u", "p", "d")}


def test_what_is_escaped_in_a_url_arrives_as_it_was(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://us%40er:p%2F%3A%25%20%2B%26%C3%A9@h/my%20d")
    _, read = _as_asyncpg_reads_it(asyncpg_addresses()[0])
    assert (read.user, read.password, read.database) == ("us@er", "p/:% +&é", "my d")


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_the_url_says_whether_to_encrypt(environment: pytest.MonkeyPatch, mode: str) -> None:
    _use(environment, f"postgres://u:p@h/d?sslmode={mode}")
    assert _as_asyncpg_reads_it(asyncpg_addresses()[0])[1].sslmode.name == mode


def test_the_systems_certificates_verify_the_server_and_its_name(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://u:p@h/d?sslmode=verify-full&sslrootcert=system")
    context = _as_asyncpg_reads_it(asyncpg_addresses()[0])[1].ssl
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_limits_are_ours_until_the_url_sets_its_own(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://u:p@h/d")
    (ours,) = asyncpg_addresses()
    assert ours["timeout"] == 5
    assert ours["server_settings"].keys() == {"options"}
    assert ours["server_settings"]["options"].startswith("-c statement_timeout=15000 ")
    _use(environment, "postgres://u:p@h/d?connect_timeout=2&options=-c%20search_path=x&application_name=web")
    (theirs,) = asyncpg_addresses()
    assert theirs["timeout"] == 2
    assert theirs["server_settings"]["options"] == ours["server_settings"]["options"] + " -c search_path=x"
    assert theirs["server_settings"]["application_name"] == "web"


@pytest.mark.parametrize("word", ["sslmod", "channel_binding", "hostaddr", "gssencmode", "prepare_threshold"])
def test_a_word_that_not_both_drivers_follow_is_refused_by_its_name(environment: pytest.MonkeyPatch, word: str) -> None:
    _use(environment, f"postgres://u:c4nary@h/d?sslmode=require&{word}=c4nary")
    with pytest.raises(SettingsError, match=f"^DATABASE_URL .*{word}$") as refusal:
        engine()
    assert "c4nary" not in str(refusal.value)


def test_a_socket_notices_a_cut_cable_as_libpqs_do(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://u:p@h/d?keepalives_idle=7")
    with socket.socket() as one:
        keep_alive(one)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 2
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    with socket.socket(socket.AF_UNIX) as local:
        keep_alive(local)
