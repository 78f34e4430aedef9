"""The users of the console, and the check of their passwords."""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import scrypt, sha256
from unicodedata import normalize

from config.settings import settings

USER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SALT_BYTES, _KEY_BYTES = 16, 32  # 64 letters of base64 together, which need no padding
_COST, _BLOCK = 2**14, 8  # 16 MiB, as much as a web process can spare: 128 bytes times both


class Role(StrEnum):
    """The rights of a user."""

    LOOK = "look"
    MEND = "mend"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One of CONSOLE_USERS."""

    name: str
    role: Role
    password_hash: str = field(repr=False)

    @property
    def proof(self) -> str:
        """A digest of role and password: another one after each change of them."""
        return sha256(f"{self.role}:{self.password_hash}".encode()).hexdigest()[:32]


_NOBODY = User(name="", role=Role.LOOK, password_hash="A" * 64)


def user_named(name: str) -> User | None:
    """The user who has this name now."""
    return next((user for user in _users() if user.name == name), None)


def judge(name: str, password: str) -> User | None:
    """The user with this name and password; a name that nobody has takes as long, and as much memory."""
    user = user_named(name) or _NOBODY
    kept = urlsafe_b64decode(user.password_hash)
    is_right = hmac.compare_digest(_key(password, kept[:_SALT_BYTES]), kept[_SALT_BYTES:])
    return user if is_right and user is not _NOBODY else None


def hash_of(password: str) -> str:
    """A password's hash for CONSOLE_USERS: without comma and dollar sign, which would not survive an environment."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return urlsafe_b64encode(salt + _key(password, salt)).decode()


def _key(password: str, salt: bytes) -> bytes:
    letters = normalize("NFKC", password).encode(errors="surrogatepass")  # as two keyboards may write them
    return scrypt(letters, salt=salt, n=_COST, r=_BLOCK, p=1, dklen=_KEY_BYTES)


def _users() -> Iterator[User]:
    for one in settings().console_users:
        name, role, password_hash = one.get_secret_value().split(":")
        yield User(name=name, role=Role(role), password_hash=password_hash)
