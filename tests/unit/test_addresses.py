"""DATABASE_URL as both drivers read it, and the refusal of parts that only one would follow."""

import socket
import ssl
from typing import Any

import pytest
from asyncpg import connect_utils

from config import postgres
from config.database import engine
from config.postgres import asyncpg_addresses, keep_alive
from config.settings import SettingsError, settings
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
        ("postgres://u:p@h1:6432,h2:6433/d", [("h1", 6432), ("h2", 6433)]),
        ("postgres://u:p@h1,h2:6432/d?target_session_attrs=read-write", [("h1", 5432), ("h2", 6432)]),
        ("postgres://u:p@/d?host=h1,h2&port=6432,6433", [("h1", 6432), ("h2", 6433)]),
        ("postgres://u:p@/d?host=h1,h2&port=6432", [("h1", 6432), ("h2", 6432)]),
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
    assert (ours["timeout"], ours["server_settings"]) == (5, {"application_name": "identity command"})
    assert postgres._wanted()["statement_timeout"] == "15s"
    _use(environment, "postgres://u:p@h/d?connect_timeout=2&application_name=web&options=-c%20statement_timeout%3D7s")
    (theirs,) = asyncpg_addresses()
    assert (theirs["timeout"], theirs["server_settings"]) == (2, {"application_name": "web"})
    assert postgres.database_address()["connect_timeout"] == "2"
    assert postgres._wanted()["statement_timeout"] == "7s"
    assert postgres._wanted()["lock_timeout"] == "10s"


@pytest.mark.parametrize(
    "options",
    [
        "-csearch_path%3Da",
        "-c%20search_path=a",
        "--search_path=a",
        "--search-path=a",
        "-c%20geqo%3Doff%20-csearch_path=a",
    ],
)
def test_the_urls_own_options_are_set_beside_ours(environment: pytest.MonkeyPatch, options: str) -> None:
    _use(environment, f"postgres://u:p@h/d?options={options}&sslmode=require")
    assert postgres._wanted()["search_path"] == "a"
    assert postgres._wanted().keys() > postgres._OURS.keys()
    assert "set_config(E'search_path', E'a', false)" in postgres.setting([], 1)


def test_an_option_may_hold_spaces_and_signs(environment: pytest.MonkeyPatch) -> None:
    _use(environment, r"postgres://u:p@h/d?options=-csearch_path%3Da,\%20\"b'\\\"")
    assert postgres._wanted()["search_path"] == 'a, "b\'\\"'
    assert r"""E'search_path', E'a, "b''\\"',""" in postgres.setting([], 1)


@pytest.mark.parametrize(
    "options", ["-csynchronous_commit=off", "-cDateStyle=German", "-csearch_path=a -S", "search_path"]
)
def test_an_option_that_the_promise_or_the_drivers_could_not_bear_is_refused(
    environment: pytest.MonkeyPatch, options: str
) -> None:
    _use(environment, f"postgres://u:c4nary@h/d?options={options}")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL's options") as refusal:
        engine()
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGOPTIONS", "-c search_path=c4nary"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGREQUIREAUTH", "none"),
        ("PGSERVICE", "a"),
    ],
)
def test_what_libpqs_variables_say_to_one_driver_alone_is_refused(
    environment: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """By PGOPTIONS web would store events in one schema, and workers look for them in another."""
    _use(environment, "postgres://u:p@h/d")
    environment.setenv("PGPORT", "6432")  # both follow it
    environment.setenv("PGAPPNAME", "me")  # ours counts
    assert postgres.database_address()["host"] == "h"
    environment.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^not both drivers follow {variable}: ") as refusal:
        engine()
    assert "c4nary" not in str(refusal.value)


def test_what_is_said_twice_is_refused(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://u:c4nary@h/d?options=-csearch_path=a&sslmode=require&options=-cgeqo=off")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL names these more than once: options$"):
        engine()


def test_a_scheme_is_written_small(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "POSTGRES://u:c4nary@h/d")
    settings.cache_clear()
    with pytest.raises(SettingsError, match="must be a URL that starts with") as refusal:
        settings()
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres:",
        "postgres://u:c4nary@h/d?connect_timeout=c4nary",
        "postgres://h/%zzc4nary",
        "postgres://u:c4nary%FC@h/d",  # an ü in another encoding
        "postgres://h/d?password=a&c4nary",  # the password has the second sign, too
        "postgres://h/d?password=a&c4nary=b",
        "postgres://h/d?sslpassword=a&c4nary&c4nary",
    ],
)
def test_what_libpq_could_not_read_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    _use(environment, url)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL ") as refusal:
        engine()
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("sslmode=REQUIRE", "sslmode"),
        ("sslmode=c4nary", "sslmode"),
        ("target_session_attrs=Primary", "target_session_attrs"),
        ("ssl_min_protocol_version=TLSv9", "ssl_min_protocol_version"),
        ("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "invalid SSL protocol version range"),
        ("sslmode=require&sslrootcert=system", "sslmode, sslrootcert"),
        ("sslrootcert=/c4nary", r"sslrootcert \(there is no such file\)"),
    ],
)
def test_what_libpq_would_not_take_is_refused_by_its_name(
    environment: pytest.MonkeyPatch, values: str, words: str
) -> None:
    _use(environment, f"postgres://u:c4nary@h/d?{values}")
    with pytest.raises(SettingsError, match=f"^DATABASE_URL .* not take: {words}$") as refusal:
        postgres.database_address()
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize("place", ["h:99999", "h:0", "h:1,h:2:3"])
def test_a_port_that_there_is_not_is_refused(environment: pytest.MonkeyPatch, place: str) -> None:
    environment.setenv("DATABASE_URL", f"postgres://u:c4nary@{place}/d")
    settings.cache_clear()
    with pytest.raises(SettingsError, match="DATABASE_URL "):
        postgres.database_address()


def _rows(pid: int, **values: str) -> list[tuple[str, str, str, int]]:
    return [(name, value, value, pid) for name, value in {**postgres._OURS, **postgres._TIMEOUTS, **values}.items()]


def test_a_connection_is_set_to_what_it_is_not(environment: pytest.MonkeyPatch) -> None:
    _use(environment, "postgres://u:p@h/d")
    assert postgres.setting(_rows(1), 1) == "SELECT "
    assert postgres.setting(_rows(1, datestyle="German, DMY"), 1) == (
        "SELECT set_config(E'datestyle', E'ISO, MDY', false)"
    )
    assert postgres.setting(_rows(1, synchronous_commit="remote_apply"), 1) == "SELECT "  # it promises more


def test_behind_a_pooler_the_role_must_be_set_to_what_the_pooler_does_not_follow(
    environment: pytest.MonkeyPatch,
) -> None:
    _use(environment, "postgres://u:p@h/d")
    assert "datestyle" in postgres.setting(_rows(2, datestyle="German, DMY"), 1)
    assert postgres.setting(_rows(2, statement_timeout="0"), 1) == "SELECT "
    assert postgres.left_by_pooler(_rows(2, statement_timeout="0")) == ["statement_timeout"]
    with pytest.raises(SettingsError, match="ALTER ROLE CURRENT_USER SET synchronous_commit = 'on';"):
        postgres.setting(_rows(2, synchronous_commit="off"), 1)


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
