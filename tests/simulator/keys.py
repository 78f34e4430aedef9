"""API keys: any well-formed one is good, its prefix says the mode; some can be revoked or limited on request."""

import base64
import binascii
import re
from dataclasses import dataclass, field

from tests.simulator import errors

FORM = re.compile(r"(sk|rk)_(test|live)_\w{4,}")


@dataclass(slots=True)
class Keys:
    """Restricted keys may do everything until their permissions are set."""

    permissions: dict[str, set[str]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    without_account: set[str] = field(default_factory=set)  # connected accounts no key reaches

    def reset(self) -> None:
        for known in (self.permissions, self.revoked, self.without_account):
            known.clear()

    def authenticate(self, authorization: str | None) -> str:
        """The key of a Bearer or Basic header; raises ApiError 401 or 403."""
        key = _key_in(authorization)
        if key.startswith("pk_"):
            raise errors.publishable_key()
        if not FORM.fullmatch(key):
            raise errors.invalid_api_key(key)
        if key in self.revoked:
            raise errors.expired_api_key(key)
        return key

    def require(self, key: str, account: str, permission: str) -> None:
        if not self.allows(key, permission):
            raise errors.missing_permission(key, account, f"rak_{permission}")

    def allows(self, key: str, permission: str) -> bool:
        return not is_restricted(key) or key not in self.permissions or permission in self.permissions[key]


def is_restricted(key: str) -> bool:
    return key.startswith("rk_")


def is_live(key: str) -> bool:
    return key[3:7] == "live"


def _key_in(authorization: str | None) -> str:
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        try:
            user = base64.b64decode(value, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            user = ""
        if user:
            return user
    raise errors.no_api_key()
