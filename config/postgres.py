"""DATABASE_URL as libpq reads it, for both drivers; and the settings of every connection, written and read back."""

import re
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from ctypes import CDLL, c_void_p
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

from config.settings import SettingsError, settings

OUR_NAME = "identity"  # begins the name by which the server shows our connections
_LIBPQ = CDLL(sys.modules[pq.PGconn.__module__].__file__)  # the one that psycopg brings along
_kind = "command"
# In libpq's words, for those that DATABASE_URL leaves open.
_DEFAULTS = {
    "connect_timeout": "5",
    # A cut cable is noticed in about 10 s instead of the kernel's two hours.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# The words that asyncpg takes from a URL as libpq does; it would send any other to the server as a setting.
_IN_ASYNCPGS_URL = (
    *("user", "password", "passfile", "dbname", "target_session_attrs", "sslmode", "sslnegotiation", "sslcert"),
    *("sslkey", "sslpassword", "sslrootcert", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"),
)
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
# asyncpg speaks UTF-8 with any client_encoding, and so the texts are the same.
_WORDS = {*_IN_ASYNCPGS_URL, *_DEFAULTS, "host", "port", "application_name", "options", "client_encoding"}

# A role, a database or a server may have other values, and a pooler drops those sent at the start of a connection. So
# each connection is set to these once it stands: the drivers read moments, and the promise rests on the commit.
_OURS = {
    "datestyle": "ISO, MDY",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
}
# Shorter than every lease, so that a stuck statement ends before somebody else takes the work over.
_TIMEOUTS = {"statement_timeout": "15s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s"}
# Of servers that know them: an idle connection is ours to give back, and our own bounds end what takes long.
_OF_NEWER_SERVERS = {"idle_session_timeout": "0", "transaction_timeout": "0"}
# PgBouncer sets these on the server's connection that a transaction gets.
_FOLLOWED_BY_POOLERS = ("datestyle", "timezone", "client_encoding", "standard_conforming_strings")
_ENCODING = "server_encoding"  # chosen when the database was made
_OPTION = re.compile(r"\s*(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)\s*")
# The code in a refusal to connect, behind its severity, whose word depends on the server's language.
_CODE = re.compile(":  ([0-9A-Z]{5}): ")
# PgBouncer gives all that it and the server refuse one code of its own.
_FULL = re.compile(
    ":  53300: |too many (clients|connections)|connection slots are reserved|no more connections allowed"
)
_VERBOSE = 2  # PQERRORS_VERBOSE


def database_address() -> dict[str, str]:
    """DATABASE_URL in libpq's words, with our defaults for those that it leaves open; psycopg takes it as it is.

    Raises SettingsError if one of web's two drivers would not do as the URL says.
    """
    said = _said()
    if beside := _said_beside():
        raise SettingsError(f"not both drivers follow {beside}: leave it out, and say it in DATABASE_URL if you can")
    if refused := _refused(said):
        raise SettingsError(f"DATABASE_URL has values that PostgreSQL's own programs would not take: {refused}")
    named = {**_DEFAULTS, "application_name": f"{OUR_NAME} {_kind}"}
    return {**named, **{word: said[word] for word in said if word not in ("options", "client_encoding")}}


def name_connections(kind: str) -> None:
    """Names this process's connections by its kind, so that the server shows who holds them; before the first."""
    global _kind
    _kind = kind


def asyncpg_addresses() -> list[dict[str, Any]]:
    """The arguments of asyncpg.connect, host by host: in one list the first host could use up the others' time."""
    parameters = database_address()
    hosts, ports = (parameters.get(word, "").split(",") for word in ("host", "port"))
    said = {word: parameters[word] for word in _IN_ASYNCPGS_URL if word in parameters}
    for_all = {
        "dsn": f"postgresql://?{urlencode(said)}",
        "ssl": True if said.get("sslrootcert") == "system" else None,  # asyncpg would take the word for a file
        "server_settings": {"application_name": parameters["application_name"]},
        "timeout": int(parameters["connect_timeout"]) or None,
        "statement_cache_size": 0,  # behind a pooler its names mean other statements
    }
    return [
        {**for_all, "host": host or None, "port": port or None} for host, port in zip(hosts, cycle(ports), strict=False)
    ]


def keep_alive(connection: socket.socket) -> None:
    """Sets a socket's keepalive options, as libpq does with its own sockets."""
    if connection.family == socket.AF_UNIX:
        return
    parameters = database_address()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for word, option in _SOCKET_OPTIONS.items():
        if hasattr(socket, option):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), int(parameters[word]))


def settings_query() -> str:
    """The statement that reads a connection's settings, for `setting`."""
    names = ", ".join(_literal(name) for name in (*_wanted(), _ENCODING))
    return f"SELECT lower(name), setting, reset_val, pg_backend_pid() FROM pg_settings WHERE lower(name) IN ({names})"  # noqa: S608


def setting(rows: Sequence[Sequence[Any]], backend_pid: int) -> str:
    """The statement that gives a connection the wanted settings, by the answer to `reading`.

    If another server process answers than the one we were connected to, a pooler is between, and a setting may be lost
    at the next transaction: only those that the pooler follows, or that the role has, hold there. Raises SettingsError
    if they are not enough.
    """
    wanted, now = _wanted(), {name: value for name, value, *_ in rows}
    if now.get(_ENCODING, "UTF8") != "UTF8":
        lacks = f"a database in {now[_ENCODING]}, which lacks letters"
        raise SettingsError(f"DATABASE_URL leads to {lacks}: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")
    if is_pooled(rows, backend_pid):
        if lost := [name for name in left_by_pooler(rows) if name not in _TIMEOUTS]:
            raise SettingsError(f"DATABASE_URL leads to a pooler that keeps no settings: {asked_of_role(lost)}")
        wanted = {name: wanted[name] for name in _FOLLOWED_BY_POOLERS}
    calls = [
        f"set_config({_literal(name)}, {_literal(value)}, false)"
        for name, value in wanted.items()
        if not _fits(name, now.get(name), value) and (name in now or name not in _OF_NEWER_SERVERS)
    ]
    return f"SELECT {', '.join(calls)}"


def not_taken() -> SettingsError:
    """The error for a server that refuses `setting`: it takes our values everywhere, so the URL's options are wrong."""
    return SettingsError(
        f"the server does not take what DATABASE_URL's options ask for: {', '.join(sorted(_options(_said())))}"
    )


def is_pooled(rows: Sequence[Sequence[Any]], backend_pid: int) -> bool:
    """Whether there is a pooler, by the answer to `reading`."""
    return any(pid != backend_pid for *_, pid in rows)


def statement_seconds(rows: Sequence[Sequence[Any]], backend_pid: int) -> float | None:
    """The seconds after which the server ends a statement, by the answer to `reading`; None if we do not know them."""
    if is_pooled(rows, backend_pid):
        return next(int(reset) / 1000 or None for name, _, reset, _ in rows if name == "statement_timeout")
    ours = _TIMEOUTS["statement_timeout"]
    return float(ours.removesuffix("s")) if _wanted()["statement_timeout"] == ours else None


def left_by_pooler(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The settings that a pooler does not follow, and the role does not have; any bound of time will do there."""
    kept, wanted = {name: reset for name, _, reset, _ in rows}, _wanted()
    asked = [name for name in wanted if name not in _OF_NEWER_SERVERS]
    bad = [name for name in asked if not _fits(name, kept.get(name), wanted[name])]
    return [name for name in bad if name not in _FOLLOWED_BY_POOLERS and not (name in _TIMEOUTS and kept[name] != "0")]


def asked_of_role(names: Sequence[str]) -> str:
    """The statements that give the role these settings."""
    return " ".join(f"ALTER ROLE CURRENT_USER SET {name} = '{_wanted()[name]}';" for name in names)


def say_codes(attempt: PGconn) -> None:
    """Has libpq write the code into the sentence of a refusal: psycopg hands on nothing else of it."""
    _LIBPQ.PQsetErrorVerbosity(c_void_p(attempt.pgconn_ptr), _VERBOSE)  # type: ignore[attr-defined]  # its protocol lacks it


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE of an error of a driver's; of several hosts' refusals to connect the last one's that has any."""
    if found := getattr(error, "sqlstate", None) or _CODE.search(str(error)):
        return found if isinstance(found, str) else found[1]
    return None


def is_full(error: Exception) -> bool:
    """Whether the server, or a pooler before it, has no connection free."""
    return getattr(error, "sqlstate", None) == "53300" or bool(_FULL.search(str(error)))


def _wanted() -> dict[str, str]:
    return {**_TIMEOUTS, **_OF_NEWER_SERVERS, **_OURS, **_options(_said())}


def _said() -> dict[str, str]:
    base, mark, query = settings().database_url.get_secret_value().partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    words = Counter(word for word, _, _ in pairs)
    if twice := {word for word, times in words.items() if times > 1} & _WORDS:
        raise SettingsError(f"DATABASE_URL names these more than once: {', '.join(sorted(twice))}")
    # `options=-c search_path=x` is often written so, and libpq wants the space and the second sign escaped.
    escaped = "&".join(f"{word}{sign}{value.replace('=', '%3D').replace(' ', '%20')}" for word, sign, value in pairs)
    try:
        said = {word: str(value) for word, value in conninfo_to_dict(f"{base}{mark}{escaped}").items()}
        unknown = said.keys() - _WORDS
    except UnicodeDecodeError:
        # Its own words quote the URL.
        raise SettingsError("DATABASE_URL holds percent signs that are no UTF-8: an ü is written as %C3%BC") from None
    except ProgrammingError:
        said, unknown = {}, words.keys() - _WORDS
        # The rest of such a password is among the words.
        if unknown and {"password", "sslpassword"} & words.keys():
            unread = "parameters that libpq does not know, or a password with an &, which is written as %26"
            raise SettingsError(f"DATABASE_URL names {unread}") from None
    if unknown:
        raise SettingsError(
            f"DATABASE_URL names parameters that cannot be followed here; leave them out: {', '.join(sorted(unknown))}"
        )
    if not said or any(not re.fullmatch(r"[0-9]{1,9}", said.get(word, "0")) for word in _DEFAULTS):
        raise SettingsError("DATABASE_URL cannot be read as PostgreSQL's own programs would read it")
    _options(said)
    return said


def _said_beside() -> str:
    """The variables of libpq's own that would lead psycopg elsewhere than asyncpg, such as PGOPTIONS."""
    followed = _WORDS - {"options"}
    words = [word for word in pq.Conninfo.get_defaults() if word.val != word.compiled]
    return ", ".join((one.envvar or one.keyword).decode() for one in words if one.keyword.decode() not in followed)


def _refused(said: dict[str, str]) -> str:
    """The words whose values libpq refuses, which it does before it connects."""
    if lost := [word for word in _FILES if said.get(word, "system") != "system" and not Path(said[word]).is_file()]:
        return f"{', '.join(lost)} (there is no such file)"
    nowhere = {"host": ",".join("/" for _ in said.get("host", "").split(","))}
    attempt = pq.PGconn.connect_start(make_conninfo(**{**said, **nowhere}).encode())
    sentence = attempt.get_error_message().partition(":")[0]  # the rest quotes the value
    attempt.finish()
    if sentence.startswith("connection to server"):  # libpq took them, and found no server there
        return ""
    return ", ".join(word for word in said if re.search(rf"\b{word}\b", sentence)) or sentence


def _options(said: dict[str, str]) -> dict[str, str]:
    text, place, found = said.get("options", ""), 0, dict[str, str]()
    while place < len(text):
        option = _OPTION.match(text, place)
        if not option:
            raise SettingsError("DATABASE_URL's options may only set what the server knows by name: -c name=value")
        found[option[1].lower().replace("-", "_")], place = re.sub(r"\\(.)", r"\1", option[2]), option.end()
    if contradicted := [name for name in found if name in _OURS and not _fits(name, found[name], _OURS[name])]:
        raise SettingsError(f"DATABASE_URL's options may not change these; leave them out: {', '.join(contradicted)}")
    return found


def _fits(name: str, value: str | None, wanted: str) -> bool:
    if name == "synchronous_commit" and value == "remote_apply":  # more than we ask for
        return True
    return value is not None and _spelled(value) == _spelled(wanted)


def _spelled(value: str) -> str:
    return re.sub(r"[\s\"']", "", value).lower()


def _literal(text: str) -> str:
    # Valid with any standard_conforming_strings.
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
