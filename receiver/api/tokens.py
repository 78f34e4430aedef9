"""Bearer tokens: the name of a token's holder, by comparing digests in constant time."""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from pydantic import SecretStr

from handlers.metrics.counting import API_REQUESTS
from handlers.operator import tokens

_LEAST = 32  # characters, of each of API_TOKENS: what is shorter is no token that somebody has mistaken


def digests(given: Iterable[SecretStr]) -> list[tuple[str, bytes]]:
    """Names and digests of API_TOKENS, made once: digests have one length, and are no secrets by themselves."""
    parts = [token.get_secret_value().partition(":") for token in given]
    return [(name, sha256(secret.encode()).digest()) for name, _, secret in parts]


def holder(known: Iterable[tuple[str, bytes]], authorization: str | None) -> str | None:
    """The name of the token in an Authorization header; None for none of ours. Every token is compared, always."""
    scheme, _, given = (authorization or "").partition(" ")
    digest = sha256(given.strip().encode(errors="surrogateescape")).digest()
    names = [name for name, expected in known if hmac.compare_digest(digest, expected)]
    if names and scheme.lower() == "bearer":
        API_REQUESTS.labels("accepted").inc()
        tokens.accepted(names[0], digest)
        return names[0]
    if len(given.strip()) >= _LEAST:
        API_REQUESTS.labels("refused").inc()
        tokens.note_unknown_token(digest)
    return None
