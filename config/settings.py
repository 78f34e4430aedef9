"""Every environment variable this service reads: read once, validated, frozen."""

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# VerificationSession.VerifiedOutputs of stripe-python 16.1.0.
OUTPUT_NAMES = {
    "address",
    "dob",
    "email",
    "first_name",
    "id_number",
    "id_number_type",
    "last_name",
    "phone",
    "sex",
    "unparsed_place_of_birth",
    "unparsed_sex",
}


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and never shows a secret's value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The environment as values. Defaults are as the environment would spell them; README's table repeats them."""

    var_dir: Path = Path("var")
    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    stripe_webhook_secret: tuple[str, ...] = field(default=(), repr=False)
    stripe_api_key: str = field(default="", repr=False)
    stripe_api_base: str = "https://api.stripe.com"
    smtp_url: str = field(default="", repr=False)
    mail_from: str = "Identity verification <identity@localhost>"
    retry_url: str = ""
    email_lookup: str = ""
    review_email: str = ""
    submission_limit: int = 3
    app_callback_url: str = field(default="", repr=False)
    app_callback_secret: str = field(default="", repr=False)
    stripe_restricted_key: str = field(default="", repr=False)
    verified_outputs: tuple[str, ...] = ()
    verified_outputs_key: tuple[str, ...] = field(default=(), repr=False)
    verified_outputs_days: int = 30
    event_attempts: int = 8
    action_attempts: int = 100
    backoff_seconds: int = 60
    reconcile_seconds: int = 900
    retention_days: int = 30
    backlog_seconds: int = 300
    public_url: str = ""
    port: int = 8000
    log_format: str = "auto"
    log_level: str = "info"

    @property
    def embedded_database(self) -> bool:
        """Whether the SQLite file under VAR_DIR is in use because no DATABASE_URL is set."""
        return not self.database_url

    @property
    def sqlalchemy_url(self) -> str:
        """DATABASE_URL as SQLAlchemy wants it: Heroku says postgres://, and the driver is psycopg 3."""
        if self.embedded_database:
            return f"sqlite:///{(self.var_dir / 'identity.db').absolute()}"
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.database_url)

    @property
    def livemode(self) -> bool | None:
        """Whether STRIPE_API_KEY is for live mode; None without a key."""
        return self.stripe_api_key.partition("_")[2].startswith("live_") if self.stripe_api_key else None

    @property
    def base_url(self) -> str:
        """Where this service is reached: PUBLIC_URL, or this machine's own port."""
        return self.public_url or f"http://127.0.0.1:{self.port}"


def load(environ: Mapping[str, str]) -> Settings:
    """Settings from an environment; an empty variable counts as unset. Raises SettingsError for the first bad value."""
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        name = setting.name.upper()
        text = environ.get(name, "").strip()
        if text:
            values[setting.name] = _parse(name, text)
    loaded = Settings(**values)
    for name, needed in (
        ("APP_CALLBACK_URL", "APP_CALLBACK_SECRET"),
        ("VERIFIED_OUTPUTS", "VERIFIED_OUTPUTS_KEY"),
        ("VERIFIED_OUTPUTS", "STRIPE_RESTRICTED_KEY"),
    ):
        if getattr(loaded, name.lower()) and not getattr(loaded, needed.lower()):
            raise SettingsError(f"{name} is set, and needs {needed} to be set too")
    return loaded


@cache
def settings() -> Settings:
    """This process's settings."""
    return load(os.environ)


def _parse(name: str, text: str) -> Any:
    try:
        return _PARSERS[name](text)
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from None


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if _scheme(text) not in schemes:
            raise ValueError(f"must be a URL that starts with {', '.join(f'{s}:' for s in schemes)}")
        return text

    return parse


def _scheme(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port  # a password with a slash in it ends up here
        return parts.scheme
    except ValueError:  # its sentences quote the URL
        raise ValueError("is not a URL: reserved characters in a password are written as %2F") from None


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {text!r}")
        return text.lower()

    return parse


def _matching(pattern: str, sentence: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(sentence)
        return text

    return parse


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"whsec_[!-~]{8,}", secret) for secret in secrets) or not secrets:
        raise ValueError("must be one or several signing secrets that start with whsec_, separated by commas")
    return secrets


def _callback_secret(text: str) -> str:
    if not text.startswith("whsec_") or len(_decoded(text.removeprefix("whsec_"))) < 24:
        raise ValueError(
            "must be whsec_ and a key of 24 bytes or more in base64, as the Standard Webhooks scheme has it"
        )
    return text


def _output_names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if unknown := set(names) - OUTPUT_NAMES:
        raise ValueError(f"names {', '.join(sorted(unknown))}; known are {', '.join(sorted(OUTPUT_NAMES))}")
    return names


def _fernet_keys(text: str) -> tuple[str, ...]:
    keys = tuple(part.strip() for part in text.split(","))
    if not all(len(_decoded(key)) == 32 for key in keys):
        raise ValueError("must be one or several Fernet keys (32 bytes in URL-safe base64), the newest first")
    return keys


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(
            text + "=" * (-len(text) % 4), altchars="-_" if set("-_") & set(text) else None, validate=True
        )
    except ValueError:
        return b""


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


def _retry_url(text: str) -> str:
    if not re.fullmatch(r"([^{}]|{session_id}|{client_reference_id})*", text):
        raise ValueError("may only hold the placeholders {session_id} and {client_reference_id}")
    return _url("https", "http")(text)


_ADDRESS = _matching(r"[^\r\n]*[^\s<>@]+@[^\s<>@]+>?", "must be an address: Name <name@example.com>")

_PARSERS: dict[str, Callable[[str], Any]] = {
    "VAR_DIR": Path,
    "DATABASE_URL": _url("postgres", "postgresql", "sqlite"),
    "REDIS_URL": _url("redis", "rediss", "redis+socket", "memory"),
    "STRIPE_WEBHOOK_SECRET": _webhook_secrets,
    "STRIPE_API_KEY": _matching(r"[sr]k_(test|live)_\w+", "must be a secret or restricted key: sk_test_…, rk_live_…"),
    "STRIPE_API_BASE": _url("https", "http"),
    "SMTP_URL": _url("smtp", "smtps"),
    "MAIL_FROM": _ADDRESS,
    "RETRY_URL": _retry_url,
    "EMAIL_LOOKUP": _matching(r"[\w.]+:\w+", "must name a callable as package.module:function"),
    "REVIEW_EMAIL": _ADDRESS,
    "SUBMISSION_LIMIT": _whole(1, 1000),
    "APP_CALLBACK_URL": _url("https", "http"),
    "APP_CALLBACK_SECRET": _callback_secret,
    "STRIPE_RESTRICTED_KEY": _matching(r"rk_(test|live)_\w+", "must be a restricted key: rk_test_… or rk_live_…"),
    "VERIFIED_OUTPUTS": _output_names,
    "VERIFIED_OUTPUTS_KEY": _fernet_keys,
    "VERIFIED_OUTPUTS_DAYS": _whole(1, 3650),
    "EVENT_ATTEMPTS": _whole(1, 1000),
    "ACTION_ATTEMPTS": _whole(1, 10000),
    "BACKOFF_SECONDS": _whole(1, 86400),
    "RECONCILE_SECONDS": _whole(60, 86400),  # a run may take 15 s and 200 of Stripe's calls
    "RETENTION_DAYS": _whole(1, 3650),
    "BACKLOG_SECONDS": _whole(1, 86400),
    "PUBLIC_URL": _url("https", "http"),
    "PORT": _whole(1, 65535),
    "LOG_FORMAT": _one_of("auto", "console", "json"),
    "LOG_LEVEL": _one_of("debug", "info", "warning", "error"),
}
