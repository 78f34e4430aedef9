"""The server that REDIS_URL names, by itself or by its Sentinels; its trust, and why it cannot be used."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379, "sentinels": 26379}
_ENCRYPTED = ("rediss", "sentinels")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?")
_REQUIREMENTS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_WORDS = ("ssl_cert_reqs", "ssl_check_hostname", *_FILES)
_SENTINEL_WORDS = ("sentinel_username", "sentinel_password")
_OF_A_CLUSTER = "it is a node of a cluster, which splits our keys"
_HANGS_UP = "it hangs up: it starts, stops, or wants TLS (rediss:), or a certificate of ours (ssl_certfile)"
# Marks of redis-py's and kombu's errors, and their meaning; the first that is found counts.
_REASONS = {
    "certificate has expired": "its certificate has expired",
    "certificate is not yet valid": "its certificate is not valid yet",
    "mismatch, certificate is not valid": "its certificate is of another host",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted",
    "Authentication": "it refuses the password or the user",
    "NoPermission": "its user may not do what is needed",
    "EXEC without MULTI": "its user may not do what is needed",  # redis-py passes over the refusal of MULTI
    "ReadOnly": "it is a replica, which takes no messages",
    "NOREPLICAS": "it has fewer replicas than it must have to take messages",
    "MISCONF": "it cannot write to its disk, and so takes no messages",
    "OutOfMemory": "it is full",
    "max number of clients": "it has no connection free (maxclients): end what holds them, or take a larger plan",
    "BUSY": "it is busy with a script of somebody's",
    "BusyLoading": "it is still loading its data",
    "MovedError": _OF_A_CLUSTER,
    "ClusterCrossSlot": _OF_A_CLUSTER,
    "ClusterDown": _OF_A_CLUSTER,
    "WRONGTYPE": "one of our keys holds something else: delete it",
    "MasterNotFound": "no Sentinel that answers, and is trusted, names a master that is up",
    "MasterDown": "it is a replica, whose master is away",
    "DB index is out of range": "it has no database of that number",
    "in protected mode": "it is in its protected mode, and takes nobody from another machine",
    "InvalidResponse": "it does not speak as Redis does",
    "SSLEOFError": "it wants a certificate of ours (ssl_certfile)",
    "ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours (ssl_certfile)",
    "handshake operation timed out": "it does not speak TLS as we do",
    "[SSL": "it does not speak TLS as we do",
    "[X509": "a file of certificates that REDIS_URL names holds none",
    "LateNameError": "its name was not found in time",
    "gaierror": "its host's name cannot be found",
    "ConnectionResetError": _HANGS_UP,
    "BrokenPipeError": _HANGS_UP,
    "Connection closed by server": _HANGS_UP,
    "Timeout": "it does not answer in time",
    "ResponseError": "it refuses a command that is needed",
}


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Celery's settings; whether nobody else can pose as the server, as far as its URL promises TLS; and the reason."""

    settings: dict[str, Any]
    is_trusted: bool
    trust: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A server, its INFO, and the reason why it cannot be used."""

    server: RedisServer
    info: dict[str, Any]
    trouble: str | None


def read_redis_url(url: str, options: Mapping[str, Any], *, self_signed: bool) -> RedisServer:
    """Reads REDIS_URL. `options` are kombu's; `self_signed`: the platform signs its certificates itself.

    Raises ValueError, whose sentence never holds a part of the URL.
    """
    parts = _split(url)
    if parts.scheme == "redis+socket":
        return RedisServer(_settings(url, options, None), True, "by a socket of this machine")
    parameters = _parameters(parts)
    login, hosts = parts.netloc.rpartition("@")[::2]
    name, database = unquote(parts.path).strip("/"), parameters.get("db", "0")
    tls = _tls(parameters, self_signed=self_signed) if parts.scheme in _ENCRYPTED else None
    places = [_login(login) + _place(host, _PORTS[parts.scheme]) for host in hosts.split(",")]
    if parts.scheme.startswith("sentinel"):
        if not name:
            raise ValueError("needs the master's name in its path: sentinel://host:26379/mymaster")
        options = {**options, "master_name": name, "sentinel_kwargs": _to_sentinel(parameters, options, tls)}
    else:
        database = name or database
        if len(places) > 1:
            raise ValueError("may name several servers only with sentinel: or sentinels:")
    if not re.fullmatch(r"[0-9]{1,5}", database):
        raise ValueError("must name its database by a number")
    scheme = parts.scheme.replace("sentinels", "sentinel")  # kombu knows of TLS by its own setting
    broker_url = ";".join(f"{scheme}://{place}/{database}" for place in places)
    return RedisServer(_settings(broker_url, options, tls), *_trust(parameters, tls))


def why_unusable(error: BaseException) -> str:
    """The reason why the server could not be used, in words of ours: foreign ones may quote an address."""
    said = ""
    link: BaseException | None = error
    while link is not None:
        said += f"{type(link).__name__} {link} "
        link = link.__cause__ or link.__context__
    return next((reason for mark, reason in _REASONS.items() if mark in said), "it cannot be reached")


def _settings(broker_url: str, options: Mapping[str, Any], tls: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"broker_url": broker_url, "broker_transport_options": options, "broker_use_ssl": tls}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its sentences quote the URL
        raise ValueError("is not a URL: reserved characters in a password are written as %2F") from None
    if parts.scheme not in (*_PORTS, "redis+socket"):
        raise ValueError(f"must be a URL that starts with {', '.join(f'{scheme}:' for scheme in _PORTS)}")
    return parts


def _parameters(parts: SplitResult) -> dict[str, str]:
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = ["db", *(_TLS_WORDS if parts.scheme in _ENCRYPTED else ())]
    known += _SENTINEL_WORDS if parts.scheme.startswith("sentinel") else ()
    if parts.fragment or not parameters.keys() <= set(known):
        raise ValueError(f"may say after its ? only {', '.join(known)}")
    return parameters


def _login(login: str) -> str:
    user, _, password = login.partition(":")
    return f"{quote(unquote(user), safe='')}:{quote(unquote(password), safe='')}@" if login else ""


def _place(host: str, usual_port: int) -> str:
    found = _HOST.fullmatch(host)
    if not found or not 0 < int(found[2] or usual_port) < 65536:
        raise ValueError("needs a host and a port: reserved characters in a password are written as %2F")
    return f"{found[1]}:{found[2] or usual_port}"


def _tls(parameters: Mapping[str, str], *, self_signed: bool) -> dict[str, Any]:
    required = parameters.get("ssl_cert_reqs", "none" if self_signed else "required").lower().removeprefix("cert_")
    by_name = parameters.get("ssl_check_hostname", "true").lower()
    if required not in _REQUIREMENTS or by_name not in ("true", "false"):
        raise ValueError("takes none, optional or required for ssl_cert_reqs, true or false for ssl_check_hostname")
    files = {word: parameters[word] for word in _FILES if word in parameters}
    if not all(Path(file).is_file() for file in files.values()):
        raise ValueError(f"names a file that is not there, in {', '.join(files)}")
    return {"ssl_cert_reqs": _REQUIREMENTS[required], "ssl_check_hostname": by_name == "true", **files}


def _to_sentinel(
    parameters: Mapping[str, str], options: Mapping[str, Any], tls: Mapping[str, Any] | None
) -> dict[str, Any]:
    sockets = {name: value for name, value in options.items() if name.startswith("socket_")}
    login = {word.removeprefix("sentinel_"): parameters[word] for word in _SENTINEL_WORDS if word in parameters}
    # A silent one is not tried again: there are others.
    return {**sockets, **login, **({} if tls is None else {"ssl": True, **tls}), "retry": None}


def _trust(parameters: Mapping[str, str], tls: Mapping[str, Any] | None) -> tuple[bool, str]:
    if tls is None:
        return True, "without TLS"
    if tls["ssl_cert_reqs"] != ssl.CERT_NONE:
        return True, "by TLS, verifying its certificate"
    if "ssl_cert_reqs" in parameters:
        return False, "by TLS, but its certificate is not verified, as REDIS_URL says"
    return False, "by TLS, but its certificate is not verified, as this platform signs its own"
