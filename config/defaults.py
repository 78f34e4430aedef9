"""Defaults for unset settings: the address of a Redis of our own, and secrets that are generated."""

import hashlib
import os
import re
import secrets
import tempfile
from pathlib import Path
from urllib.parse import quote

from config.settings import Settings, SettingsError

SOCKET_PATH_LIMIT = 100  # bytes; a unix socket's address holds 104 on macOS and 108 on Linux, with the closing zero


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The signing secrets to try. Without any, one is generated and kept, for the embedded database only; else
    SettingsError is raised.
    """
    if settings.stripe_webhook_secret:
        return tuple(secret.get_secret_value() for secret in settings.stripe_webhook_secret)
    if not settings.embedded_database:
        raise SettingsError(
            "STRIPE_WEBHOOK_SECRET is not set: python -m worker endpoint create prints it once, and until it is set "
            "every delivery gets 503"
        )
    return (_kept_secret(webhook_secret_path(settings.var_dir), "a webhook secret", r"whsec_[!-~]{8,}", "whsec_"),)


def lacks_webhook_secret(settings: Settings) -> bool:
    """Whether the webhook secret is missing, as at a first deploy: the service must run before its endpoint has one."""
    return not settings.stripe_webhook_secret and not settings.embedded_database


def webhook_secret_path(var_dir: Path) -> Path:
    """The file of the generated webhook secret."""
    return var_dir / "webhook_secret"


def link_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that sign links, the newest first; generated and kept as a webhook secret is. Empty: no links."""
    if settings.link_keys or not settings.embedded_database:
        return tuple(key.get_secret_value() for key in settings.link_keys)
    return (_kept_secret(settings.var_dir / "link_key", "a key for links", r"[!-~]{32,}"),)


def redis_url(var_dir: Path) -> str:
    """The embedded server's address, whether it runs or not."""
    return f"redis+socket://{quote(str(redis_socket(var_dir)))}"


def redis_socket(var_dir: Path) -> Path:
    """The embedded server's socket: under VAR_DIR, or under /tmp if that path would be too long."""
    path = var_dir.absolute() / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    # Not TMPDIR: it may differ between two shells, and on macOS it is long itself.
    return Path("/tmp") / f"identity-{os.getuid()}-{name}" / "redis.sock"  # noqa: S108  # worker/run/broker.py makes it ours


def _kept_secret(path: Path, what: str, pattern: str, prefix: str = "") -> str:
    try:
        secret = _kept(path, f"{prefix}{secrets.token_urlsafe(24)}\n")
    except OSError as error:
        raise SettingsError(f"VAR_DIR cannot keep {what}: {error.strerror} ({path})") from None
    if not re.fullmatch(pattern, secret):
        raise SettingsError(f"{path} does not hold {what}: delete it, and the next start makes a new one")
    return secret


def _kept(path: Path, new: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        with os.fdopen(descriptor, "w") as file:
            file.write(new)
        try:
            os.link(draft, path)  # appears whole, and fails if another process was faster
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return path.read_text().strip()
