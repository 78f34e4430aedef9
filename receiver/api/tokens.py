"""Bearer tokens: the name of a token's holder, by comparing digests in constant time."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from pydantic import SecretStr


def digests(tokens: Iterable[SecretStr]) -> list[tuple[str, bytes]]:
    """Names and digests of API_TOKENS, made once: digests have one length, and are no secrets by themselves."""
    parts = [token.get_secret_value().partition(":") for token in tokens]
    return [(name, sha256(secret.encode()).digest()) for name, _, secret in parts]


def holder(known: Iterable[tuple[str, bytes]], authorization: str | None) -> str | None:
    """The name of the token in an Authorization header; None for none of ours. Every token is compared, always."""
    scheme, _, given = (authorization or "").partition(" ")
    digest = sha256(given.strip().encode(errors="surrogateescape")).digest()
    names = [name for name, expected in known if hmac.compare_digest(digest, expected)]
    return names[0] if names and scheme.lower() == "bearer" else None
