"""The sender of a request, as far as it can be believed: the connection's other end, or the word of trusted proxies."""

from ipaddress import IPv6Address, ip_address

from starlette.types import Scope

# The beginnings of the names of headers that proxies add, in ASGI's spelling.
_ADDED_BY_PROXIES = (
    *(b"x-forwarded", b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip"),
    *(b"x-original-", b"x-envoy-", b"x-amzn-", b"x-azure-", b"cf-", b"fastly-", b"fly-"),
)


def as_sent(scope: Scope, proxies: int) -> Scope:
    """The scope with the sender's own address (None if unknown) and scheme, for so many proxies before us.

    Each proxy adds the address that it saw at the right: entries further left may be made up by the sender.
    """
    added = [(name, value) for name, value in scope["headers"] if name.startswith(_ADDED_BY_PROXIES)]
    if not added:
        return scope
    addresses, schemes = _entries(added, b"x-forwarded-for"), _entries(added, b"x-forwarded-proto")
    # rule: only a trusted proxy's word names the sender
    client = (_without_port(addresses[-proxies]), 0) if 0 < proxies <= len(addresses) else None
    # A proxy on another machine has loopback neighbours of its own; and more entries mean a proxy more than we count.
    if _is_loopback(client) and (len(addresses) > proxies or not _is_loopback(scope["client"])):
        client = None
    # Some proxies add their scheme to the others, and some put it in their place.
    scheme = schemes[-min(proxies, len(schemes))].lower() if proxies and schemes else ""
    return {**scope, "client": client, "scheme": scheme if scheme in ("http", "https") else scope["scheme"]}


def is_this_machine(scope: Scope) -> bool:
    """Whether a request, as it was sent, comes from a process beside this one."""
    return _is_loopback(scope["client"])


def _is_loopback(client: tuple[str, int] | None) -> bool:
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _entries(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    listed = b",".join(value for name, value in headers if name == wanted).decode("latin-1")
    return [entry.strip() for entry in listed.split(",") if entry.strip()]


def _without_port(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
