"""The Stripe-Signature header, written from its description and not with the SDK that will check it."""

import hashlib
import hmac


def header(body: bytes, secrets: list[str], timestamp: int, *, livemode: bool) -> str:
    """One v1 for each secret; test mode also carries a v0, which means nothing."""
    signed = [f"v1={_hmac(body, secret, timestamp)}" for secret in secrets]
    if not livemode:
        signed.append(f"v0={_hmac(body, 'v0', timestamp)}")
    return ",".join([f"t={timestamp}", *signed])


def _hmac(body: bytes, secret: str, timestamp: int) -> str:
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
